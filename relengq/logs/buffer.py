# SPDX-License-Identifier: GPL-3.0-or-later
"""What a playing attempt says and the database does not have yet: bounded, and full means wait.

Output is kept in memory, then on the worker's disk, so that a database that is restarted does not stop a play that says
much. Tasks' results are kept in memory alone: more than fit are not made in the time that a lease lasts.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

from relengq.logs.outcome import TaskOutcome
from relengq.logs.spool import Spool

BUFFER_BYTES = 4 << 20
"""Output that is kept in memory, and as much of tasks' results, while the database is slow or away."""
BATCH_SECONDS = 0.2
"""How long output waits for more before it is written: most of what a follower is behind."""
BATCH_BYTES = 2 << 20
"""What is written in one transaction at most."""
_TASK_BYTES = 500
"""Rough weight of a task's result, beside its message."""


@dataclass(frozen=True)
class Place:
    """Where a play is."""

    play: str | None = None
    task: str | None = None
    host: str | None = None
    tasks_done: int = 0


@dataclass
class Said:
    """A batch of what was said."""

    output: list[bytes] = field(default_factory=list)
    tasks: list[TaskOutcome] = field(default_factory=list)
    place: Place | None = None


class Buffer:
    """Takes from one thread, gives to another."""

    def __init__(self, spool: Spool) -> None:
        self._state = threading.Condition()
        self._spool = spool
        self._output: deque[bytes] = deque()
        self._output_bytes = 0
        self._tasks: deque[TaskOutcome] = deque()
        self._tasks_bytes = 0
        self._place = Place()
        self._moved = False
        self._since: float | None = None
        self._closed = False
        self._drop = False

    def add_output(self, data: bytes) -> None:
        """Add output; waits while there is no room for it."""
        with self._state:
            self._state.wait_for(lambda: self._drop or self._keep(data))
            self._came()

    def add_task(self, task: TaskOutcome) -> None:
        """Add a result; waits while there is no room for it."""
        weight = _weight(task)
        with self._state:
            self._state.wait_for(lambda: self._drop or not self._tasks or self._tasks_bytes + weight <= BUFFER_BYTES)
            if not self._drop:
                self._tasks.append(task)
                self._tasks_bytes += weight
                done = max(self._place.tasks_done, task.number)
                self._place = Place(self._place.play, self._place.task, self._place.host, done)
                self._moved = True
            self._came()

    def move(self, play: str | None, task: str | None, host: str | None) -> None:
        """Note the place; only the latest counts."""
        with self._state:
            self._place = Place(play, task, host, self._place.tasks_done)
            self._moved = not self._drop
            self._came()

    def close(self) -> None:
        """Nothing more comes."""
        with self._state:
            self._closed = True
            self._state.notify_all()

    def drop(self) -> None:
        """From now on forget whatever comes, and never make anyone wait."""
        with self._state:
            self._drop = True
            self._output.clear()
            self._tasks.clear()
            self._spool.drop()
            self._moved, self._output_bytes, self._tasks_bytes = False, 0, 0
            self._state.notify_all()

    def take(self) -> Said | None:
        """The next batch, when it is full or old enough; None when the buffer is closed and empty. Raises OSError."""
        with self._state:
            self._state.wait_for(lambda: self._since is not None or self._closed)
            if self._since is not None:
                rest = self._since + BATCH_SECONDS - time.monotonic()
                self._state.wait_for(lambda: self._full() or self._closed, max(0.0, rest))
            said = self._pop()
            empty = not (said.output or said.tasks or said.place)
            return None if empty and self._closed else said

    def _full(self) -> bool:
        return self._output_bytes + self._tasks_bytes + len(self._spool) >= BATCH_BYTES

    def _keep(self, data: bytes) -> bool:
        """Keep output if there is room; with the lock held. Nothing overtakes what waits on the disk."""
        if self._spool or (self._output and self._output_bytes + len(data) > BUFFER_BYTES):
            return self._spool.put(data)
        self._output.append(data)
        self._output_bytes += len(data)
        return True

    def _came(self) -> None:
        """Let the taker know that something has come, if that matters to it; with the lock held."""
        if not self._drop and (self._since is None or self._full()):
            self._since = self._since or time.monotonic()
            self._state.notify_all()

    def _pop(self) -> Said:
        said, weight = Said(), 0
        while self._tasks and weight < BATCH_BYTES:
            said.tasks.append(self._tasks.popleft())
            weight += _weight(said.tasks[-1])
        self._tasks_bytes -= weight
        while self._output and weight < BATCH_BYTES:
            said.output.append(self._output.popleft())
            weight += len(said.output[-1])
            self._output_bytes -= len(said.output[-1])
        if not self._output and weight < BATCH_BYTES and (data := self._spool.take(BATCH_BYTES - weight)):
            said.output.append(data)
        if self._moved:
            said.place, self._moved = self._place, False
        self._since = time.monotonic() if self._output or self._tasks or self._spool else None
        self._state.notify_all()
        return said


def _weight(task: TaskOutcome) -> int:
    return _TASK_BYTES + len(task.message or "")
