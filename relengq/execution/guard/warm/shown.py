# SPDX-License-Identifier: GPL-3.0-or-later
"""What /proc shows of a process that runs no other program than the one it was forked from (see proc(5), stat)."""

from __future__ import annotations

import ctypes
import os

_ARGUMENTS = 45
"""Where, after the state, the addresses of the first argument and of the end of them all stand."""


class Shown:
    """The places of this process's arguments, and of one variable of the environment that it was started in.

    Who looks for a play in ``ps``, or for what is left of one by the mark in its environment, is to find its forks.
    """

    def __init__(self, variable: str, value: str) -> None:
        getenv = ctypes.CDLL(None).getenv
        getenv.restype = ctypes.c_void_p
        self._value: int | None = getenv(os.fsencode(variable)) if value else None
        self._room = len(os.fsencode(value))
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        self._arguments, self._end = map(int, fields[_ARGUMENTS : _ARGUMENTS + 2])

    def write_value(self, value: str) -> None:
        """Show another value; one that is longer than the first is not shown."""
        data = os.fsencode(value)
        if self._value is not None and len(data) <= self._room:
            ctypes.memmove(self._value, data.ljust(self._room, b"\0"), self._room)

    def write_arguments(self, words: list[str]) -> None:
        """Show other arguments, cut where there is no more room."""
        room = self._end - self._arguments
        if self._arguments and room > 0:
            data = b"".join(os.fsencode(word) + b"\0" for word in words)[: room - 1]
            ctypes.memmove(self._arguments, data.ljust(room, b"\0"), room)
