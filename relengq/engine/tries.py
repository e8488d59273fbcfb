# SPDX-License-Identifier: GPL-3.0-or-later
"""What the clock does in a tick, each part by itself: one that the database refuses keeps none of the others.

A page of a table that has rotted, a right that is missing, a lock that somebody holds: the database answers, and yet
one thing cannot be done, now or ever. That is no outage, in which leases run out and nobody can be judged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from relengq.engine.installation import Installation
from relengq.engine.leadership import writable
from relengq.errors import DatabaseUnavailable

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
"""Seconds for which a part is put aside: the first time, and at most; doubled each time."""
_FORGOTTEN = 600.0
"""Seconds after which a part that was not asked for again is forgotten: others have seen to it."""
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Aside:
    """A part that is put aside."""

    until: float
    """In monotonic seconds."""
    pause: float


class Tries:
    """Tries parts of a tick. What the database refuses is tried again later and later, and is said once."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._aside: dict[str, _Aside] = {}

    def do(self, part: str, action: Callable[[], _T]) -> _T | None:
        """Do a part of a tick; None when it is put aside. Raises DatabaseUnavailable when the database is away."""
        aside = self._aside.get(part)
        if aside is not None and time.monotonic() < aside.until:
            return None
        try:
            done = action()
        except DatabaseUnavailable as error:
            if not writable(self._installation):
                raise
            self._put_aside(part, str(error))
            return None
        if self._aside.pop(part, None) is not None:
            _log.info("clock.goes_on", part=part)
        return done

    def _put_aside(self, part: str, error: str) -> None:
        now = time.monotonic()
        before = self._aside.get(part)
        if before is None:
            _log.error("clock.put_aside", part=part, error=error)
        pause = min(before.pause * 2, _LONGEST_PAUSE) if before is not None else _FIRST_PAUSE
        self._aside = {name: each for name, each in self._aside.items() if each.until > now - _FORGOTTEN}
        self._aside[part] = _Aside(now + pause, pause)
