# SPDX-License-Identifier: GPL-3.0-or-later
"""The listener: messages of the bus start runs and end waits.

``Listener`` is a callback class for the stock consumer, ``fedora-messaging consume
--callback=relengq.listener:Listener``, and what ``relengq listen`` runs. A batch of messages is dealt with in one
transaction and acknowledged after its commit; while the database is away nothing is acknowledged, so messages stay on
the broker, in order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import structlog
from sqlalchemy import event
from sqlalchemy.orm import Session

from relengq import records
from relengq.bus import configuration
from relengq.bus.bindings import Bindings, uncovered
from relengq.bus.configuration import BusFile
from relengq.bus.consumer import Taker, install
from relengq.bus.schemas import Schemas
from relengq.engine.installation import Installation, current
from relengq.engine.intake import Intake, Receipt
from relengq.errors import RelengqError, Unavailable
from relengq.health import alive
from relengq.listener.counts import Counts, ListenerRow
from relengq.messages import Message
from relengq.workflows import WaitForStep

_FIRST_DELAY, _LONGEST_DELAY = 1.0, 30.0
"""Seconds between two tries of a batch that could not be taken."""
_TICK_SECONDS = 1.0
_SEEN_SECONDS = 5.0
"""How often the listener says that it is there, also when no message comes."""
_LOOK_SECONDS = 3.0
"""How often it looks whether other topics are wanted."""

_log = structlog.get_logger(__name__)


class Listener(Taker):
    """One process that takes messages from the bus for an installation.

    Without arguments it is the callback of the stock consumer, whose configuration file makes queue and bindings.
    """

    def __init__(self, installation: Installation | None = None, file: BusFile | None = None) -> None:
        stock = installation is None
        self._installation, self._file = (installation, file) if installation else _of_stock_consumer()
        self._intake = Intake(self._installation, Schemas().validate)
        self._topics = Intake(self._installation)  # of the pulse's own: one serves one thread
        self._row = ListenerRow(self._installation.database)
        self._counts = Counts()
        self._counting = threading.Lock()
        self._turn = threading.Lock()
        self._over = threading.Event()
        self._closed = threading.Event()
        self._news = threading.Event()
        self._troubles = {"bus": f"no messages since {_clock()}: not connected yet"}
        self._wanted: frozenset[str] = frozenset()
        self._pulse = threading.Thread(target=self._beat, name="listener-pulse", daemon=True)
        if stock:
            install(self)
            self.start()

    def bind(self, queue: str, exchange: str) -> None:
        """Have the queue get what the site wants from the exchange, now and whenever that changes."""
        self.bindings = Bindings(queue, exchange, lambda reason: self._trouble("bindings", reason))

    def start(self) -> None:
        """Look which topics are wanted, and go on looking, and saying that it is there.

        Raises what a site raises that cannot be read at all.
        """
        self._look()
        self._pulse.start()

    # --- what the bus calls

    def take(self, batch: Sequence[Message], stale: Callable[[], bool]) -> bool:
        """Take all of them in one transaction; wait for a database that is away. False: not taken."""
        with self._turn:
            delay = _FIRST_DELAY
            while not (self._over.is_set() or stale()):
                try:
                    self._commit(batch)
                except Unavailable as error:
                    self._say_away(error)
                except Exception as error:
                    # Of one message the intake sees to it; this one has to do with more than the messages.
                    _log.exception("listener.fault", messages=len(batch))
                    self._trouble("fault", f"a bug in relengq, {type(error).__name__}; its log has the traceback")
                else:
                    self._say_back()
                    return True
                self._pause(delay, stale)
                delay = min(delay * 2, _LONGEST_DELAY)
        return False

    def listening(self, queue: str) -> None:
        """Messages come from now on."""
        self._row.queue = queue
        self._trouble("bus", None)
        _log.info("bus.listening", queue=queue)

    def cut(self, reason: str) -> None:
        """No messages come for the time being. The same reason is said once."""
        known = self._troubles.get("bus")
        if known is None or not known.endswith(reason):
            _log.warning("bus.away", error=reason)
        since = known.partition(": ")[0] if known else f"no messages since {_clock()}"
        self._trouble("bus", f"{since}: {reason}")

    def stopping(self) -> None:
        """Wait for nothing any more; what is in a transaction just now is finished."""
        self._over.set()

    def close(self) -> None:
        """Write what has been counted, and that it was stopped on purpose."""
        self._over.set()
        self._closed.set()
        self._news.set()
        if self._pulse.is_alive():
            self._pulse.join()
        self._write(stopped=True)
        self._installation.database.close()
        _log.info("bus.stopped")

    # --- taking

    def _commit(self, batch: Sequence[Message]) -> None:
        """Take them; what transactions wrote of the counts is in them, and the rest is kept for the pulse."""
        written: list[Counts] = []

        def count(session: Session, receipts: Sequence[Receipt]) -> None:
            counts = Counts.of(batch, receipts)
            self._row.add(session, counts)
            event.listen(session, "after_commit", lambda _: written.append(counts), once=True)

        receipts = self._intake.take(batch, also=count)
        left = Counts.of(batch, receipts)
        for counts in written:
            left = left.minus(counts)
        if left.consumed:
            with self._counting:
                self._counts = self._counts.plus(left)

    def _say_away(self, error: Unavailable) -> None:
        if "database" not in self._troubles:
            _log.error("listener.waits", error=str(error), consequence="messages stay on the broker meanwhile")
        self._trouble("database", str(error))

    def _say_back(self) -> None:
        if "database" in self._troubles or "fault" in self._troubles:
            self._trouble("database", None)
            self._trouble("fault", None)
            _log.info("listener.goes_on")

    def _pause(self, seconds: float, stale: Callable[[], bool]) -> None:
        """Wait, but no longer than anybody wants the batch."""
        until = time.monotonic() + seconds
        while not stale() and (left := until - time.monotonic()) > 0:
            if self._over.wait(min(left, 0.2)):
                return

    # --- saying how it is

    def _beat(self) -> None:
        written = looked = time.monotonic()
        while not self._closed.is_set():
            news = self._news.wait(_TICK_SECONDS)
            self._news.clear()
            alive(self._installation.settings.health_file)
            now = time.monotonic()
            if now - looked >= _LOOK_SECONDS:
                looked = now
                self._look_again()
            if not self._closed.is_set() and (news or self._counts.consumed or now - written >= _SEEN_SECONDS):
                written = now
                self._write()

    def _write(self, *, stopped: bool = False) -> None:
        with self._counting:
            counts, self._counts = self._counts, Counts()
        try:
            self._row.write(counts, self._told() or None, stopped=stopped)
        except RelengqError as error:
            _log.debug("listener.not_written", error=str(error))
            with self._counting:
                self._counts = counts.plus(self._counts)

    def _told(self) -> str:
        return "; ".join(self._troubles.values())

    def _trouble(self, kind: str, sentence: str | None) -> None:
        """Note what is wrong, or that it no longer is; it is in the row after a moment."""
        before = self._troubles
        others = {key: value for key, value in before.items() if key != kind}
        self._troubles = others if sentence is None else others | {kind: sentence}
        if self._troubles != before or kind == "bus":
            self._news.set()

    # --- topics

    def _look_again(self) -> None:
        try:
            self._look()
        except RelengqError as error:
            _log.debug("listener.site_not_read", error=str(error))
        except Exception:
            _log.exception("listener.topics_fault")

    def _look(self) -> None:
        """Have the topics bound that are wanted now; where they may not be bound, say which are missing."""
        wanted = frozenset(self._patterns())
        if self.bindings is not None:
            self.bindings.want(wanted)
        elif self._file is not None and wanted != self._wanted:
            self._wanted = wanted
            bound = [pattern for binding in self._file.bindings for pattern in binding.patterns]
            missing = uncovered(wanted, bound)
            if missing:
                _log.warning("bus.bindings_missing", patterns=missing, file=str(self._file.path))
            sentence = f"{self._file.path} has no binding for {', '.join(missing)}"
            self._trouble("bindings", sentence if missing else None)

    def _patterns(self) -> list[str]:
        try:
            return self._topics.patterns()
        except Unavailable:
            # What runs wait for is in the database; what the site's files name, it names meanwhile.
            workflows = self._installation.site.workflows.values()
            started = [trigger.message for workflow in workflows for trigger in workflow.on]
            steps = [step for workflow in workflows for step in workflow.chain]
            return [*started, *(step.wait_for.message for step in steps if isinstance(step, WaitForStep))]


def _of_stock_consumer() -> tuple[Installation, BusFile]:
    """The installation, and what the stock consumer's configuration and command line have made of the file."""
    if not structlog.is_configured():
        records.adopt()
    context = click.get_current_context(silent=True)
    given = context.find_root().params.get("conf") if context else None
    file = configuration.in_force(configuration.find(Path(given) if given else None))
    configuration.prefetch_more(file)
    try:
        installation = current()
        _ = installation.site
    except RelengqError as error:
        raise SystemExit(f"relengq: {error}") from None
    return installation, file


def _clock() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
