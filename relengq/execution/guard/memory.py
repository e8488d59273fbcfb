# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory processes use together, where no control group counts it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

_KIB = 1024


def more_than(size: int, pids: Iterable[int]) -> bool:
    """Whether the processes use more bytes together. What several of them share counts once."""
    residents = {pid: resident for pid in pids if (resident := _resident(pid)) is not None}
    if sum(whole for whole, _ in residents.values()) <= size:
        # What is shared has been counted several times, so there is nothing that needs a closer, slower look.
        return False
    return sum(_proportional(pid, own) for pid, (_, own) in residents.items()) > size


def _resident(pid: int) -> tuple[int, int] | None:
    """Bytes of a process that are in memory or swapped out, and those of them that no file and nobody shares."""
    with suppress(OSError, ValueError), open(f"/proc/{pid}/statm", "rb") as file:
        page = os.sysconf("SC_PAGE_SIZE")
        _, resident, shared = map(int, file.read().split()[:3])
        swapped = _kib(f"/proc/{pid}/status", b"VmSwap:")
        return resident * page + swapped, (resident - shared) * page + swapped
    return None


def _proportional(pid: int, own: int) -> int:
    """Bytes of a process, with its part of what it shares; of another user's process its own bytes."""
    with suppress(OSError, ValueError):
        return _kib(f"/proc/{pid}/smaps_rollup", b"Pss:", b"SwapPss:")
    return own


def _kib(path: str, *wanted: bytes) -> int:
    with open(path, "rb") as file:
        return sum(int(line.split()[1]) * _KIB for line in file if line.startswith(wanted))
