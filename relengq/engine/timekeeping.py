# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do when somebody sets the clock of the database's host.

Leases and due times are in the database's time, so that the clocks of workers do not matter. When that time itself is
set forward, the lease of every living worker looks as if it had run out long ago; when it is set back, a dead worker's
lease would last until that hour has come again, and so long nothing queued would be due. So every process that is the
clock, or stands by to be it, compares the database's time with its own monotonic one.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import structlog

from relengq.engine.installation import Installation
from relengq.engine.setback import put_back

_TOLERATED = 0.1
"""A jump of this part of a lease does no harm: a worker gives up well before its lease runs out."""
_DRIFT = 0.001
"""By this part of the time between two looks the clocks of two hosts may drift apart, without anybody setting one."""
_AFTER_OUTAGE = 10.0
"""Seconds for which a worker that could not reach the database either may still tell what became of its play."""
_UNWATCHED = timedelta(minutes=1)
"""So long ago the time may have been set back when nobody has seen it: a clock starts, or takes over, sooner."""
_log = structlog.get_logger(__name__)


class Timekeeper:
    """Notices that the database's time was set, or that it was away, and puts right what depends on it.

    Who has just begun to watch knows nothing of what was before: a lease that seems to have run out may be that of a
    worker that could not renew it. ``watching_since``, in monotonic seconds, says that somebody has watched in its
    place from then on and has seen neither; by default it begins with its first look.
    """

    def __init__(self, installation: Installation, watching_since: float | None = None) -> None:
        self._installation = installation
        self._lease = installation.settings.lease_seconds
        self._watching_since = watching_since
        self._seen: tuple[datetime, float, float] | None = None
        self._judged_from = 0.0
        self._owes = watching_since is None
        """Whether there may be something to put back."""
        self._owes_until = 0.0
        """In monotonic seconds: what is locked for so long will have to be put back by who locks it."""
        self._set_back: datetime | None = None
        """A moment just before time was set back, in the time that holds since."""

    @property
    def judges_leases(self) -> bool:
        """Whether a lease that seems to have run out has done so: not until every living worker has renewed its own."""
        if self._watching_since is None:
            return False
        watched = self._watching_since + max(self._lease, _AFTER_OUTAGE)
        return time.monotonic() >= max(watched, self._judged_from)

    def database_is_away(self) -> None:
        """Leases run out meanwhile, and whoever holds one cannot renew it, or say that its play has ended well."""
        self._judged_from = max(self._judged_from, time.monotonic() + _AFTER_OUTAGE)

    def stand_by(self) -> None:
        """Look, while another process leads; when this one takes over, that one may have left something to put back.

        May raise DatabaseUnavailable.
        """
        self.look()
        self._owes = True

    def look(self) -> datetime:
        """Compare both times. Returns the database's. May raise DatabaseUnavailable."""
        before = time.monotonic()
        now = self._installation.now()
        after = time.monotonic()
        if self._watching_since is None:
            self._watching_since = after
        since = after - self._seen[1] if self._seen else 0.0
        jump = self._jump(now, before, after)
        self._seen = now, before, after
        if abs(jump) > self._lease * _TOLERATED + since * _DRIFT:
            _log.warning("database.time_was_set", seconds=round(jump))
            if jump > 0:
                self._judged_from = max(self._judged_from, after + self._lease)
            else:
                self._owes, self._set_back = True, now - timedelta(seconds=since)
        return now

    def _jump(self, now: datetime, before: float, after: float) -> float:
        """By how many seconds the database's time has moved on too far, or (negative) not far enough, at least."""
        if self._seen is None:
            return 0.0
        seen, seen_before, seen_after = self._seen
        moved = (now - seen).total_seconds()
        longest, shortest = after - seen_before, before - seen_after
        return moved - longest if moved > longest else min(0.0, moved - shortest)

    def put_back(self) -> bool:
        """Put back what a time that was set back may have left in the future; what is locked, when asked again.

        For who leads. Returns whether there may have been something. May raise DatabaseUnavailable.
        """
        if not self._owes:
            return False
        self._owes_until = self._owes_until or time.monotonic() + self._lease
        database = self._installation.database
        with database.write() as session:
            now = database.now(session)
            since = self._set_back or now - _UNWATCHED
            whole = put_back(session, now, since, timedelta(seconds=self._lease))
        if whole or time.monotonic() >= self._owes_until:
            self._owes, self._owes_until, self._set_back = False, 0.0, None
        return True
