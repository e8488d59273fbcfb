# SPDX-License-Identifier: GPL-3.0-or-later
"""Every change of a state goes through here: checked against the table, dated, and recorded in the history."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.orm import Session

from relengq.errors import IllegalTransition
from relengq.models import Attempt, History, Run, Step, Wait
from relengq.states import AttemptState, RunState, State, StepState, allowed

SYSTEM = "relengq"
"""Who did it, when it was nobody in particular."""
_MOVES = "relengq.moves"
"""Where a session keeps what it has recorded, until it is asked for it."""


def record(
    session: Session,
    run: Run,
    action: str,
    *,
    now: datetime,
    who: str = SYSTEM,
    note: str | None = None,
    step: Step | None = None,
    attempt: Attempt | None = None,
    before: State | None = None,
    after: State | None = None,
) -> None:
    """Add a line to the run's history."""
    line = History(
        run=run,
        run_id=run.id,
        step=step,
        step_id=step.id if step else None,
        attempt_id=attempt.id if attempt else None,
        at=now,
        who=who,
        action=action,
        before=before,
        after=after,
        note=note,
    )
    session.add(line)
    session.info.setdefault(_MOVES, []).append(line)


def taken_moves(session: Session) -> list[History]:
    """What has been recorded in this session and stands, oldest first. Each line is given once.

    Lines of a savepoint that was rolled back are not among them.
    """
    session.flush()
    lines: list[History] = session.info.pop(_MOVES, [])
    return [line for line in lines if line in session]


def move_run(
    session: Session,
    run: Run,
    after: RunState,
    *,
    now: datetime,
    reason: str | None = None,
    who: str = SYSTEM,
) -> None:
    """Bring a run into a state. Raises IllegalTransition when the table does not have it."""
    before = run.state
    run.reason = reason
    if before is after:
        return
    if not allowed(before, after):
        raise IllegalTransition(f"run {run.id} cannot go from {before} to {after}")
    run.state = after
    if after in (RunState.RUNNING, RunState.WAITING) and run.started_at is None:
        run.started_at = now
    if after.final:
        run.finished_at = now
        session.execute(delete(Wait).where(Wait.run_id == run.id))
    record(session, run, f"run {after}", now=now, who=who, note=reason, before=before, after=after)


def off_hold(session: Session, run: Run, *, now: datetime, who: str = SYSTEM) -> None:
    """Let the run go on, if it is held."""
    run.held = False
    if run.state is RunState.HELD:
        move_run(session, run, RunState.RUNNING if run.started_at else RunState.QUEUED, now=now, who=who)


def move_step(
    session: Session,
    step: Step,
    after: StepState,
    *,
    now: datetime,
    reason: str | None = None,
    who: str = SYSTEM,
) -> None:
    """Bring a step into a state. Raises IllegalTransition when the table does not have it."""
    before = step.state
    step.reason = reason
    if before is after:
        return
    if not allowed(before, after):
        raise IllegalTransition(f"step {step.label} of run {step.run_id} cannot go from {before} to {after}")
    step.state = after
    if after in (StepState.RUNNING, StepState.WAITING) and step.started_at is None:
        step.started_at = now
    if after.final:
        step.finished_at = now
        step.due_at = None
    record(
        session,
        step.run,
        f"step {after}",
        now=now,
        who=who,
        note=reason,
        step=step,
        before=before,
        after=after,
    )


def move_attempt(
    session: Session,
    attempt: Attempt,
    after: AttemptState,
    *,
    now: datetime,
    message: str | None = None,
    who: str = SYSTEM,
) -> None:
    """Bring an attempt into a state. Raises IllegalTransition when the table does not have it."""
    before = attempt.state
    if not allowed(before, after):
        raise IllegalTransition(f"attempt {attempt.label} of run {attempt.run_id} cannot go from {before} to {after}")
    attempt.state = after
    attempt.message = message
    if after.final:
        attempt.finished_at = now
        attempt.lease_until = None
    _record_attempt(session, attempt, before, now=now, note=message, who=who)


def taken_attempt(session: Session, attempt: Attempt, *, now: datetime, who: str) -> None:
    """Record that a queued attempt is running by now: that was written by the compare-and-set of the claim."""
    _record_attempt(session, attempt, AttemptState.QUEUED, now=now, note=None, who=who)


def _record_attempt(
    session: Session, attempt: Attempt, before: AttemptState, *, now: datetime, note: str | None, who: str
) -> None:
    step, after = attempt.step, attempt.state
    record(
        session, step.run, f"attempt {after}", now=now, who=who, note=note, step=step, attempt=attempt,
        before=before, after=after,
    )  # fmt: skip
