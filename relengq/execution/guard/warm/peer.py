# SPDX-License-Identifier: GPL-3.0-or-later
"""Who asks a server for a play: processes of its worker may, what runs in a play may not.

A play could choose what is not guarded, and would outlive itself. It runs as the worker's own user and reads what that
user may read, so no secret keeps it out; but it cannot choose its parents.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress

from ..plan import MARK

_CREDENTIALS = struct.Struct("3i")
"""Process, user and group (see unix(7), SO_PEERCRED)."""
_PARENT = 1
"""Its place behind the name in /proc/PID/stat (proc(5))."""


class Owner:
    """The worker's process with which a server ends. Raises ProcessLookupError when it has ended."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.end = os.pidfd_open(pid)
        """A descriptor that can be read from when it has ended."""
        self._mark: bytes | None = None
        """It may be in a play itself, of another worker."""
        with suppress(FileNotFoundError):
            self._mark = _mark(pid)

    def started(self, connection: socket.socket) -> bool:
        """Whether it started who is at the other end: itself, or by processes of which none is in a play of its own.

        Above whatever runs in a play there is the play's guard, which has the play's mark, or nobody of the owner's.
        """
        try:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid = _parent(_CREDENTIALS.unpack(credentials)[0])
            while pid != self._pid:
                if _mark(pid) != self._mark:
                    return False
                pid = _parent(pid)
        except OSError:
            return False  # it has gone, or comes from where this process sees nobody: 0 has no parent
        return True


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The name in parentheses may hold anything.
        return int(file.read().rpartition(b")")[2].split()[_PARENT])


def _mark(pid: int) -> bytes | None:
    """The mark of the play that it is in."""
    name = os.fsencode(f"{MARK}=")
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return next((each for each in file.read().split(b"\0") if each.startswith(name)), None)
    except PermissionError:
        return None  # it has changed its user since it began; a guard never does
