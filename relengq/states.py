# SPDX-License-Identifier: GPL-3.0-or-later
"""The states of runs, steps and attempts, and the one table of allowed transitions between them."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias


class RunState(StrEnum):
    """What a person sees of a run."""

    QUEUED = "queued"
    """Accepted; its first step has not been taken yet. Its reason says what it waits for."""
    RUNNING = "running"
    """A worker has taken a step of it."""
    WAITING = "waiting"
    """Its current step waits for a person's approval or for a bus message; no worker is held."""
    HELD = "held"
    """A person (or ``on_lost: hold``) stopped it from going on; ``release`` lets it go on."""
    SUCCEEDED = "succeeded"
    """Every step succeeded, was skipped, or was allowed to fail."""
    FAILED = "failed"
    """A step failed that may not, or the run took longer than its ``timeout``."""
    CANCELLED = "cancelled"
    """A person, or a newer run of its group (``cancel-running``), stopped it."""
    SKIPPED = "skipped"
    """It never began: its concurrency group was busy and ``when_busy`` is ``skip``."""

    @property
    def final(self) -> bool:
        """Whether nothing follows this state."""
        return not TRANSITIONS[RunState][self]


class StepState(StrEnum):
    """What a person sees of a step, or of one instance of a step with a matrix."""

    PENDING = "pending"
    """Not reached yet: a step before it has not ended."""
    QUEUED = "queued"
    """An attempt is to be taken by a worker; it may have to wait for a retry's delay first."""
    RUNNING = "running"
    """A worker plays it."""
    WAITING = "waiting"
    """It waits for a person's approval or for a bus message."""
    HELD = "held"
    """Its worker was lost and ``on_lost`` is ``hold``: a person decides."""
    SUCCEEDED = "succeeded"
    """It was played, approved or answered, or its result was kept by a rerun."""
    FAILED = "failed"
    """Its last attempt failed, it was rejected, nobody answered in time, or an expression of it failed."""
    CANCELLED = "cancelled"
    """It was stopped together with its run."""
    SKIPPED = "skipped"
    """Its ``when`` was false, its matrix was empty, or the run ended before it was reached."""

    @property
    def final(self) -> bool:
        """Whether nothing follows this state."""
        return not TRANSITIONS[StepState][self]


class AttemptState(StrEnum):
    """What became of one try of a step on one worker."""

    QUEUED = "queued"
    """No worker has taken it yet."""
    RUNNING = "running"
    """A worker plays it and renews its lease."""
    SUCCEEDED = "succeeded"
    """Ansible ended without a failure."""
    FAILED = "failed"
    """A task failed, a host could not be reached, or the attempt could not be played at all."""
    TIMED_OUT = "timed_out"
    """It ran longer than the step's ``timeout`` and was killed; counts as a failure."""
    LOST = "lost"
    """Its worker stopped renewing the lease: the host or the worker died."""
    INTERRUPTED = "interrupted"
    """Its worker was stopped on purpose; does not count as a failure."""
    CANCELLED = "cancelled"
    """It was withdrawn, or killed because its run was cancelled."""

    @property
    def final(self) -> bool:
        """Whether nothing follows this state."""
        return not TRANSITIONS[AttemptState][self]


State: TypeAlias = RunState | StepState | AttemptState

_R, _S, _A = RunState, StepState, AttemptState

TRANSITIONS: dict[type[State], dict[State, frozenset[State]]] = {
    RunState: {
        _R.QUEUED: frozenset({_R.RUNNING, _R.WAITING, _R.HELD, _R.SUCCEEDED, _R.FAILED, _R.CANCELLED, _R.SKIPPED}),
        _R.RUNNING: frozenset({_R.WAITING, _R.HELD, _R.SUCCEEDED, _R.FAILED, _R.CANCELLED}),
        _R.WAITING: frozenset({_R.RUNNING, _R.HELD, _R.SUCCEEDED, _R.FAILED, _R.CANCELLED}),
        _R.HELD: frozenset({_R.QUEUED, _R.RUNNING, _R.WAITING, _R.SUCCEEDED, _R.FAILED, _R.CANCELLED}),
        _R.SUCCEEDED: frozenset(),
        _R.FAILED: frozenset(),
        _R.CANCELLED: frozenset(),
        _R.SKIPPED: frozenset(),
    },
    StepState: {
        _S.PENDING: frozenset({_S.QUEUED, _S.WAITING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED, _S.SKIPPED}),
        _S.QUEUED: frozenset({_S.RUNNING, _S.HELD, _S.FAILED, _S.CANCELLED}),
        _S.RUNNING: frozenset({_S.QUEUED, _S.HELD, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
        _S.WAITING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
        _S.HELD: frozenset({_S.QUEUED, _S.FAILED, _S.CANCELLED}),
        _S.SUCCEEDED: frozenset(),
        _S.FAILED: frozenset(),
        _S.CANCELLED: frozenset(),
        _S.SKIPPED: frozenset(),
    },
    AttemptState: {
        _A.QUEUED: frozenset({_A.RUNNING, _A.CANCELLED}),
        _A.RUNNING: frozenset({_A.SUCCEEDED, _A.FAILED, _A.TIMED_OUT, _A.LOST, _A.INTERRUPTED, _A.CANCELLED}),
        _A.SUCCEEDED: frozenset(),
        _A.FAILED: frozenset(),
        _A.TIMED_OUT: frozenset(),
        _A.LOST: frozenset(),
        _A.INTERRUPTED: frozenset(),
        _A.CANCELLED: frozenset(),
    },
}
"""``TRANSITIONS[kind][state]`` is the set of states that may follow ``state``. Nothing else is ever written."""


def allowed(before: State, after: State) -> bool:
    """Whether the table lets ``after`` follow ``before``."""
    return type(before) is type(after) and after in TRANSITIONS[type(before)][before]
