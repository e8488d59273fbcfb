# SPDX-License-Identifier: GPL-3.0-or-later
"""Every change of a state goes through here: checked against the table, dated, and recorded in the history."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from relengq.errors import IllegalTransition
from relengq.models import Attempt, History, Run, Step
from relengq.states import AttemptState, RunState, State, StepState, allowed

SYSTEM = "relengq"
"""Who did it, when it was nobody in particular."""


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
    session.add(
        History(
            run_id=run.id,
            step_id=step.id if step else None,
            attempt_id=attempt.id if attempt else None,
            at=now,
            who=who,
            action=action,
            before=before,
            after=after,
            note=note,
        )
    )


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
    record(session, run, f"run {after}", now=now, who=who, note=reason, before=before, after=after)


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
    if after is AttemptState.RUNNING:
        attempt.started_at = now
    if after.final:
        attempt.finished_at = now
        attempt.lease_until = None
    step = attempt.step
    record(
        session, step.run, f"attempt {after}", now=now, who=who, note=message, step=step, attempt=attempt,
        before=before, after=after,
    )  # fmt: skip
