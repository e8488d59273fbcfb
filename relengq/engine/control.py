# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person does to a run: cancel, approve, reject, hold, release. Each is recorded with who did it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from relengq.engine.advance import advance
from relengq.engine.consequences import attempt_ended
from relengq.engine.dispatch import send_due
from relengq.engine.installation import Installation
from relengq.engine.unheard import until_heard
from relengq.errors import NotFound, Unavailable, UsageFault, WrongState, did_you_mean
from relengq.models import Attempt, History, Run, Step
from relengq.runs.attempts import Ending, cancel_queued, queue_attempt, queued_runs, stop_running
from relengq.runs.moves import move_run, move_step, off_hold, record
from relengq.states import AttemptState, RunState, StepState

_log = structlog.get_logger(__name__)

Action = Callable[[Session, Run, datetime], None]


def _act(installation: Installation, run_id: str, action: Action) -> None:
    """Do something to a run in one transaction with the run locked, then send what it queued.

    Every action leaves a line in the history. By its moment a try is recognised that was committed while the connection
    broke: it is not done again, since a second cancel is more than one.
    """
    queued = {run_id}
    moment: datetime | None = None

    def once() -> None:
        nonlocal moment
        with installation.database.write() as session:
            run = session.scalar(select(Run).where(Run.id == run_id).with_for_update())
            if run is None:
                raise NotFound(f"There is no run {run_id}.", hint="See 'relengq runs'.")
            if moment is not None and _recorded(session, run_id, moment):
                return
            now = installation.database.now(session)
            action(session, run, now)
            session.flush()
            queued.update(queued_runs(session))
            moment = now

    until_heard(once, lambda: moment is not None)
    _send(installation, run_id, queued)


def _send(installation: Installation, run_id: str, queued: set[str]) -> None:
    try:
        send_due(installation, queued)
    except Unavailable as error:  # what was asked for is done; the clock sends
        _log.warning("dispatch.postponed", run_id=run_id, error=str(error))


def _recorded(session: Session, run_id: str, at: datetime) -> bool:
    line = select(History.id).where(History.run_id == run_id, History.at == at).limit(1)
    return session.scalar(line) is not None


def cancel(installation: Installation, run_id: str, *, who: str, note: str | None = None) -> None:
    """Cancel a run: what is queued is withdrawn, what runs is killed, ``finally`` still runs.

    A second cancel stops the steps of ``finally`` too, whether they are reached yet or not. Raises NotFound or
    WrongState.
    """

    def action(session: Session, run: Run, now: datetime) -> None:
        if run.state.final:
            raise WrongState(f"Run {run.id} is over: it {_was(run.state)}.")
        cancel_in(session, installation, [run], who=who, now=now, note=note)

    _act(installation, run_id, action)


def cancel_in(
    session: Session,
    installation: Installation,
    runs: Iterable[Run],
    *,
    who: str,
    now: datetime,
    note: str | None = None,
) -> None:
    """Cancel runs within the caller's transaction, which has locked them.

    All are stopped before the first one goes on to its end: none is let in where another one leaves their group.
    """
    stopped = list(runs)
    for run in stopped:
        record(session, run, "cancel requested", now=now, who=who, note=note)
        _stop(session, run, result="cancelled", who=who, now=now)
    for run in stopped:
        advance(session, installation, run, now)


@dataclass(frozen=True)
class Player:
    """The process that plays an attempt."""

    node: str | None
    host: str | None
    pid: int | None


def cancel_attempt(installation: Installation, attempt_id: int, *, who: str, note: str, running: bool) -> Player | None:
    """Cancel the run of an attempt that is queued or, with ``running``, that is played. Any number of calls are one.

    An attempt that has ended, or is unknown, is left alone. Returns who plays it. Raises DatabaseUnavailable.
    """
    with installation.database.write() as session:
        attempt = _locked(session, attempt_id)
        if attempt is None or attempt.state.final:
            return None
        played = attempt.state is AttemptState.RUNNING
        if (played and not running) or attempt.stop_reason == "cancelled":
            return _player(attempt) if played else None
        run = session.get_one(Run, attempt.run_id)
        cancel_in(session, installation, [run], who=who, now=installation.database.now(session), note=note)
        session.flush()
        queued = queued_runs(session)
    _log.info("run.cancelled", run_id=attempt.run_id, who=who, note=note)
    _send(installation, attempt.run_id, queued)
    return _player(attempt) if played else None


def _player(attempt: Attempt) -> Player:
    return Player(attempt.worker, attempt.host, attempt.pid)


def end_killed(installation: Installation, attempt_id: int, node: str, host: str, pid: int) -> None:
    """End a cancelled attempt in the place of the process that was killed while it played it.

    Raises DatabaseUnavailable.
    """
    with installation.database.write() as session:
        attempt = _locked(session, attempt_id)
        if attempt is None or attempt.state is not AttemptState.RUNNING or attempt.stop_reason != "cancelled":
            return
        if (attempt.worker, attempt.host, attempt.pid) != (node, host, pid):
            return
        now = installation.database.now(session)
        ending = Ending(AttemptState.CANCELLED, message="its process was killed by Celery")
        attempt_ended(session, installation, attempt, ending, now=now, who=f"worker {host}")
        session.flush()
        queued = queued_runs(session)
    _send(installation, attempt.run_id, queued)


def _locked(session: Session, attempt_id: int) -> Attempt | None:
    """The attempt as it is while its run is locked."""
    attempt = session.get(Attempt, attempt_id)
    if attempt is not None:
        session.get_one(Run, attempt.run_id, with_for_update=True)
        session.refresh(attempt)
    return attempt


def stop_in(session: Session, installation: Installation, run: Run, *, result: str, who: str, now: datetime) -> None:
    """Stop what is under way; the run gets ``result`` when nothing of its chain runs any more."""
    _stop(session, run, result=result, who=who, now=now)
    advance(session, installation, run, now)


def _stop(session: Session, run: Run, *, result: str, who: str, now: datetime) -> None:
    """As ``stop_in``, but the caller lets the run go on.

    A run that is being cancelled, or has come to ``finally``, loses that as well. Who is not a person looks before.
    """
    final = run.result is not None or run.stop_as == "cancelled"
    _stop_steps(session, run, final=final, now=now, who=who)
    if final:
        run.stopped_by = run.stopped_by or who
    else:
        run.stop_as, run.stopped_by = result, who
    off_hold(session, run, now=now)


def _stop_steps(session: Session, run: Run, *, final: bool, now: datetime, who: str) -> None:
    """Withdraw or stop the steps that are under way: those of the chain, and with ``final`` all of ``finally``."""
    for step in run.steps:
        if step.state.final or (step.final and not final):
            continue
        if step.state is StepState.PENDING:
            if step.final:
                move_step(session, step, StepState.CANCELLED, now=now, reason=f"cancelled by {who}", who=who)
            continue
        cancel_queued(session, step, now=now, who=who)
        if not stop_running(step, "cancelled"):
            move_step(session, step, StepState.CANCELLED, now=now, reason=f"cancelled by {who}", who=who)


def _was(state: RunState) -> str:
    return f"was {state}" if state in (RunState.CANCELLED, RunState.SKIPPED) else str(state)


def approve(
    installation: Installation,
    run_id: str,
    step_name: str | None,
    *,
    who: str,
    note: str | None,
    accepted: bool,
) -> str:
    """Approve or reject the step that waits for it; returns its name. Raises NotFound or WrongState.

    Whether the person is in the step's groups is checked before, by ``access``.
    """
    decided: list[str] = []

    def action(session: Session, run: Run, now: datetime) -> None:
        step = waiting_approval(run, step_name)
        decided.append(step.label)
        record(session, run, "approved" if accepted else "rejected", now=now, who=who, note=note, step=step)
        step.outputs = {
            "approved": accepted,
            "by": who,
            "note": note,
            "at": now.isoformat(timespec="seconds"),
        }
        if accepted:
            move_step(session, step, StepState.SUCCEEDED, now=now, reason=f"approved by {who}", who=who)
        else:
            reason = f"rejected by {who}" + (f": {note}" if note else "")
            move_step(session, step, StepState.FAILED, now=now, reason=reason, who=who)
        advance(session, installation, run, now)

    _act(installation, run_id, action)
    return decided[0]


def waiting_approval(run: Run, step_name: str | None) -> Step:
    """The step of the run that waits for approval. Raises NotFound or WrongState."""
    names = {step.label for step in run.steps if step.kind == "approval"}
    if step_name and step_name not in {name for step in run.steps for name in (step.name, step.label)}:
        raise NotFound(f"Run {run.id} has no step '{step_name}'.", hint=did_you_mean(step_name, names))
    waiting = [
        step
        for step in run.steps
        if step.kind == "approval" and step.state is StepState.WAITING and step_name in (None, step.name, step.label)
    ]
    if not waiting:
        what = f"Step '{step_name}'" if step_name else f"Run {run.id}"
        raise WrongState(f"{what} does not wait for approval.", hint=f"See 'relengq status {run.id}'.")
    if len(waiting) > 1:
        labels = ", ".join(f"'{step.label}'" for step in waiting)
        raise UsageFault(f"Several steps of run {run.id} wait for approval: {labels}.", hint="Name one of them.")
    return waiting[0]


def hold(installation: Installation, run_id: str, *, who: str, note: str | None = None) -> None:
    """Let nothing new of the run begin until it is released. Raises NotFound or WrongState."""

    def action(session: Session, run: Run, now: datetime) -> None:
        if run.state.final:
            raise WrongState(f"Run {run.id} is over: it {_was(run.state)}.")
        if run.held:
            raise WrongState(f"Run {run.id} is on hold already.", hint=f"Release it: relengq release {run.id}")
        run.held = True
        reason = f"held by {who}" + (f": {note}" if note else "")
        record(session, run, "hold", now=now, who=who, note=note)
        move_run(session, run, RunState.HELD, now=now, reason=reason, who=who)

    _act(installation, run_id, action)


def release(installation: Installation, run_id: str, *, who: str, note: str | None = None, fail: bool = False) -> None:
    """Let a held run go on; steps held because they were lost are played again, or failed with ``fail``.

    Raises NotFound or WrongState.
    """

    def action(session: Session, run: Run, now: datetime) -> None:
        lost = [step for step in run.steps if step.state is StepState.HELD]
        if not run.held and not lost:
            raise WrongState(f"Run {run.id} is not on hold.", hint=f"See 'relengq status {run.id}'.")
        record(session, run, "release", now=now, who=who, note=note)
        off_hold(session, run, now=now, who=who)
        for attempt in [attempt for step in run.steps for attempt in step.attempts]:
            if attempt.state is AttemptState.QUEUED:
                attempt.sent_at = None  # its delivery may have been refused while the run was held
        for step in lost:
            if fail:
                move_step(
                    session,
                    step,
                    StepState.FAILED,
                    now=now,
                    reason=f"failed by {who}: {step.reason}",
                    who=who,
                )
            else:
                queue_attempt(session, step, queue=step.queue or "default", now=now, due_at=now)
        advance(session, installation, run, now)

    _act(installation, run_id, action)
