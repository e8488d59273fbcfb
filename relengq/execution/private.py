# SPDX-License-Identifier: GPL-3.0-or-later
"""The private directory of a play, and of plays whose worker and guard have both been killed.

A host that lost its power, or a service manager that killed a whole group of processes, leaves nobody who would remove
a play's files, and its variables may have secrets in them. So the worker holds a lock on the directory for as long as
it lives, and whoever plays next on the host removes directories that nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from relengq.execution.processes import sweep

_PREFIX = "play-"
_YOUNG = 10.0
"""Seconds in which a new directory may be without its lock."""


@contextmanager
def private_directory(workdir: Path) -> Iterator[Path]:
    """A new directory that only this user sees; gone with all its files afterwards. Raises OSError."""
    workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
    clear(workdir)
    private = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=workdir.resolve()))
    descriptor = os.open(private, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)
        os.close(descriptor)


def clear(workdir: Path) -> list[str]:
    """Remove directories whose workers are dead, and end what still runs of their plays. Returns their names."""
    cleared = []
    for private in workdir.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - private.stat().st_ctime > _YOUNG and not _held(private):
                sweep(private.name)
                shutil.rmtree(private, ignore_errors=True)
                cleared.append(private.name)
    return cleared


def _held(private: Path) -> bool:
    descriptor = os.open(private, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
