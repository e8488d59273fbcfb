# SPDX-License-Identifier: GPL-3.0-or-later
"""Take a run as far as it can go without a worker: admit it, begin its next step, settle its result, finish it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from itertools import groupby

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from relengq.database import away
from relengq.documents import Json
from relengq.durations import human
from relengq.engine import context, waits
from relengq.engine.installation import Installation
from relengq.engine.matrix import instances
from relengq.errors import ExpressionFault
from relengq.expressions import condition, references, render
from relengq.models import History, Run, Step
from relengq.runs import groups
from relengq.runs.attempts import cancel_queued, queue_attempt, stop_running
from relengq.runs.definitions import workflow_of
from relengq.runs.moves import SYSTEM, move_run, move_step, off_hold, record
from relengq.states import RunState, StepState
from relengq.workflows import ApprovalStep, PlaybookStep, WaitForStep
from relengq.workflows import Step as Declared
from relengq.workflows.values import queue_name

_ACTIVE = (StepState.QUEUED, StepState.RUNNING, StepState.WAITING, StepState.HELD)
_ADMITTED_AT_ONCE = 20
"""So many runs that end at once may leave a group one after the other in one transaction; the clock does the rest."""
_NOTE_CHARACTERS = 1000
_EMPTY = "its matrix is empty"
"""Why a step was skipped. By this, and by ``_is_false``, it is told from one that its run did not reach."""
_BROKEN_OFF = "broken off"
"""What the history of a run says when it cannot be advanced, with the reason."""
_log = structlog.get_logger(__name__)


class Advance:
    """One advance of one run. ``advance`` is the way to it."""

    def __init__(self, session: Session, installation: Installation, run: Run, now: datetime) -> None:
        self.session = session
        self.installation = installation
        self.run = run
        self.now = now
        self.workflow = workflow_of(run)
        self.chain = self.workflow.chain
        self.freed = False
        """Whether the run has ended and given its concurrency group back."""

    def go(self) -> None:
        """Begin whatever may begin, until something has to be waited for or the run is finished."""
        run = self.run
        if run.state.final or run.held:
            return
        if run.stop_as and run.result is None and not self._under_way():
            run.result = run.stop_as
        if not self._admitted():
            return
        while not run.state.final:
            rows = self._next()
            if rows is None:
                break
            if rows:
                self._begin(rows)
            else:
                self._finish()
        self._show()

    def _under_way(self) -> bool:
        return any(step.state in _ACTIVE for step in self.run.steps if not step.final)

    def _admitted(self) -> bool:
        """Whether the run may begin: it holds its concurrency group, or it has none."""
        if self.run.state is not RunState.QUEUED or self.run.result:
            return True
        ahead = groups.take(self.session, self.run)
        if ahead is None:
            return True
        self.run.reason = groups.reason(self.run.group_name or "", ahead)
        return False

    def _next(self) -> list[Step] | None:
        """The rows to begin next; an empty list when the run is through; None when something is under way."""
        for rows in self._positions(final=False):
            if self.run.result:
                break
            if any(row.state in _ACTIVE for row in rows):
                return None
            if pending := [row for row in rows if row.state is StepState.PENDING]:
                return pending
            self._judge(rows)
        if self.run.result is None:
            self.run.result = "succeeded"
        self._pass_over()
        for rows in self._positions(final=True):
            if any(row.state in _ACTIVE for row in rows):
                return None
            if pending := [row for row in rows if row.state is StepState.PENDING]:
                return pending
        return []

    def _positions(self, *, final: bool) -> list[list[Step]]:
        """The instances of each step, in the order of the chain."""
        ordered = sorted(
            (step for step in self.run.steps if step.final is final),
            key=lambda step: (step.position, step.instance),
        )
        return [list(rows) for _, rows in groupby(ordered, key=lambda step: step.position)]

    def _judge(self, rows: Sequence[Step]) -> None:
        """Settle the run's result when a step of its main chain has gone wrong."""
        if any(row.state is StepState.FAILED and not row.allow_failure for row in rows):
            self.run.result = "failed"

    def _pass_over(self) -> None:
        """Skip the steps that the run's result left out; ``finally`` as well when the run never began."""
        run = self.run
        never_began = run.stop_as is not None and run.started_at is None
        reason = f"the run was stopped by {run.stopped_by}" if run.stop_as else "a step before it failed"
        for step in run.steps:
            if step.state is StepState.PENDING and (never_began or not step.final):
                move_step(self.session, step, StepState.SKIPPED, now=self.now, reason=reason)

    def _begin(self, rows: Sequence[Step]) -> None:
        """Begin every instance of a step. A fault in its expressions fails the step, not the engine."""
        for row in rows:
            declared = self.chain[row.position]
            try:
                if declared.matrix and row.matrix is None:
                    self._fan_out(row, declared)
                else:
                    self._begin_one(row, declared)
            except ExpressionFault as fault:
                move_step(self.session, row, StepState.FAILED, now=self.now, reason=str(fault))

    def context(self, matrix: dict[str, Json] | None = None) -> context.Context:
        """What expressions of this run see now."""
        settings = self.installation.settings
        return context.build(self.run, self.run.steps, site=settings.site, state_dir=settings.state_dir, matrix=matrix)

    def _fan_out(self, row: Step, declared: Declared) -> None:
        """Turn the row of a step with a matrix into one row an instance, and begin each."""
        if declared.when and not _uses_matrix(declared.when) and not condition(declared.when).holds(self.context()):
            move_step(self.session, row, StepState.SKIPPED, now=self.now, reason=_is_false(declared))
            return
        made = instances(declared.matrix or {}, self.context())
        if not made:
            move_step(self.session, row, StepState.SKIPPED, now=self.now, reason=_EMPTY)
            return
        rows = [row]
        (row.instance, row.matrix), *others = made.items()
        for instance, values in others:
            rows.append(
                Step(
                    run=self.run, position=row.position, instance=instance, name=row.name, kind=row.kind,
                    final=row.final, matrix=values, state=StepState.PENDING, failures=0, losses=0, allow_failure=False,
                )
            )  # fmt: skip
        self.session.add_all(rows)
        self.session.flush()
        self._begin(rows)

    def _begin_one(self, row: Step, declared: Declared) -> None:
        sees = self.context(row.matrix)
        if declared.when and not condition(declared.when).holds(sees):
            move_step(self.session, row, StepState.SKIPPED, now=self.now, reason=_is_false(declared))
            return
        row.allow_failure = (
            declared.allow_failure
            if isinstance(declared.allow_failure, bool)
            else condition(declared.allow_failure).holds(sees)
        )
        if isinstance(declared, PlaybookStep):
            queue = queue_name(render(declared.queue or self.workflow.queue, sees))
            queue_attempt(self.session, row, queue=queue, now=self.now, due_at=self.now)
        else:
            self._wait(row, declared)

    def _wait(self, row: Step, declared: Declared) -> None:
        """Let a step wait for a person or a message; nothing is held meanwhile."""
        if isinstance(declared, ApprovalStep):
            timeout = declared.approval.timeout
            reason = "approval" + (f" by {' or '.join(declared.approval.groups)}" if declared.approval.groups else "")
            if declared.approval.note:
                reason += f": {render(declared.approval.note, self.context(row.matrix))}"[:_NOTE_CHARACTERS]
        elif isinstance(declared, WaitForStep):
            timeout = declared.wait_for.timeout
            reason = waits.waits_for(declared.wait_for)
        else:
            raise ExpressionFault(f"step kind '{declared.kind}' cannot be played by this version.")
        row.due_at = self.now + timedelta(seconds=timeout) if timeout else None
        move_step(self.session, row, StepState.WAITING, now=self.now, reason=reason)
        if isinstance(declared, WaitForStep):
            waits.look_over(self.session, row, declared, self.context(row.matrix), self.now)

    def answered(self, only: Collection[int] | None = None) -> bool:
        """Let kept messages end the steps that wait for one; returns whether anything has changed.

        Of the kept messages those ``only``, without it all. The caller lets the run go on.
        """
        changed = False
        for row in waits.waiting_steps(self.run):
            declared, before = self.chain[row.position], row.reason
            if isinstance(declared, WaitForStep):
                waits.look_over(self.session, row, declared, self.context(row.matrix), self.now, only)
                changed = changed or row.reason != before
        return changed

    def _show(self) -> None:
        """Let the run's own state follow its steps'."""
        run = self.run
        if run.state.final:
            return
        active = [step for step in run.steps if step.state in _ACTIVE]
        states = {step.state for step in active}
        if StepState.HELD in states:
            held = next(step for step in active if step.state is StepState.HELD)
            move_run(self.session, run, RunState.HELD, now=self.now, reason=f"{held.label}: {held.reason}")
        elif states == {StepState.WAITING}:
            move_run(self.session, run, RunState.WAITING, now=self.now, reason=active[0].reason)
        elif run.state is not RunState.QUEUED or StepState.RUNNING in states:
            move_run(self.session, run, RunState.RUNNING, now=self.now)
        else:
            run.reason = None

    def _finish(self) -> None:
        """End the run: its outputs, its state, its concurrency group, and the next run in line."""
        run = self.run
        reason = self._failure()
        run.outputs = context.flat_outputs(run.steps)
        if self.workflow.outputs and run.result == "succeeded":
            try:
                rendered = render(self.workflow.outputs, self.context())
                run.outputs = rendered if isinstance(rendered, dict) else {}
            except ExpressionFault as fault:
                run.result, reason = "failed", f"outputs of the workflow: {fault}"
        if run.result == "succeeded" and reason:
            run.result = "failed"
        elif run.result == "succeeded" and any(step.final and step.state is StepState.CANCELLED for step in run.steps):
            run.result = "cancelled"
            reason = self._failure()
        move_run(self.session, run, RunState(run.result or "failed"), now=self.now, reason=reason)
        _log.info("run.finished", run_id=run.id, workflow=run.workflow, state=str(run.state))
        self.freed = groups.give_back(self.session, run)

    def _failure(self) -> str | None:
        """Why the run did not succeed: the first step that failed without leave, or who cancelled it."""
        if self.run.result == "cancelled":
            return f"cancelled by {self.run.stopped_by or SYSTEM}"
        if self.run.stop_as == "failed":
            timeout = f"it took longer than the workflow's timeout of {human(self.workflow.timeout or 0)}"
            return self._broken_off() or timeout
        for step in sorted(self.run.steps, key=lambda row: (row.position, row.instance)):
            if step.state is StepState.FAILED and not step.allow_failure:
                return f"{step.label}: {step.reason}" if step.reason else f"{step.label} failed"
        return self.run.reason if self.run.result == "failed" else None

    def _broken_off(self) -> str | None:
        """Why the run was broken off, if it was."""
        mine = (History.run_id == self.run.id, History.action == _BROKEN_OFF)
        return self.session.scalar(select(History.note).where(*mine).order_by(History.id).limit(1))


def left_out(step: Step, declared: Declared) -> bool:
    """Whether a step that was skipped was not reached, since its run ended before; not for its ``when`` or matrix."""
    return step.reason not in (_EMPTY, _is_false(declared))


def _is_false(declared: Declared) -> str:
    return f"when: {declared.when} is false"


def _uses_matrix(when: str) -> bool:
    return any(path[0] == "matrix" for path in references(when, bare=True))


def advance(session: Session, installation: Installation, run: Run, now: datetime, *, guarded: bool = True) -> None:
    """Take a run as far as it can go, and when it ends, the runs that waited for its group.

    Within the caller's transaction, which has locked the run. A fault that is nobody's doing breaks the run off, so
    that what led here (an attempt that has ended) is kept. Raises only what the database raises when it is away.
    Not ``guarded``, a fault of this run is raised, and the caller gives up the transaction.
    """
    following: Run | None = run
    for _ in range(_ADMITTED_AT_ONCE):
        if following is None or not _go(session, installation, following, now, guarded=guarded or following is not run):
            return
        following = _next_in_line(session, following.group_name)


def answer(
    session: Session, installation: Installation, run: Run, now: datetime, only: Collection[int] | None = None
) -> None:
    """Let kept messages end the run's waits, and the run go on; ``only`` as for ``waits.look_over``.

    Within the caller's transaction, which has locked the run. Faults are dealt with as in ``advance``.
    """

    def answered() -> bool:
        return Advance(session, installation, run, now).answered(only)

    if or_break_off(session, run, now, answered):
        advance(session, installation, run, now)


def _go(session: Session, installation: Installation, run: Run, now: datetime, *, guarded: bool) -> bool:
    """Advance one run; returns whether its group has become free."""

    def onward() -> bool:
        advancing = Advance(session, installation, run, now)
        advancing.go()
        return advancing.freed

    return or_break_off(session, run, now, onward) if guarded else onward()


def or_break_off(session: Session, run: Run, now: datetime, action: Callable[[], bool]) -> bool:
    """Do it whole, or undo it and break the run off; returns what it returns, or whether the run's group is free."""
    session.flush()
    try:
        with session.begin_nested():
            done = action()
            session.flush()
    except Exception as error:
        if away(error):
            raise
        _log.exception("advance.fault", run_id=run.id)
        return break_off(session, run, now, f"a bug in relengq, {type(error).__name__}; its log has the traceback")
    return done


def break_off(session: Session, run: Run, now: datetime, reason: str) -> bool:
    """End a run that cannot be advanced: nothing of it begins any more. Returns whether its group has become free.

    What a worker plays just now is stopped; the run ends when that has ended.
    """
    run.stop_as, run.stopped_by = "failed", SYSTEM
    if run.result is not None:
        run.result = "failed"  # it was in ``finally``
    record(session, run, _BROKEN_OFF, now=now, note=reason)
    for step in run.steps:
        if step.state.final:
            continue
        if step.state is StepState.PENDING:
            move_step(session, step, StepState.SKIPPED, now=now, reason=reason)
            continue
        cancel_queued(session, step, now=now, who=SYSTEM)
        if not stop_running(step, "cancelled"):
            move_step(session, step, StepState.CANCELLED, now=now, reason=reason)
    if any(not step.state.final for step in run.steps):
        off_hold(session, run, now=now)
        run.reason = reason
        return False
    run.held = False
    run.result = "failed"
    move_run(session, run, RunState.FAILED, now=now, reason=reason)
    return groups.give_back(session, run)


def _next_in_line(session: Session, group: str | None) -> Run | None:
    """The run that may have the group now, locked; None when nobody waits, or when somebody is at it already."""
    waiting = groups.first_in_line(session, group) if group else None
    if waiting is None:
        return None
    return session.scalar(
        select(Run).where(Run.id == waiting).with_for_update(skip_locked=True).execution_options(populate_existing=True)
    )
