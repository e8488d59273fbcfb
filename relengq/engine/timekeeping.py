# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do when somebody sets the clock of the database's host.

Leases and due times are in the database's time, so that the clocks of workers do not matter. When that time itself is
set forward, the lease of every living worker looks as if it had run out long ago; when it is set back, a dead worker's
lease would last until that hour has come again, and so long nothing queued would be due. So the process that is the
clock compares the database's time with its own monotonic one.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import structlog
from sqlalchemy import select

from relengq.engine.installation import Installation
from relengq.models import Attempt
from relengq.states import AttemptState

_TOLERATED = 0.1
"""A jump of this part of a lease does no harm: a worker gives up well before its lease runs out."""
_DRIFT = 0.001
"""By this part of the time between two looks the clocks of two hosts may drift apart, without anybody setting one."""
_AFTER_OUTAGE = 10.0
"""Seconds for which a worker that could not reach the database either may still tell what became of its play."""
_log = structlog.get_logger(__name__)


class Timekeeper:
    """Notices that the database's time was set, or that it was away, and puts right what depends on it."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._lease = installation.settings.lease_seconds
        self._seen: tuple[datetime, float, float] | None = None
        self._judged_from = 0.0

    @property
    def judges_leases(self) -> bool:
        """Whether a lease that seems to have run out has done so: not until every living worker has renewed its own."""
        return time.monotonic() >= self._judged_from

    def database_is_away(self) -> None:
        """Leases run out meanwhile, and whoever holds one cannot renew it, or say that its play has ended well."""
        self._judged_from = max(self._judged_from, time.monotonic() + _AFTER_OUTAGE)

    def look(self) -> datetime:
        """Compare both times. Returns the database's. May raise DatabaseUnavailable."""
        before = time.monotonic()
        now = self._installation.now()
        after = time.monotonic()
        since = after - self._seen[1] if self._seen else 0.0
        jump = self._jump(now, before, after)
        self._seen = now, before, after
        if abs(jump) > self._lease * _TOLERATED + since * _DRIFT:
            _log.warning("database.time_was_set", seconds=round(jump))
            if jump > 0:
                self._judged_from = max(self._judged_from, after + self._lease)
            else:
                self._put_back(now, timedelta(seconds=-jump))
        return now

    def _jump(self, now: datetime, before: float, after: float) -> float:
        """By how many seconds the database's time has moved on too far, or (negative) not far enough, at least."""
        if self._seen is None:
            return 0.0
        seen, seen_before, seen_after = self._seen
        moved = (now - seen).total_seconds()
        longest, shortest = after - seen_before, before - seen_after
        return moved - longest if moved > longest else min(0.0, moved - shortest)

    def _put_back(self, now: datetime, by: timedelta) -> None:
        """Let leases end in a lease's time from now, unless they are renewed; what was due stays due."""
        until = now + timedelta(seconds=self._lease)
        with self._installation.database.write() as session:
            late = (Attempt.state == AttemptState.RUNNING, Attempt.lease_until > until)
            for attempt in session.scalars(select(Attempt).where(*late).with_for_update(skip_locked=True)):
                attempt.lease_until = until
            later = (Attempt.state == AttemptState.QUEUED, Attempt.due_at > now)
            for attempt in session.scalars(select(Attempt).where(*later).with_for_update(skip_locked=True)):
                attempt.due_at -= by
