# SPDX-License-Identifier: GPL-3.0-or-later
"""Send what is in the outbox: in order per run, several runs at once, each message at least once with one id.

A message is marked as sent after the broker has confirmed it. Whoever is killed between the two sends it again, with
the same id; so do two that send at once. The messages of a run then come again from some place on, so whoever drops
repeats sees them in their order.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import groupby

import structlog

from relengq.announcements import backlog
from relengq.database import Database
from relengq.errors import BusUnavailable, DatabaseUnavailable, MessageFault, MessageRejected
from relengq.models import Announcement

Publish = Callable[[Announcement], None]
"""Sends one. Raises BusUnavailable, MessageRejected or MessageFault."""

_AT_ONCE = 4
"""Threads that publish."""
_BATCH = 100
_IDLE_SECONDS = 0.5
"""How often the outbox is looked at when it was empty."""
_TROUBLE_SECONDS = 2.0
_AWAY_SECONDS = 5.0
"""How often one message is tried while the bus is away."""
_STOP_SECONDS = 3.0
_FORGET_SECONDS = 600.0
_log = structlog.get_logger(__name__)


class Announcer:
    """A thread that empties the outbox, from ``start`` to ``stop``, any number of times.

    A bus that is away is said once, and one message is tried every few seconds until it is back. What the broker does
    not take is tried again later and later; meanwhile only its own run waits.
    """

    def __init__(self, database: Database, publish: Publish) -> None:
        self._database = database
        self._publish = publish
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._away = False
        self._confirmed: deque[int] = deque()
        """Sent, and still to be marked."""
        self._failed: deque[tuple[int, Exception]] = deque()
        self._cut = threading.Event()
        """Whether the bus went away in this round."""
        self._forget_at = 0.0

    def start(self) -> None:
        """Begin, unless it has begun, or has been stopped and is still about to end: then come again."""
        if self._thread is None or not self._thread.is_alive():
            self._over = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._over,), name="announcer", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End, after what is being sent; a message that the bus keeps waiting is left to be sent again."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def _run(self, over: threading.Event) -> None:
        while not over.is_set():
            try:
                pause = self.round(over)
            except DatabaseUnavailable:  # the clock says so
                pause = _TROUBLE_SECONDS
            except Exception:
                _log.exception("announcer.fault")
                pause = _AWAY_SECONDS
            over.wait(pause)

    def round(self, over: threading.Event) -> float:
        """Send what may be sent now, up to a batch. Returns after how many seconds to come again."""
        self._mark()
        with self._database.read() as session:
            due = backlog.next_due(session, self._database.now(session), 1 if self._away else _BATCH)
        if not due:
            self._forget()
            return _AWAY_SECONDS if self._away else _IDLE_SECONDS
        of_runs = groupby(sorted(due), key=lambda each: each[0])
        work = deque(sorted(([item for _, item in items] for _, items in of_runs), key=lambda ids: ids[0]))
        self._cut.clear()
        others = [
            threading.Thread(target=self._work, args=(work, over), name="announcer", daemon=True)
            for _ in range(min(_AT_ONCE, len(work)) - 1)
        ]
        for each in others:
            each.start()
        self._work(work, over)
        for each in others:
            each.join()
        sent = len(self._confirmed)
        self._mark()
        return _AWAY_SECONDS if self._away and not sent else 0.0

    def _work(self, work: deque[list[int]], over: threading.Event) -> None:
        """Send the messages of one run after the other's, until there are none or the bus is away."""
        while not (over.is_set() or self._cut.is_set()):
            try:
                ids = work.popleft()
            except IndexError:
                return
            for announcement_id in ids:
                if over.is_set() or self._cut.is_set() or not self._send(announcement_id):
                    break

    def _send(self, announcement_id: int) -> bool:
        """Send one; returns whether the next one of its run may follow."""
        try:
            with self._database.read() as session:
                row = session.get(Announcement, announcement_id)
            if row is not None and row.sent_at is None:
                self._publish(row)
                self._confirmed.append(announcement_id)
        except DatabaseUnavailable:
            return False
        except Exception as error:
            self._failed.append((announcement_id, error))
            if isinstance(error, BusUnavailable):
                self._cut.set()
            return isinstance(error, MessageFault)
        return True

    def _mark(self) -> None:
        """Store how it went. What cannot be stored now is stored before anything else is sent."""
        confirmed, failed = list(self._confirmed), list(self._failed)
        if confirmed or failed:
            away = not confirmed and any(isinstance(error, BusUnavailable) for _, error in failed)
            back = self._away and bool(confirmed)
            with self._database.write() as session:
                now = self._database.now(session)
                backlog.mark_sent(session, confirmed, now)
                for announcement_id, error in failed:
                    if isinstance(error, MessageFault):
                        backlog.mark_refused(session, announcement_id, str(error), now)
                    else:
                        own = not isinstance(error, BusUnavailable)
                        backlog.mark_failed(session, announcement_id, _told(error), now, own=own)
                if back:
                    backlog.release(session, now)
            self._confirmed.clear()
            self._failed.clear()
            self._say(failed, away=away, back=back)

    def _say(self, failed: Iterable[tuple[int, Exception]], *, away: bool, back: bool) -> None:
        """Log what happened; that the bus is away and that it is back each once.

        Why a message was not taken stands in its row: topic and body may have values of inputs.
        """
        for announcement_id, error in failed:
            if isinstance(error, MessageFault):
                _log.error("announcement.refused", announcement=announcement_id, fault=type(error).__name__)
            elif not isinstance(error, BusUnavailable):
                _log.warning("announcement.not_taken", announcement=announcement_id, fault=type(error).__name__)
            elif away and not self._away:
                self._away = True
                _log.warning("bus.away", error=str(error))
        if back:
            self._away = False
            _log.info("bus.back")

    def _forget(self) -> None:
        """Delete what was sent long ago, now and then."""
        if time.monotonic() >= self._forget_at:
            with self._database.write() as session:
                more = backlog.forget(session, self._database.now(session))
            self._forget_at = time.monotonic() + (_IDLE_SECONDS if more else _FORGET_SECONDS)


def _told(error: Exception) -> str:
    known = isinstance(error, BusUnavailable | MessageRejected)
    return str(error) if known else f"{type(error).__name__}: {error}"
