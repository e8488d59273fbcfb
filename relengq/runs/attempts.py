# SPDX-License-Identifier: GPL-3.0-or-later
"""Attempts: queue one, claim it with a lease and a fencing number, renew the lease, end it.

The row decides who plays an attempt, never the broker: a task that is delivered twice finds the attempt claimed.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from relengq.database import Database, in_utc
from relengq.documents import Json
from relengq.errors import StaleAttempt
from relengq.models import Attempt, Run, Step
from relengq.runs.moves import move_attempt, move_run, move_step, taken_attempt
from relengq.states import AttemptState, RunState, StepState

_QUEUED = "relengq.queued_runs"
"""Where a session keeps the attempts that it has queued."""


@dataclass(frozen=True)
class Claim:
    """The right to play one attempt, until the lease ends. ``fence`` goes into every later write."""

    attempt_id: int
    run_id: str
    step_id: int
    fence: int
    number: int
    label: str
    step: str
    """The step's name, without what a matrix made of inputs."""


@dataclass(frozen=True)
class WorkerIdentity:
    """Who claims: Celery's node name, the host, the process that plays, and a token for this one delivery.

    By the token a claim is recognised whose commit happened although the connection broke before it was confirmed.
    """

    node: str
    host: str
    pid: int
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


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
    number = 1
    if step.state is not StepState.PENDING:  # to which nothing leads back
        number += session.scalar(select(func.max(Attempt.number)).where(Attempt.step_id == step.id)) or 0
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
    session.info.setdefault(_QUEUED, []).append(attempt)
    move_step(session, step, StepState.QUEUED, now=now, reason=reason)
    return attempt


def queued_runs(session: Session) -> set[str]:
    """The runs for which this session has queued attempts: what to send after its commit."""
    return {attempt.run_id for attempt in queued_attempts(session)}


def queued_attempts(session: Session) -> list[Attempt]:
    """The attempts that this session has queued, oldest first, without those of savepoints that were rolled back."""
    made: list[Attempt] = session.info.get(_QUEUED, [])
    return [attempt for attempt in made if attempt in session]


def claim(session: Session, attempt_id: int, who: WorkerIdentity, *, clock: Database, lease: timedelta) -> Claim | None:
    """Take an attempt, or None when it is taken, ended, not due, or its run is on hold.

    The lease begins when the run's lock has been had: waiting for that must not eat it up. Its time is the database's.
    Who holds it already under the same token is given it again, with a new lease.
    """
    attempt = take(session, attempt_id, who, clock=clock, lease=lease)
    return claim_of(attempt) if attempt is not None else None


def take(
    session: Session, attempt_id: int, who: WorkerIdentity, *, clock: Database, lease: timedelta
) -> Attempt | None:
    """As ``claim``; gives the attempt itself, with its run and all its steps, so that nothing has to be read again."""
    of_attempt = select(Attempt.run_id).where(Attempt.id == attempt_id).scalar_subquery()
    run = session.scalar(select(Run).where(Run.id == of_attempt).with_for_update())
    if run is None:
        return None  # it is not there, or was deleted meanwhile, with its run
    taken = None if run.held or run.state.final else _compare_and_set(session, attempt_id, who, clock, lease)
    if taken is None:
        return _not_taken(session, run, attempt_id, who, clock, lease)
    _with_run(run, taken)
    now = taken.started_at
    assert now is not None  # noqa: S101 -- it has just been set
    taken_attempt(session, taken, now=now, who=f"worker {who.host}")
    move_step(session, taken.step, StepState.RUNNING, now=now)
    if run.state not in (RunState.RUNNING, RunState.HELD):  # held by the loss of another instance: that goes on
        move_run(session, run, RunState.RUNNING, now=now)
    return taken


def _compare_and_set(
    session: Session, attempt_id: int, who: WorkerIdentity, clock: Database, lease: timedelta
) -> Attempt | None:
    """What makes an attempt this worker's: of several that ask for it, one finds it queued."""
    now = clock.moment()
    return session.scalars(
        update(Attempt)
        .where(Attempt.id == attempt_id, Attempt.state == AttemptState.QUEUED, Attempt.due_at <= now)
        .values(
            state=AttemptState.RUNNING,
            started_at=now,
            fence=Attempt.fence + 1,
            claim_token=who.token,
            host=who.host,
            worker=who.node,
            pid=who.pid,
            lease_until=clock.moment(lease),
        )
        .returning(Attempt)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).one_or_none()


def _not_taken(
    session: Session, run: Run, attempt_id: int, who: WorkerIdentity, clock: Database, lease: timedelta
) -> Attempt | None:
    """Why it was not to be had: it is this worker's already, or not for it."""
    found = session.get(Attempt, attempt_id, populate_existing=True)
    if found is None:
        return None
    now = clock.now(session)
    if found.state is AttemptState.RUNNING and found.claim_token == who.token:
        found.lease_until = now + lease
        return _with_run(run, found)
    if found.state is AttemptState.QUEUED and run.state.final:
        move_attempt(session, found, AttemptState.CANCELLED, now=now)
    elif run.held:
        found.sent_at = None
    return None


def _with_run(run: Run, attempt: Attempt) -> Attempt:
    """The attempt, which from now on keeps its step, the run and all of its steps in the session."""
    _ = run.steps, attempt.step.run  # in this order one question gets them all
    return attempt


def claim_of(attempt: Attempt) -> Claim:
    """The right to play an attempt that was taken."""
    return Claim(
        attempt.id, attempt.run_id, attempt.step_id, attempt.fence, attempt.number, attempt.label, attempt.step.name
    )


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
        raise StaleAttempt(f"attempt {held.attempt_id} of run {held.run_id} is no longer held by this worker")
    reason: str | None = row[0]
    return reason


def held_attempt(session: Session, held: Claim, clock: Database) -> tuple[Attempt, datetime]:
    """The claimed attempt, with its run locked, and the time. Raises StaleAttempt when the claim is out of date."""
    run = session.get(Run, held.run_id, with_for_update=True)
    # With all the run's steps, which whoever ends it looks at, in one question: asked when the lock has been had.
    rows = session.execute(
        select(Step, Attempt, clock.moment().label("now"))
        .outerjoin(Attempt, and_(Attempt.step_id == Step.id, Attempt.id == held.attempt_id))
        .where(Step.run_id == held.run_id)
        .order_by(Step.position, Step.instance)
        .execution_options(populate_existing=True)
    ).all()
    attempt = next((row.Attempt for row in rows if row.Attempt is not None), None)
    if run is None or attempt is None or attempt.fence != held.fence or attempt.state is not AttemptState.RUNNING:
        raise StaleAttempt(f"attempt {held.attempt_id} of run {held.run_id} is no longer held by this worker")
    set_committed_value(run, "steps", [row.Step for row in rows])
    return _with_run(run, attempt), in_utc(rows[0].now)


def has_ended(session: Session, held: Claim, state: AttemptState) -> bool:
    """Whether the attempt has ended so under this very claim."""
    row = session.execute(select(Attempt.fence, Attempt.state).where(Attempt.id == held.attempt_id)).one_or_none()
    return row is not None and row.fence == held.fence and row.state is state


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
