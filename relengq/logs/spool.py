# SPDX-License-Identifier: GPL-3.0-or-later
"""Output that waits on this worker's disk for the database: a ring of bytes in a file without a name.

The file is never in a directory, so the kernel removes it with the process that plays, however that ends. What is in
it has had its secrets masked before.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

SPOOL_BYTES = 256 << 20
"""Output of one attempt that waits on the worker's disk at most, beside what is in memory. Then the play waits."""


class Spool:
    """A bounded queue of bytes. Not for several threads at once. Without a directory it takes nothing."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._size = SPOOL_BYTES
        self._file: IO[bytes] | None = None
        self._put = self._taken = 0

    def __len__(self) -> int:
        return self._put - self._taken

    def put(self, data: bytes) -> bool:
        """Take the data whole, or not at all: it is full, or the disk is."""
        if self._directory is None or len(self) + len(data) > self._size:
            return False
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 -- drop() closes it
            for place, piece in _places(self._put, memoryview(data), self._size):
                _write(self._file.fileno(), piece, place)
        except OSError:
            return False
        self._put += len(data)
        return True

    def take(self, limit: int) -> bytes:
        """The oldest bytes, at most so many; b"" when it is empty. Raises OSError when the disk lost them."""
        wanted = min(limit, len(self))
        if not wanted or self._file is None:
            return b""
        place = self._taken % self._size
        first = min(wanted, self._size - place)
        data = os.pread(self._file.fileno(), first, place) + os.pread(self._file.fileno(), wanted - first, 0)
        if len(data) != wanted:
            raise OSError(f"of {wanted} bytes of output that waited on this worker's disk, {len(data)} are left")
        self._taken += wanted
        if not len(self):
            self.drop()
        return data

    def drop(self) -> None:
        """Forget everything, and give the disk its space back."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._put = self._taken = 0


def _places(begin: int, data: memoryview, size: int) -> list[tuple[int, memoryview]]:
    """Where in the ring the data goes: in one piece, or in two when it reaches the end."""
    place = begin % size
    first = size - place
    return [(place, data[:first]), (0, data[first:])]


def _write(descriptor: int, data: memoryview, place: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, place)
        data, place = data[written:], place + written
