# SPDX-License-Identifier: GPL-3.0-or-later
"""The private directory of a play, and of plays whose worker and guard have both been killed.

A host that lost its power, or a service manager that killed a whole group of processes, leaves nobody who would remove
a play's files, and its variables may have secrets in them. So the worker holds a lock on the directory for as long as
it lives, and whoever starts or plays next on the host removes directories that nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relengq.execution.processes import end_leftovers

_PREFIX = "play-"


@contextmanager
def private_directory(workdir: Path) -> Iterator[Path]:
    """A new directory that only this user sees; gone with all its files afterwards. Raises OSError."""
    workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
    clear(workdir)
    with _locked(workdir):
        private = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=workdir.resolve()))
        descriptor = os.open(private, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)
        os.close(descriptor)


def clear(workdir: Path) -> list[str]:
    """Remove directories whose workers are dead, and end what still runs of their plays. Returns their names."""
    cleared: list[str] = []
    if not any(workdir.glob(f"{_PREFIX}*")):
        return cleared
    with _locked(workdir):
        abandoned = [private for private in workdir.glob(f"{_PREFIX}*") if not _held(private)]
    for private in abandoned:
        end_leftovers(private)
        shutil.rmtree(private, ignore_errors=True)
        cleared.append(private.name)
    return cleared


@contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """Nobody makes a directory meanwhile, so one without its own lock is nobody's."""
    descriptor = os.open(workdir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _held(private: Path) -> bool:
    try:
        descriptor = os.open(private, os.O_RDONLY)
    except OSError:
        return True  # it has just gone, or is somebody else's
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
