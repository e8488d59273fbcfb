# SPDX-License-Identifier: GPL-3.0-or-later
"""Who keeps SQLite's one write lock to itself, as the kernel tells it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from relengq.doctor.findings import Finding, Findings, Level
from relengq.engine.installation import Installation

_LOCKS = Path("/proc/locks")
_WRITE_LOCK = 120
"""The byte of the ``-shm`` file that a writer locks in WAL mode (sqlite.org/walformat.html, "WAL_WRITE_LOCK")."""
_TOO_LONG = 3.0
"""Seconds. A transaction of relengq's takes milliseconds, and who waits for one gives up after twenty seconds."""
_LOOK_SECONDS = 0.05


def obstinate(installation: Installation) -> Findings:
    """A finding when one process keeps the lock for as long as nobody should; where there is no ``/proc``, none."""
    if not installation.database.sqlite:
        return
    database = Path(installation.database.url.database or "")
    until = time.monotonic() + _TOO_LONG
    first = _holder(database)
    while first is not None and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
        if _holder(database) != first:
            return
    if first is not None:
        yield Finding(Level.BAD, "database lock", *_told(first))


def _holder(database: Path) -> int | None:
    """The process that holds the lock, 0 when it is of another container, None when nobody does."""
    try:
        state = database.with_name(f"{database.name}-shm").stat()
        lines = _LOCKS.read_text("ascii").splitlines()
    except OSError:
        return None
    file = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}:{state.st_ino}"
    return next(_writers(lines, file), None)


def _writers(lines: list[str], file: str) -> Iterator[int]:
    """Those that hold the lock; lines with an arrow are of those that wait for one."""
    for line in lines:
        _, *words = line.split()
        if words[0] == "POSIX" and words[2] == "WRITE" and words[4] == file:
            last = float("inf") if words[6] == "EOF" else int(words[6])
            if int(words[5]) <= _WRITE_LOCK <= last:
                yield int(words[3])


def _told(pid: int) -> tuple[str, str]:
    """What is wrong, and what to do."""
    try:
        process = psutil.Process(pid or -1)
        what, stopped = " ".join(process.cmdline())[:100], process.status() == psutil.STATUS_STOPPED
    except (psutil.Error, ValueError):
        what, stopped = "which cannot be seen from here", False
    message = f"nobody can write: process {pid} ({what}) keeps the lock, for {_TOO_LONG:.0f}s at least"
    if stopped:
        return f"{message}, and is stopped", f"'kill -CONT {pid}' lets it go on, 'kill -KILL {pid}' ends it."
    return message, "Wait for it, or end it: what it has not committed is undone."
