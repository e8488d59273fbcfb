# SPDX-License-Identifier: GPL-3.0-or-later
"""``play``: the one way in which relengq runs Ansible."""

from __future__ import annotations

import signal
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
from relengq.execution.means import host
from relengq.execution.messages import exit_message
from relengq.execution.order import Outcome, PlayOrder, Sink, Stop
from relengq.execution.pipe import EventPipe
from relengq.execution.private import private_directory
from relengq.execution.processes import Guard, end_leftovers
from relengq.execution.reading import Reading
from relengq.execution.runner import Running
from relengq.execution.servers import Answer, Wanted, offer
from relengq.pools import human_size
from relengq.states import AttemptState

_TICK = 0.1
"""Seconds between two looks at ``stop`` and the time-out."""
_PATIENCE = 5.0
"""Seconds after which a guard that was asked to end the play, and does not (somebody stopped it), is killed."""
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
            made = Running(command, private)
            wanted = Wanted(command.arguments[0], made.environment, command.directory, private)
            offered = offer(order.warm, wanted)
            warm = offered.socket if offered else None
            guard = Guard(private, command.arguments, host().plan(order.guard, order.memory, warm=warm))
            pipe = EventPipe(private)
            lifeline = Lifeline(private, until)
        except OSError as error:
            raise _cannot_write(order.workdir, error) from error
        with lifeline, pipe, made.under(guard.command) as running:
            reading = Reading(running.reader, pipe, running.ended, events, sink, mask)
            try:
                reading.start()
                ending = _supervise(order, running, reading, stop, lifeline, Answer(offered, private, order.label))
            finally:
                _end(running, guard, private)
            reading.join()
        if reading.fault is not None:
            raise reading.fault
        if ending is None and guard.exceeded:
            return _too_large(order, running, events)
        return _outcome(order, ending, running, events, reading.tail, mask)


def _supervise(
    order: PlayOrder,
    running: Running,
    reading: Reading,
    stop: Callable[[], Stop | None],
    lifeline: Lifeline,
    answer: Answer,
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
        answer.look()
    answer.look()
    # A guard that ended the play, because this process stood still, did so for a reason that is known here as well.
    reason = stop() if running.return_code < 0 else None
    return AttemptState(reason.value) if reason else None


def _end(running: Running, guard: Guard, private: Path) -> None:
    """See to it that the guard has ended, and with it everything that it guards."""
    asked: float | None = None
    while not running.ended.is_set():
        if asked is None:
            asked = time.monotonic() if guard.stop() else None
        elif time.monotonic() > asked + _PATIENCE:
            guard.stop(signal.SIGKILL)
        running.ended.wait(_TICK / 10)
    guard.close()
    if running.return_code < 0 or running.complaint is not None:
        # Whoever was killed may have been the guard itself.
        end_leftovers(private)


def _outcome(
    order: PlayOrder, ending: AttemptState | None, running: Running, events: Events, tail: str, mask: Mask
) -> Outcome:
    state = ending or (AttemptState.SUCCEEDED if running.return_code == 0 else AttemptState.FAILED)
    message = _message(order, state, running, events, tail)
    # What is said of the end itself (by ansible-runner, above all) has not been masked yet.
    masked = None if message is None else mask.text(message)
    return Outcome(state, running.return_code, events.stats, events.outputs, masked)


def _too_large(order: PlayOrder, running: Running, events: Events) -> Outcome:
    """A play that was ended for its memory has failed, whatever it made of the processes that were killed first."""
    limit = human_size(order.memory or 0)
    message = f"The play was killed because it used more than the pool's memory limit of {limit}{events.place}."
    return Outcome(AttemptState.FAILED, running.return_code, events.stats, events.outputs, message)


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
