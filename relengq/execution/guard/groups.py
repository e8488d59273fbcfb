# SPDX-License-Identifier: GPL-3.0-or-later
"""Control groups of plays: made for one play, joined by its first process, killed, and removed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from .mounts import mounts

PREFIX = "relengq-"
"""How the names of all our groups begin; the name of the play's private directory follows."""
MEMORY_V2 = "memory.max"
_MEMORY_V1 = "memory.limit_in_bytes"
_KILL = "cgroup.kill"
_PROCESSES = "cgroup.procs"
_REMOVE_SECONDS = 1.0
_CHARGE = 4 << 20
"""Bytes that are asked for at once, at most (a huge page): so near to its limit a group has met it."""


class Group:
    """One group, version 2 or of the memory hierarchy of version 1. Its methods raise nothing."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def make(self) -> bool:
        """Make it. False when that is not allowed."""
        try:
            os.mkdir(self.directory, 0o755)
        except FileExistsError:
            return True
        except OSError:
            return False
        return True

    def join(self) -> bool:
        """Put the calling process into it, and with it all that it starts."""
        return self._write(_PROCESSES, "0")

    def limit(self, size: int) -> bool:
        """Have the kernel kill what uses more memory. False: nobody does."""
        if self._write(MEMORY_V2, str(size)):
            self._write("memory.swap.max", "0")
            self._write("memory.oom.group", "1")
            return True
        if self._write(_MEMORY_V1, str(size)):
            self._write("memory.memsw.limit_in_bytes", str(size))
            return True
        return False

    def exceeded(self) -> bool:
        """Whether the kernel killed something in it because it had used what it may (not what the host has)."""
        events, control = self._numbers("memory.events"), self._numbers("memory.oom_control")
        if events.get("oom_kill") and events.get("oom"):
            return True
        # Version 1 does not say whose limit was met: not every kernel counts in memory.failcnt.
        most = max(self._numbers(f"memory.{each}max_usage_in_bytes").get("", 0) for each in ("", "memsw."))
        allowed = self._numbers(_MEMORY_V1).get("", 0)
        return bool(control.get("oom_kill")) and most > allowed - _CHARGE

    def _numbers(self, name: str) -> dict[str, int]:
        """What lines like ``oom_kill 1`` say; of a lone number, that number as ""."""
        found: dict[str, int] = {}
        with suppress(OSError, ValueError), open(f"{self.directory}/{name}", encoding="ascii") as file:
            for line in file:
                *words, number = line.split()
                found[" ".join(words)] = int(number)
        return found

    @property
    def kills(self) -> bool:
        """Whether the kernel kills all of it at once, whoever it belongs to (Linux 5.14)."""
        return os.path.exists(f"{self.directory}/{_KILL}")

    def kill(self) -> None:
        """Kill all that is in it."""
        if not self._write(_KILL, "1"):
            for directory, _, _ in os.walk(self.directory):
                _kill_each(directory)

    def remove(self) -> bool:
        """Kill what is left in it and remove it, with the groups that the play made in it."""
        deadline = time.monotonic() + _REMOVE_SECONDS
        while os.path.isdir(self.directory):
            for directory, _, _ in os.walk(self.directory, topdown=False):
                with suppress(OSError):
                    os.rmdir(directory)
            if not os.path.isdir(self.directory):
                break
            if time.monotonic() > deadline:
                return False
            self.kill()
            time.sleep(0.005)
        return True

    def _write(self, name: str, text: str) -> bool:
        # Not to be created: on anything but a control group these files would be ordinary ones.
        try:
            descriptor = os.open(f"{self.directory}/{name}", os.O_WRONLY)
        except OSError:
            return False
        try:
            os.write(descriptor, text.encode())
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True


def _kill_each(directory: str) -> None:
    with suppress(OSError, ValueError), open(f"{directory}/{_PROCESSES}", encoding="ascii") as file:
        for pid in map(int, file.read().split()):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def hierarchy(controller: str) -> tuple[str, str] | None:
    """Where a hierarchy is mounted, and the directory of this process's own group in it.

    ``controller``: "" for version 2, "memory" for that one of version 1. None when there is none, or when this process
    is outside of what is mounted.
    """
    own = _own(controller)
    if own is None:
        return None
    for each in mounts():
        right = each.kind == "cgroup2" if not controller else each.kind == "cgroup" and _has(each.options, controller)
        if right and (own == each.root or own.startswith(each.root.rstrip("/") + "/")):
            below = own[len(each.root.rstrip("/")) :].strip("/")
            return each.point, os.path.join(each.point, below) if below else each.point
    return None


def _own(controller: str) -> str | None:
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controllers == "" if not controller else controller in controllers.split(","):
                return path
    return None


def _has(options: str, controller: str) -> bool:
    return controller in options.split(",")
