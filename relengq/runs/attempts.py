# SPDX-License-Identifier: GPL-3.0-or-later
"""Attempts: queue one, claim it with a lease and a fencing number, renew the lease, end it.

The row decides who plays an attempt, never the broker: a task that is delivered twice finds the attempt claimed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from relengq.documents import Json
from relengq.errors import StaleAttempt
from relengq.models import Attempt, Run, Step
from relengq.runs.moves import move_attempt, move_run, move_step
from relengq.states import AttemptState, RunState, StepState

_QUEUED = "relengq.queued_runs"
"""Where a session keeps the runs that it has queued attempts for."""


@dataclass(frozen=True)
class Claim:
    """The right to play one attempt, until the lease ends. ``fence`` goes into every later write."""

    attempt_id: int
    run_id: str
    step_id: int
    fence: int
    number: int
    label: str


@dataclass(frozen=True)
class WorkerIdentity:
    """Who claims: Celery's node name, the host, and the process that plays."""

    node: str
    host: str
    pid: int


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, as the worker tells it."""

    state: AttemptState
    message: str | None = None
    return_code: int | None = None
    stats: dict[str, Json] | None = None
    outputs: dict[str, Json] | None = None


def queue_attempt(
    session: Session, step: Step, *, queue: str, now: datetime, due_at: datetime, reason: str | None = None
) -> Attempt:
    """Add the next attempt of a step. It is sent to the broker after the commit, when it is due."""
    number = 1 + (session.scalar(select(func.max(Attempt.number)).where(Attempt.step_id == step.id)) or 0)
    step.queue = queue
    attempt = Attempt(
        step=step,
        run_id=step.run_id,
        number=number,
        state=AttemptState.QUEUED,
        queue=queue,
        label=f"{step.run.workflow}: {step.label} #{number}",
        created_at=now,
        due_at=due_at,
    )
    session.add(attempt)
    session.info.setdefault(_QUEUED, set()).add(step.run_id)
    move_step(session, step, StepState.QUEUED, now=now, reason=reason)
    return attempt


def queued_runs(session: Session) -> set[str]:
    """The runs for which this session has queued attempts: what to send after its commit."""
    return set(session.info.get(_QUEUED, ()))


def claim(
    session: Session,
    attempt_id: int,
    who: WorkerIdentity,
    *,
    clock: Callable[[Session], datetime],
    lease: timedelta,
) -> Claim | None:
    """Take an attempt, or None when it is taken, ended, not due, or its run is on hold.

    The lease begins when the run's lock has been had, which ``clock`` is asked for: waiting for it must not eat it up.
    """
    found = session.get(Attempt, attempt_id)
    if found is None:
        return None
    run = session.get_one(Run, found.run_id, with_for_update=True)
    session.refresh(found)
    now = clock(session)
    if found.state is AttemptState.QUEUED and run.state.final:
        move_attempt(session, found, AttemptState.CANCELLED, now=now)
        return None
    if run.held:
        found.sent_at = None
        return None
    taken = session.execute(
        update(Attempt)
        .where(Attempt.id == attempt_id, Attempt.state == AttemptState.QUEUED, Attempt.due_at <= now)
        .values(fence=Attempt.fence + 1, host=who.host, worker=who.node, pid=who.pid, lease_until=now + lease)
        .returning(Attempt.id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if taken is None:
        return None
    session.refresh(found)
    move_attempt(session, found, AttemptState.RUNNING, now=now, who=f"worker {who.host}")
    move_step(session, found.step, StepState.RUNNING, now=now)
    if run.state is not RunState.RUNNING:
        move_run(session, run, RunState.RUNNING, now=now)
    return Claim(found.id, run.id, found.step_id, found.fence, found.number, found.label)


def renew(session: Session, held: Claim, *, now: datetime, lease: timedelta) -> str | None:
    """Make the lease longer. Returns why the play must stop, if somebody asked for it.

    Raises StaleAttempt when the lease ran out and the attempt was taken away.
    """
    row = session.execute(
        update(Attempt)
        .where(
            Attempt.id == held.attempt_id,
            Attempt.fence == held.fence,
            Attempt.state == AttemptState.RUNNING,
        )
        .values(lease_until=now + lease)
        .returning(Attempt.stop_reason)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        raise StaleAttempt(f"attempt {held.label} of run {held.run_id} is no longer held by this worker")
    reason: str | None = row[0]
    return reason


def held_attempt(session: Session, held: Claim) -> Attempt:
    """The claimed attempt, with its run locked. Raises StaleAttempt when the claim is out of date."""
    session.get_one(Run, held.run_id, with_for_update=True)
    attempt = session.get(Attempt, held.attempt_id, populate_existing=True)
    if attempt is None or attempt.fence != held.fence or attempt.state is not AttemptState.RUNNING:
        raise StaleAttempt(f"attempt {held.label} of run {held.run_id} is no longer held by this worker")
    return attempt


def end_attempt(session: Session, attempt: Attempt, ending: Ending, *, now: datetime, who: str) -> None:
    """Store how an attempt ended. What follows for its step is the engine's to say."""
    attempt.return_code = ending.return_code
    attempt.stats = ending.stats
    attempt.outputs = ending.outputs
    move_attempt(session, attempt, ending.state, now=now, message=ending.message, who=who)


def cancel_queued(session: Session, step: Step, *, now: datetime, who: str) -> None:
    """Withdraw a step's attempts that nobody has taken."""
    for attempt in step.attempts:
        if attempt.state is AttemptState.QUEUED:
            move_attempt(session, attempt, AttemptState.CANCELLED, now=now, who=who)


def stop_running(step: Step, reason: str) -> bool:
    """Ask the worker that plays a step to stop. Returns whether there was one."""
    running = [attempt for attempt in step.attempts if attempt.state is AttemptState.RUNNING]
    for attempt in running:
        attempt.stop_reason = reason
    return bool(running)
