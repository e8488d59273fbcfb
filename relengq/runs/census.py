# SPDX-License-Identifier: GPL-3.0-or-later
"""How many runs are unfinished, without counting all of them at every start."""

from __future__ import annotations

import time

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from relengq.models import Run

_STARTS_PER_SECOND = 1000
"""No installation starts more: a count holds for as long as it would take to fill the room that it found."""
_LONGEST_SECONDS = 5.0


class Census:
    """What one process knows of how many runs are unfinished. It is exact where that matters: near the limit."""

    def __init__(self) -> None:
        self._count = 0
        self._until = 0.0

    def unfinished(self, session: Session, limit: int) -> int:
        """How many runs are unfinished, counted up to ``limit``. At the limit it has always been counted just now."""
        now = time.monotonic()
        if now >= self._until or self._count >= limit:
            some = select(Run.id).where(Run.finished_at.is_(None)).limit(limit).subquery()
            self._count = session.scalar(select(func.count()).select_from(some)) or 0
            self._until = now + min(_LONGEST_SECONDS, (limit - self._count) / _STARTS_PER_SECOND)
        return self._count

    def add(self) -> None:
        """This process has made one."""
        self._count += 1
