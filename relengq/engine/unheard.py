# SPDX-License-Identifier: GPL-3.0-or-later
"""Commits of which nobody heard: the connection broke after COMMIT had been sent, so it has happened or it has not.

Who only looks again (a clock, a listener, a worker) finds out by itself. For a person, what was asked for is done again
here, by a function that first looks whether the try before has done it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from relengq.errors import DatabaseUnavailable

_PAUSES = (0.1, 0.3, 1.0, 2.0)
"""Seconds between tries: a database that restarts is back by then, or else the person is told."""
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


def until_heard(action: Callable[[], _T], sent: Callable[[], bool]) -> _T:
    """Do it, and a few times more while the database goes away after something was ``sent``.

    Raises DatabaseUnavailable at once when nothing was, and after the last try.
    """
    for pause in _PAUSES:
        try:
            return action()
        except DatabaseUnavailable as error:
            if not sent():
                raise
            _log.info("commit.not_heard", error=str(error))
            time.sleep(pause)
    return action()
