# SPDX-License-Identifier: GPL-3.0-or-later
"""Run named child processes in the foreground: what ``relengq up`` is made of.

One thread starts them in order, passes their output on line by line, starts again what dies, and stops
all in reverse order. Each child has a session of its own, so that a Ctrl-C in the terminal reaches the
supervisor alone, and dies with it.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

from relengq.errors import Unavailable
from relengq.processes import bound

_TICK = 0.1
_QUIET_TICK = 1.0
"""Seconds between two looks at children that are all well; one that ends is noticed by the end of its output, and a
signal by what it writes to a pipe."""
_STEADY = 60.0
"""A child that lived for so many seconds starts again without delay."""
_LONGEST_DELAY = 30.0
_LINE_LIMIT = 64 * 1024


@dataclass(frozen=True)
class Child:
    """What to run under which name. Children of one ``stage`` stop together; a higher stage stops earlier."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stage: int = 1
    stop_seconds: float = 10.0
    ready: Callable[[], bool] | None = None
    ready_seconds: float = 15.0
    death_signal: int = signal.SIGKILL
    """What the child gets when the supervisor itself is killed."""


class Supervisor:
    """Runs children until it is told to stop.

    ``say(name, line)`` gets each line of a child; the supervisor's own lines have the name ``up``. Use it
    from the main thread, which takes SIGINT, SIGTERM and SIGHUP for as long as the ``with`` block lasts.
    The first of them asks to stop; one more while it stops kills what is left.
    """

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self._say = say
        self._selector = selectors.DefaultSelector()
        self._children: list[_Running] = []
        self._signals = 0

    def __enter__(self) -> Supervisor:
        # Python goes on waiting after a signal that raised nothing.
        self._woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._wakes = wakes, signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._noticed) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._selector.close()
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            wakes, before = self._wakes
            signal.set_wakeup_fd(before)
            for descriptor in (self._woken, wakes):
                os.close(descriptor)

    def _noticed(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    @property
    def stopping(self) -> bool:
        """Whether a signal asked to stop."""
        return self._signals > 0

    def start(self, child: Child) -> None:
        """Start a child and wait until it is ready. Raises Unavailable when it ends or takes too long."""
        running = _Running(child)
        self._children.append(running)
        self._spawn(running)
        if child.ready is None:
            return
        deadline = time.monotonic() + child.ready_seconds
        while not child.ready() and not self.stopping:
            self._pump(_TICK)
            if running.ended():
                code = running.process.returncode
                raise Unavailable(f"{child.name} ended {_reason(code)} before it was ready.")
            if time.monotonic() > deadline:
                raise Unavailable(f"{child.name} was not ready after {child.ready_seconds:g} s.")

    def wait(self) -> None:
        """Watch the children until a signal asks to stop."""
        while not self.stopping:
            self._tick(_QUIET_TICK)

    def watch(self, seconds: float) -> None:
        """Watch the children for so many seconds, or until a signal asks to stop."""
        until = time.monotonic() + seconds
        while not self.stopping and (left := until - time.monotonic()) > 0:
            self._tick(min(left, _QUIET_TICK))

    def stop(self) -> None:
        """Stop all children, the highest stage first: SIGTERM, and SIGKILL after their ``stop_seconds``."""
        patience = self._signals
        for stage in sorted({each.child.stage for each in self._children}, reverse=True):
            self._stop_stage([each for each in self._children if each.child.stage == stage], patience)
        self._pump(0)
        for each in self._children:
            self._forget_output(each)
        self._children.clear()

    def _stop_stage(self, children: Sequence[_Running], patience: int) -> None:
        started = time.monotonic()
        for each in children:
            each.terminate()
        while alive := [each for each in children if not each.ended()]:
            for each in alive:
                if self._signals > patience or time.monotonic() - started > each.child.stop_seconds:
                    self._say("up", f"{each.child.name} does not stop; it is killed.")
                    each.kill()
            self._pump(_TICK)

    def _tick(self, timeout: float) -> None:
        self._pump(timeout)
        now = time.monotonic()
        for each in self._children:
            if self.stopping:
                return
            if each.again_at is None and each.ended():
                delay = each.next_delay(now)
                each.again_at = now + delay
                how = _reason(each.process.returncode)
                self._say("up", f"{each.child.name} ended {how}; it starts again in {delay:g} s.")
            elif each.again_at is not None and now >= each.again_at:
                each.again_at = None
                self._forget_output(each)
                self._spawn(each)

    def _spawn(self, running: _Running) -> None:
        running.spawn()
        if running.process.stdout is not None:
            os.set_blocking(running.process.stdout.fileno(), False)
            self._selector.register(running.process.stdout, selectors.EVENT_READ, running)

    def _pump(self, timeout: float) -> None:
        """Pass on what children have written, waiting for it at most ``timeout`` seconds."""
        for key, _ in self._selector.select(timeout):
            running: _Running | None = key.data
            if running is None:
                os.read(self._woken, _LINE_LIMIT)
                continue
            for line in running.read_lines():
                self._say(running.child.name, line)
            if running.at_end:
                self._forget_output(running)

    def _forget_output(self, running: _Running) -> None:
        stream = running.process.stdout
        if stream is not None and not stream.closed:
            with suppress(KeyError):
                self._selector.unregister(stream)
            stream.close()


class _Running:
    """A child with its process of the moment."""

    process: subprocess.Popen[bytes]

    def __init__(self, child: Child) -> None:
        self.child = child
        self.again_at: float | None = None
        self.at_end = False
        self._started = 0.0
        self._delay = 0.0
        self._rest = b""

    def spawn(self) -> None:
        self._started = time.monotonic()
        self.at_end = False
        self.process = subprocess.Popen(
            bound(self.child.argv, self.child.death_signal),
            env={**os.environ, **self.child.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def next_delay(self, now: float) -> float:
        """Seconds until the next start: none after a steady life, then 1, 2, 4… up to half a minute."""
        steady = now - self._started > _STEADY
        self._delay = 0.0 if steady else min(max(1.0, self._delay * 2), _LONGEST_DELAY)
        return self._delay

    def read_lines(self) -> Iterator[str]:
        """Whole lines that have come; a line beyond 64 KiB is cut."""
        if self.process.stdout is None:
            return
        data = os.read(self.process.stdout.fileno(), _LINE_LIMIT)
        self.at_end = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._rest and (self.at_end or len(self._rest) > _LINE_LIMIT):
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            yield line.decode(errors="replace")

    def ended(self) -> bool:
        """Whether the child ended. What it left in its group is killed then, before its id is free."""
        if self.process.returncode is not None:
            return True
        if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        self.kill()
        self.process.wait()
        return True

    def terminate(self) -> None:
        """Ask the child to stop."""
        if self.process.returncode is None:
            self.process.terminate()

    def kill(self) -> None:
        """Kill the child's whole process group, which is its own because it leads a session."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _reason(code: int) -> str:
    if code >= 0:
        return f"with {code}"
    return f"by {signal.Signals(-code).name}"
