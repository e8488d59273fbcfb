# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known from outside of relengq: what was promised, what plays did, what the bus said.

All times are seconds since the machine was started (CLOCK_BOOTTIME), which all hosts of a test share.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeAlias, TypeVar

T = TypeVar("T")
Line: TypeAlias = dict[str, str]
STEP = """\
#!/bin/sh
# step.sh LEDGER TENTHS TOKEN RUN STEP ATTEMPT FENCE: say that it begins, every tenth of a second that it still lives,
# and that it ends. Each line is one write(2) with O_APPEND.
ledger=$1 tenths=$2
shift 2
read -r host < /proc/sys/kernel/hostname
read -r now _ < /proc/uptime
me="$* $host $$@$now"
say() { read -r now _ < /proc/uptime; echo "$1 $now $me" >> "$ledger"; }
say start
while [ "$tenths" -gt 0 ]; do
  sleep 0.1
  tenths=$((tenths - 1))
  say alive
done
say end
"""
"""What a step does. The kernel gives the time since the start in hundredths of a second."""


@dataclass(frozen=True)
class Sign:
    """A sign of life of one process of one attempt."""

    what: Literal["start", "alive", "end"]
    at: float
    token: str
    run: str
    step: str
    attempt: int
    fence: int
    host: str
    process: str
    """Its number, which a host may give more than once, and when it began."""


@dataclass(frozen=True)
class Heard:
    """An announcement, as an independent subscriber got it."""

    kind: str
    """``run.started``, ``step.finished`` or ``run.finished``."""
    at: float
    id: str
    token: str
    """Of the start; ``SCHEDULE@DUE`` for a schedule's."""
    workflow: str
    run: str
    step: str = ""
    result: str = ""


@dataclass(frozen=True)
class Accepted:
    """A start that relengq, or the bus, has promised to somebody."""

    token: str
    workflow: str


@dataclass(frozen=True)
class Records:
    """Everything that the checker sees."""

    chains: Mapping[str, Sequence[str]]
    """The steps of each workflow, in order."""
    accepted: Sequence[Accepted]
    signs: Sequence[Sign]
    heard: Sequence[Heard]
    asked: frozenset[str] = frozenset()
    """Starts that were tried, whether or not anybody has promised them."""
    periods: Mapping[str, float] = field(default_factory=dict)
    """Seconds between the due times of each schedule."""
    may_fail: frozenset[str] = frozenset()
    """Workflows whose own policy lets a run fail in a storm."""


def now() -> float:
    """The time by which all records go."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def sign(line: str) -> Sign:
    """A line of the ledger."""
    words = line.split()
    assert len(words) == 9, line
    what, at, token, run, step, attempt, fence, host, process = words
    assert what in ("start", "alive", "end"), line
    return Sign(
        what,
        float(at),
        token,
        run,
        step,
        int(attempt),
        int(fence),
        host,
        process,  # type: ignore[arg-type]
    )


class Book(Generic[T]):
    """A file that grows, one entry a line; ``read`` gives all entries, and reads only what is new."""

    def __init__(self, file: Path, entry: Callable[[str], T]) -> None:
        self.file = file
        self._entry = entry
        self._entries: list[T] = []
        self._read = 0

    def read(self) -> list[T]:
        """All entries; a line that is still being written is left out."""
        if self.file.exists():
            with self.file.open("rb") as source:
                source.seek(self._read)
                whole = source.read().rpartition(b"\n")[0]
            if whole:
                self._read += len(whole) + 1
                self._entries += map(self._entry, whole.decode().split("\n"))
        return self._entries


def append(file: Path, value: Mapping[str, object]) -> None:
    """Add a line, so that it outlives whoever wrote it."""
    with file.open("a") as target:
        target.write(f"{json.dumps(value)}\n")
