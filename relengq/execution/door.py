# SPDX-License-Identifier: GPL-3.0-or-later
"""``play``: the one way in which relengq runs Ansible."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from relengq.durations import human
from relengq.errors import AttemptFault
from relengq.execution.command import prepare
from relengq.execution.events import Events
from relengq.execution.lifeline import Lifeline
from relengq.execution.masking import Mask
from relengq.execution.messages import exit_message
from relengq.execution.order import Outcome, PlayOrder, Sink, Stop
from relengq.execution.output import Mark, Splitter
from relengq.execution.private import private_directory
from relengq.execution.processes import Guard, sweep
from relengq.execution.runner import Running
from relengq.states import AttemptState

_TICK = 0.1
"""Seconds between two looks at ``stop`` and the time-out."""
_READ_BYTES = 1 << 18
_TAIL = 16_000
"""Characters at the end of the output in which Ansible's own error is looked for."""
_NOTHING_DONE = "No play found a host in the inventory: nothing was done."


def play(
    order: PlayOrder, sink: Sink, stop: Callable[[], Stop | None], until: Callable[[], float] | None = None
) -> Outcome:
    """Play the playbook to its end and say how it ended.

    ``stop`` is asked about every ``_TICK`` seconds and must answer at once; a reason kills the play with
    everything it started. So does the time-out, an exception of the sink (which is raised again), and the end
    of the worker. ``until`` is asked as often for the moment (of ``time.monotonic``) at which the play ends when
    this process stands still. Raises AttemptFault when the play cannot begin: no such playbook or inventory, no
    ansible-playbook, full disk.
    """
    with _private(order) as private:
        mask = Mask(order.hidden)
        events = Events(sink, mask)
        try:
            command = prepare(order, private)
            guard = Guard(private, command.arguments)
            made = Running(command, guard.command, private, events.handle)
            lifeline = Lifeline(private, until)
        except OSError as error:
            raise _cannot_write(order.workdir, error) from error
        with lifeline, made as running:
            reading = _Reading(running, sink, mask)
            try:
                reading.start()
                ending = _supervise(order, running, reading, stop, lifeline)
            finally:
                _end(running, guard, private.name)
            reading.join()
        if reading.fault is not None:
            raise reading.fault
        return _outcome(order, ending, running, events, mask.text(reading.tail))


def _supervise(
    order: PlayOrder, running: Running, reading: _Reading, stop: Callable[[], Stop | None], lifeline: Lifeline
) -> AttemptState | None:
    """Wait for the end of the play: None when it ended by itself."""
    deadline = None if order.timeout is None else time.monotonic() + order.timeout
    while not running.ended.wait(_TICK):
        if reading.fault is not None:
            return AttemptState.FAILED
        if reason := stop():
            return AttemptState(reason.value)
        if deadline is not None and time.monotonic() >= deadline:
            return AttemptState.TIMED_OUT
        lifeline.put_off()
    # A guard that ended the play, because this process stood still, did so for a reason that is known here as well.
    reason = stop() if running.return_code < 0 else None
    return AttemptState(reason.value) if reason else None


def _end(running: Running, guard: Guard, mark: str) -> None:
    """See to it that the guard has ended, and with it everything that it guards."""
    asked = False
    while not running.ended.is_set():
        asked = asked or guard.stop()
        running.ended.wait(_TICK / 10)
    guard.close()
    if running.return_code < 0 or running.complaint is not None:
        # Whoever was killed may have been the guard itself.
        sweep(mark)


def _outcome(order: PlayOrder, ending: AttemptState | None, running: Running, events: Events, tail: str) -> Outcome:
    state = ending or (AttemptState.SUCCEEDED if running.return_code == 0 else AttemptState.FAILED)
    message = _message(order, state, running, events, tail)
    return Outcome(state, running.return_code, events.stats, events.outputs, message)


def _message(order: PlayOrder, state: AttemptState, running: Running, events: Events, tail: str) -> str | None:
    match state:
        case AttemptState.SUCCEEDED:
            return _NOTHING_DONE if events.nothing_matched else None
        case AttemptState.TIMED_OUT:
            limit = human(order.timeout or 0)
            return f"The play was killed at its timeout of {limit}{events.place}."
        case AttemptState.FAILED:
            if running.complaint is not None:
                return f"ansible-playbook could not be started: {running.complaint}"
            return events.failure or exit_message(running.return_code, tail)
        case AttemptState.LOST:
            return f"The play was killed because this worker could not renew its lease{events.place}."
        case _:
            return f"The play was {state.value}{events.place}."


@contextmanager
def _private(order: PlayOrder) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            private = stack.enter_context(private_directory(order.workdir))
        except OSError as error:
            raise _cannot_write(order.workdir, error) from error
        yield private


def _cannot_write(workdir: Path, error: OSError) -> AttemptFault:
    return AttemptFault(f"The work directory {workdir} cannot be written on this worker: {error.strerror}.")


class _Reading:
    """Reads a play's output in a thread of its own, so that a sink that blocks delays no stop and no time-
    out.
    """

    def __init__(self, running: Running, sink: Sink, mask: Mask) -> None:
        self._running = running
        self._sink = sink
        self._masked = mask.stream()
        self._splitter = Splitter()
        self._thread = threading.Thread(target=self._run, name="play-output", daemon=True)
        self.tail = ""
        self.fault: Exception | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait until all output has been delivered."""
        self._thread.join()

    def _run(self) -> None:
        try:
            while data := self._read():
                for part in self._splitter.feed(data):
                    if isinstance(part, Mark):
                        self._running.event(part.uuid)
                    else:
                        self._put(self._masked.feed(part))
            for part in self._splitter.end():
                if isinstance(part, str):
                    self._put(self._masked.feed(part))
            self._put(self._masked.end())
        except Exception as error:
            # Raised again in the thread that called play().
            self.fault = error
        finally:
            os.close(self._running.reader)

    def _read(self) -> bytes:
        """The next bytes, b"" at the end. Whoever survived the guard may hold the pipe open: that is no
        reason to wait.
        """
        while not select.select([self._running.reader], [], [], _TICK)[0]:
            if self._running.ended.is_set():
                return b""
        return os.read(self._running.reader, _READ_BYTES)

    def _put(self, text: str) -> None:
        if text:
            self.tail = (self.tail + text)[-_TAIL:]
            self._sink.output(text)
