# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait for a condition, never for a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def busy(seconds: float) -> float:
    """What takes so many seconds at most on a quiet machine may take on this one, where other tests run beside."""
    return seconds * (1.5 + os.getloadavg()[0])


def wait_until(condition: Callable[[], T], timeout: float = 60.0, what: str | Callable[[], str] = "") -> T:
    """The first true value of ``condition()``; AssertionError after ``timeout`` seconds.

    ``what`` says what was waited for, or, called when the time is over, what is known by then.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            told = what() if callable(what) else what
            raise AssertionError(f"Not within {timeout:g} s: {told or condition}; the last value was {value!r}.")
        time.sleep(0.02)
    return value
