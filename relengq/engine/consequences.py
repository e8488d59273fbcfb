# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows for a step when one of its attempts has ended: done, again, held, or failed."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from relengq.engine.advance import advance, or_break_off
from relengq.engine.installation import Installation
from relengq.errors import WrongState
from relengq.models import Attempt, Step
from relengq.runs.attempts import Ending, end_attempt, queue_attempt
from relengq.runs.definitions import workflow_of
from relengq.runs.moves import SYSTEM, move_step
from relengq.states import AttemptState, StepState
from relengq.workflows import PlaybookStep, Retry


def attempt_ended(
    session: Session,
    installation: Installation,
    attempt: Attempt,
    ending: Ending,
    *,
    now: datetime,
    who: str,
    guarded: bool = True,
) -> None:
    """Store the ending, settle the step, and advance the run, all in the caller's transaction.

    Whatever is wrong with what follows, the ending is kept: a step that was played is not played again for it. Not
    ``guarded``, what is wrong is raised, and the caller gives up the transaction and does it again in a guarded way.
    """
    end_attempt(session, attempt, ending, now=now, who=who)
    step = attempt.step
    if not guarded:
        _settle(session, step, attempt, ending, now)
        advance(session, installation, step.run, now, guarded=False)
        return

    def settled() -> bool:
        _settle(session, step, attempt, ending, now)
        return False

    or_break_off(session, step.run, now, settled)
    advance(session, installation, step.run, now)


def _settle(session: Session, step: Step, attempt: Attempt, ending: Ending, now: datetime) -> None:
    declared = workflow_of(step.run).chain[step.position]
    if not isinstance(declared, PlaybookStep):
        raise WrongState(f"step {step.label} of run {step.run_id} is of kind {declared.kind}, which has no attempts")
    if ending.state is AttemptState.SUCCEEDED:
        step.outputs = ending.outputs or {}
        move_step(session, step, StepState.SUCCEEDED, now=now)
    elif attempt.stop_reason == "cancelled" or ending.state is AttemptState.CANCELLED:
        move_step(session, step, StepState.CANCELLED, now=now, reason=f"stopped by {step.run.stopped_by or SYSTEM}")
    elif ending.state is AttemptState.INTERRUPTED:
        _again(session, step, attempt, now, now, f"the worker on {attempt.host} was stopped; handed back")
    elif ending.state is AttemptState.LOST:
        _lost(session, step, declared, attempt, now)
    else:
        _failed(session, step, declared, attempt, ending, now)


def _failed(
    session: Session, step: Step, declared: PlaybookStep, attempt: Attempt, ending: Ending, now: datetime
) -> None:
    step.failures += 1
    retry = declared.retry
    message = ending.message or f"{ending.state}"
    if step.failures < retry.attempts and (step.final or not step.run.stop_as):
        due = now + timedelta(seconds=delay(retry, step.failures))
        _again(session, step, attempt, now, due, f"try {step.failures + 1} of {retry.attempts}; {message}")
    else:
        step.outputs = ending.outputs or {}  # what it did hand on is there for finally
        move_step(session, step, StepState.FAILED, now=now, reason=message)


def delay(retry: Retry, failures: int) -> float:
    """Seconds to wait before the try that follows ``failures`` failures: delay x backoff^(failures - 1)."""
    longest = retry.max_delay if retry.max_delay is not None else 7 * 86400.0
    try:
        return min(retry.delay * retry.backoff ** (failures - 1), longest)
    except OverflowError:
        return longest


def _lost(session: Session, step: Step, declared: PlaybookStep, attempt: Attempt, now: datetime) -> None:
    step.losses += 1
    where = f"lost with its worker on {attempt.host}"
    if declared.on_lost == "hold":
        move_step(session, step, StepState.HELD, now=now, reason=f"attempt {attempt.number} was {where}")
        if step.run.held:  # whoever releases the run is to know that this step is played again by it
            step.run.reason = f"{step.run.reason or 'held'}; {step.label}: {step.reason}"
    elif declared.on_lost == "fail" or step.losses > declared.lost_limit:
        times = f" ({step.losses} times)" if step.losses > 1 else ""
        move_step(session, step, StepState.FAILED, now=now, reason=f"attempt {attempt.number} was {where}{times}")
    else:
        _again(session, step, attempt, now, now, f"attempt {attempt.number} was {where}; played again")


def _again(session: Session, step: Step, attempt: Attempt, now: datetime, due: datetime, reason: str) -> None:
    queue_attempt(session, step, queue=attempt.queue, now=now, due_at=due, reason=reason)
