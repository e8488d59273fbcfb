# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker's end of the guard: how to start it, signal it, and sweep up when it was killed itself."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from relengq.execution.guard.groups import PREFIX, Group
from relengq.execution.guard.plan import MARK, Plan
from relengq.execution.means import GUARD

__all__ = ["MARK", "Guard", "end_leftovers", "guard_works", "sweep"]

_SUBREAPER = (36, 37)
_PARENT_DEATH_SIGNAL = (1, 2)
"""prctl(2)'s numbers to set and to get what the guard relies on."""
_SWEEPS = 200
_PAUSE = 0.01
_REAPER_SECONDS = 2.0
"""For how long a reaper whose guard was killed may still be at its work."""


class Guard:
    """The guard of one play: ``command`` starts it, ``stop`` ends the play's whole tree."""

    def __init__(self, private: Path, command: Sequence[str], plan: Plan | None = None) -> None:
        self._private = private
        isolated = [sys.executable, "-I", "-S", "-E", str(GUARD)]
        options = (plan or Plan()).words()
        self.command = [*isolated, str(os.getpid()), str(private), *options, "--", *command]
        self._descriptor: int | None = None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> bool:
        """Ask the guard to end everything. False when it has not started yet: ask again.

        SIGKILL is for one that does not answer: the play ends with it, less politely.
        """
        try:
            if self._descriptor is None:
                self._descriptor = os.pidfd_open(_guard_and_reaper(self._private)[0])
            signal.pidfd_send_signal(self._descriptor, number)
        except FileNotFoundError:
            return False
        except ProcessLookupError:
            pass
        return True

    @property
    def exceeded(self) -> bool:
        """Whether the play was ended because it used more memory than it may."""
        return (self._private / "memory").exists()

    def close(self) -> None:
        """Forget the process."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def guard_works() -> bool:
    """Whether the kernel lets a process do what the guard does: sets both to what they are, which changes nothing."""
    prctl = ctypes.CDLL(None).prctl
    for put, get in (_SUBREAPER, _PARENT_DEATH_SIGNAL):
        value = ctypes.c_int()
        if prctl(get, ctypes.byref(value), 0, 0, 0) or prctl(put, value.value, 0, 0, 0):
            return False
    return True


def end_leftovers(private: Path) -> None:
    """End what a killed guard left of the play whose private directory this is.

    Its reaper may be at it: that one finds what has cleared its environment, so it gets the time to.
    """
    with suppress(OSError, ValueError):
        _await_reaper(private)
    for group in _groups(private):
        group.remove()
    sweep(private.name)


def _await_reaper(private: Path) -> None:
    """Wait for the end of its work. Raises OSError or ValueError when that is over."""
    pid = _guard_and_reaper(private)[1]
    reaper = os.pidfd_open(pid)
    try:
        # One that is dying has no environment any more. In a PID namespace it is not dead before all others are.
        if (environment := _environment(pid)) and not _has_mark(environment, private.name):
            return
        poll = select.poll()
        poll.register(reaper, select.POLLIN)
        deadline = time.monotonic() + _REAPER_SECONDS
        while not poll.poll(1000 * _PAUSE) and time.monotonic() < deadline:
            _guard_and_reaper(private)  # raises when the reaper has removed it: it has ended everything
    finally:
        os.close(reaper)


def sweep(mark: str) -> int:
    """Kill every process that has the play's mark in its environment. How many were there.

    What was guarded may have been handed to init by now, so that no tree leads to it. A process that cleared its
    environment is not found.
    """
    found: set[int] = set()
    for _ in range(_SWEEPS):
        names = (path.name for path in Path("/proc").iterdir())
        alive = [pid for pid in map(int, filter(str.isdigit, names)) if _marked(pid, mark)]
        if not alive:
            break
        for pid in alive:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        found.update(alive)
        time.sleep(_PAUSE)
    return len(found)


def _marked(pid: int, mark: str) -> bool:
    if pid == os.getpid():
        return False
    return _has_mark(_environment(pid), mark)


def _environment(pid: int) -> bytes:
    """Empty when it has none, or none that this user may see."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _has_mark(environment: bytes, mark: str) -> bool:
    return f"{MARK}={mark}".encode() in environment.split(b"\0")


def _guard_and_reaper(private: Path) -> tuple[int, int]:
    """Whom the guard's file names. Raises FileNotFoundError when the guard has not started, or its end is long past."""
    guard, reaper = (private / "guard.pid").read_text("ascii").split()
    return int(guard), int(reaper)


def _groups(private: Path) -> Collection[Group]:
    """The control groups that the guard noted before it made them."""
    with suppress(OSError):
        lines = (private / "groups").read_text("utf-8", errors="surrogateescape").splitlines()
        return [Group(each) for each in lines if Path(each).name == f"{PREFIX}{private.name}"]
    return []
