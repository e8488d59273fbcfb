# SPDX-License-Identifier: GPL-3.0-or-later
"""What a playing attempt says and the database does not have yet: bounded, and full means wait."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

from relengq.logs.outcome import TaskOutcome

BUFFER_BYTES = 8 << 20
"""What is kept in memory while the database is slow or away. When it is full the play waits."""
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

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._output: deque[bytes] = deque()
        self._tasks: deque[TaskOutcome] = deque()
        self._place = Place()
        self._moved = False
        self._bytes = 0
        self._since: float | None = None
        self._closed = False
        self._drop = False

    def add_output(self, data: bytes) -> None:
        """Add output; waits while the buffer is full."""
        with self._state:
            if self._make_room(len(data)):
                self._output.append(data)

    def add_task(self, task: TaskOutcome) -> None:
        """Add a result; waits while the buffer is full."""
        with self._state:
            if self._make_room(_weight(task)):
                self._tasks.append(task)
                done = max(self._place.tasks_done, task.number)
                self._place = Place(self._place.play, self._place.task, self._place.host, done)
                self._moved = True

    def move(self, play: str | None, task: str | None, host: str | None) -> None:
        """Note the place; only the latest counts."""
        with self._state:
            self._make_room(0)
            self._place = Place(play, task, host, self._place.tasks_done)
            self._moved = True

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
            self._moved, self._bytes = False, 0
            self._state.notify_all()

    def take(self) -> Said | None:
        """The next batch, when it is full or old enough. None when the buffer is closed and empty."""
        with self._state:
            self._state.wait_for(lambda: self._since is not None or self._closed)
            if self._since is not None:
                rest = self._since + BATCH_SECONDS - time.monotonic()
                self._state.wait_for(lambda: self._bytes >= BATCH_BYTES or self._closed, max(0.0, rest))
            said = self._pop()
            empty = not (said.output or said.tasks or said.place)
            return None if empty and self._closed else said

    def _make_room(self, weight: int) -> bool:
        """Wait for room; with the lock held. False when it is not wanted any more."""
        self._state.wait_for(lambda: self._drop or not self._bytes or self._bytes + weight <= BUFFER_BYTES)
        if self._drop:
            return False
        self._bytes += weight
        if self._since is None or self._bytes >= BATCH_BYTES:
            self._since = self._since or time.monotonic()
            self._state.notify_all()
        return True

    def _pop(self) -> Said:
        said, weight = Said(), 0
        while self._tasks and weight < BATCH_BYTES:
            said.tasks.append(self._tasks.popleft())
            weight += _weight(said.tasks[-1])
        while self._output and weight < BATCH_BYTES:
            said.output.append(self._output.popleft())
            weight += len(said.output[-1])
        if self._moved:
            said.place, self._moved = self._place, False
        self._bytes -= weight
        self._since = time.monotonic() if self._output or self._tasks else None
        self._state.notify_all()
        return said


def _weight(task: TaskOutcome) -> int:
    return _TASK_BYTES + len(task.message or "")
