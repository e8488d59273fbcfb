# SPDX-License-Identifier: GPL-3.0-or-later
"""Where what does nothing writes down when it began and when it ended, by the same clock on both sides."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path


def note(ledger: Path, seconds: float = 0.0) -> None:
    """Begin, last so long, and end: a line with both moments. To write it counts as time between two steps."""
    begun = time.time()
    time.sleep(seconds)
    with ledger.open("a") as file:
        file.write(f"{begun!r} {time.time()!r}\n")


def lines(ledger: Path) -> int:
    """How many have been written."""
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def times(ledger: Path) -> list[tuple[float, float]]:
    """When each began and ended."""
    return [(float(begun), float(ended)) for begun, ended in map(str.split, ledger.read_text().splitlines())]


def gaps(ledger: Path) -> list[float]:
    """Seconds from each end to the next beginning."""
    return [begun - ended for (_, ended), (begun, _) in pairwise(times(ledger))]
