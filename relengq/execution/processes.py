# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker's end of the guard: how to start it, signal it, and sweep up when it was killed itself."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

MARK = "RELENGQ_PLAY"
"""Environment variable that all processes of a play inherit; its value is the play's own."""
_GUARD = Path(__file__).with_name("guard.py")
_SUBREAPER = (36, 37)
_PARENT_DEATH_SIGNAL = (1, 2)
"""prctl(2)'s numbers to set and to get what the guard relies on."""
_SWEEPS = 200
_PAUSE = 0.01


class Guard:
    """The guard of one play: ``command`` starts it, ``stop`` ends the play's whole tree."""

    def __init__(self, private: Path, command: Sequence[str]) -> None:
        self._pid_file = private / "guard.pid"
        isolated = [sys.executable, "-I", "-S", "-E", str(_GUARD)]
        self.command = [*isolated, str(os.getpid()), str(self._pid_file), str(private), *command]
        self._descriptor: int | None = None

    def stop(self) -> bool:
        """Ask the guard to end everything. False when it has not started yet: ask again."""
        try:
            if self._descriptor is None:
                self._descriptor = os.pidfd_open(int(self._pid_file.read_text("ascii")))
            signal.pidfd_send_signal(self._descriptor, signal.SIGTERM)
        except FileNotFoundError:
            return False
        except ProcessLookupError:
            pass
        return True

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


def sweep(mark: str) -> int:
    """Kill every process that has the play's mark in its environment. How many were there.

    For a guard that was killed with SIGKILL: what it guarded may have been handed to init by then, so the
    tree no longer leads to it. A process that cleared its environment is not found.
    """
    wanted = f"{MARK}={mark}".encode()
    found: set[int] = set()
    for _ in range(_SWEEPS):
        names = (path.name for path in Path("/proc").iterdir())
        alive = [pid for pid in map(int, filter(str.isdigit, names)) if _marked(pid, wanted)]
        if not alive:
            break
        for pid in alive:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        found.update(alive)
        time.sleep(_PAUSE)
    return len(found)


def _marked(pid: int, wanted: bytes) -> bool:
    if pid == os.getpid():
        return False
    try:
        return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
