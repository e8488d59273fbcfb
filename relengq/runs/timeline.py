# SPDX-License-Identifier: GPL-3.0-or-later
"""One run as a person wants to see it: each step, how long against the usual, why it waits, what failed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import median

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from relengq.documents import Json
from relengq.errors import NotFound
from relengq.models import Attempt, Progress, Run, Step, TaskResult, Worker
from relengq.runs.definitions import workflow_of
from relengq.runs.lookup import HIDDEN, Readable, RunLine, group_holders, hidden_labels
from relengq.runs.results import Pruned, pruned
from relengq.states import AttemptState, RunState, StepState
from relengq.workflows import PlaybookStep, Workflow

ALIVE = timedelta(seconds=20)
"""A worker says every five seconds that it is there; one that was silent for so long is gone."""
_USUAL_RUNS = 20
_FAILURES_SHOWN = 5
_BAD = ("failed", "unreachable")


@dataclass(frozen=True)
class Waits:
    """What a queued or waiting step waits for, and until or not before when."""

    reason: str
    at: datetime | None = None


@dataclass(frozen=True)
class Failure:
    """A task that failed on a host."""

    host: str
    play: str
    task: str
    message: str | None
    item: str | None


@dataclass(frozen=True)
class StepLine:
    """A step, or one instance of a step with a matrix."""

    name: str
    instance: str
    label: str
    kind: str
    final: bool
    state: StepState
    allow_failure: bool
    reason: str | None
    waits: Waits | None
    queue: str | None
    host: str | None
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    usual: float | None
    """Seconds that it usually takes."""
    kept_from: str | None
    play: str | None
    task: str | None
    task_host: str | None
    """Where a running step is just now."""
    outputs: dict[str, Json]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Timeline:
    """A run with its steps in order."""

    run: RunLine
    held: bool
    origin_from: str | None
    trigger_detail: dict[str, Json]
    group: str | None
    deadline: datetime | None
    usual: float | None
    outputs: dict[str, Json] | None
    reruns: tuple[RunLine, ...]
    pruned: tuple[Pruned, ...]
    """What was deleted of it for its age."""
    steps: tuple[StepLine, ...]

    def hidden(self) -> Timeline:
        """The run as somebody sees it who is none of its readers: states and times, no values and no messages.

        Names of groups, queues and matrix instances are made of inputs, so they are values as well.
        """
        labels = hidden_labels((step.name, step.instance) for step in self.steps)
        return replace(
            self,
            run=self.run.hidden(),
            trigger_detail={},
            group=HIDDEN if self.group else None,
            outputs=None,
            reruns=tuple(run.hidden() for run in self.reruns),
            steps=tuple(_hidden(step, labels[step.label]) for step in self.steps),
        )

    def seen(self, readable: Readable) -> Timeline:
        """The run as somebody may see it, with its reruns, which may have other readers."""
        if not readable(self.run):
            return self.hidden()
        return replace(self, reruns=tuple(run if readable(run) else run.hidden() for run in self.reruns))


def _hidden(step: StepLine, label: str) -> StepLine:
    untold = step.state in (StepState.FAILED, StepState.WAITING) or step.attempts
    return replace(
        step,
        instance=label.removeprefix(step.name).strip(" []"),
        label=label,
        reason=HIDDEN if step.reason and untold else step.reason,
        waits=_hidden_waits(step) if step.waits else None,
        queue=None,
        task=None,
        play=None,
        task_host=None,
        outputs={},
        failures=(),
    )


def _hidden_waits(step: StepLine) -> Waits | None:
    """For what a step waits, without the name of its queue and the note of its approval."""
    if step.waits is None:
        return None
    reason = step.waits.reason
    if step.queue:
        reason = reason.replace(f"queue {step.queue}", "its queue")
    return replace(step.waits, reason=reason.partition(": ")[0] if step.kind == "approval" else reason)


@dataclass(frozen=True)
class Usual:
    """Median durations in seconds of the last succeeded runs of a workflow."""

    run: float | None
    steps: Mapping[tuple[str, str], float]
    """By step and instance."""


def usual(session: Session, workflow: str, before: str) -> Usual:
    """How long the runs of the workflow before this one, and their steps, have taken."""
    runs = session.execute(
        select(Run.id, Run.started_at, Run.finished_at, Run.origin_id)
        .where(Run.workflow == workflow, Run.state == RunState.SUCCEEDED, Run.id < before)
        .order_by(Run.id.desc())
        .limit(_USUAL_RUNS)
    ).all()
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    # Only run_id in SQL: with the state beside it, SQLite would go through all succeeded steps that there are.
    for step in session.execute(
        select(Step.name, Step.instance, Step.state, Step.kept_from, Step.started_at, Step.finished_at).where(
            Step.run_id.in_([row.id for row in runs])
        )
    ):
        played = step.state is StepState.SUCCEEDED and step.kept_from is None
        if played and step.started_at and step.finished_at:
            seconds[step.name, step.instance].append((step.finished_at - step.started_at).total_seconds())
    # A rerun keeps steps, so its duration as a whole says nothing.
    whole = [
        (row.finished_at - row.started_at).total_seconds() for row in runs if row.started_at and row.origin_id is None
    ]
    return Usual(median(whole) if whole else None, {key: median(values) for key, values in seconds.items()})


def timeline(session: Session, run_id: str, *, now: datetime, known: Usual | None = None) -> Timeline:
    """The run as it stands. ``known`` saves looking up the usual durations again. Raises NotFound."""
    run = session.get(Run, run_id)
    if run is None:
        raise NotFound(f"There is no run {run_id}.", hint="See 'relengq runs'.")
    rows = sorted(run.steps, key=lambda step: (step.position, step.instance))
    lines = _Lines(session, run, rows, now, known or usual(session, run.workflow, run.id))
    reruns = session.scalars(select(Run).where(Run.origin_id == run.id).order_by(Run.id)).all()
    holders = group_holders(session, [run, *reruns])
    return Timeline(
        run=RunLine.of(run, holders),
        held=run.held,
        origin_from=run.origin_from,
        trigger_detail=run.trigger,
        group=run.group_name,
        deadline=run.deadline,
        usual=lines.usual.run,
        outputs=run.outputs,
        reruns=tuple(RunLine.of(row, holders) for row in reruns),
        pruned=pruned(run),
        steps=tuple(lines.line(step) for step in rows),
    )


def with_waits(session: Session, line: RunLine, *, now: datetime, readable: Readable) -> RunLine:
    """The line of a list, with what its steps wait for as its reason when none runs and it has no reason yet."""
    if line.reason or line.state not in (RunState.QUEUED, RunState.RUNNING):
        return line
    steps = timeline(session, line.id, now=now, known=Usual(None, {})).seen(readable).steps
    waits = next((step.waits for step in steps if step.waits), None)
    if waits is None or any(step.state is StepState.RUNNING for step in steps):
        return line
    return replace(line, reason=f"{waits.reason} due at {waits.at:%Y-%m-%d %H:%M:%SZ}" if waits.at else waits.reason)


class _Lines:
    """What the lines of a run's steps need, each fetched once for all steps."""

    def __init__(self, session: Session, run: Run, steps: Sequence[Step], now: datetime, usual: Usual) -> None:
        self.run = run
        self.now = now
        self.usual = usual
        self.workflow: Workflow = workflow_of(run)
        attempts = session.scalars(select(Attempt).where(Attempt.run_id == run.id).order_by(Attempt.number))
        self.attempts: dict[int, list[Attempt]] = defaultdict(list)
        for attempt in attempts:
            self.attempts[attempt.step_id].append(attempt)
        latest = [tries[-1] for tries in self.attempts.values()]
        running = [attempt.id for attempt in latest if attempt.state is AttemptState.RUNNING]
        self.progress = {
            row.attempt_id: row for row in session.scalars(select(Progress).where(Progress.attempt_id.in_(running)))
        }
        failed = {step.id for step in steps if step.state is StepState.FAILED}
        self.failures = _failures(session, [attempt.id for attempt in latest if attempt.step_id in failed])
        queued = [attempt for attempt in latest if attempt.state is AttemptState.QUEUED]
        self.servers = _servers(session, now) if queued else []
        self.busy = _busy(session, [worker.name for worker in self.servers])

    def line(self, step: Step) -> StepLine:
        """The line of one step."""
        tries = self.attempts[step.id]
        last = tries[-1] if tries else None
        progress = self.progress.get(last.id) if last else None
        return StepLine(
            name=step.name,
            instance=step.instance,
            label=step.label,
            kind=step.kind,
            final=step.final,
            state=step.state,
            allow_failure=step.allow_failure,
            reason=step.reason,
            waits=self._waits(step, last),
            queue=step.queue,
            host=last.host if last else None,
            attempts=len(tries),
            started_at=step.started_at,
            finished_at=step.finished_at,
            usual=self.usual.steps.get((step.name, step.instance)),
            kept_from=step.kept_from,
            play=progress.play if progress else None,
            task=progress.task if progress else None,
            task_host=progress.host if progress else None,
            outputs=step.outputs or {},
            failures=tuple(self.failures.get(last.id, ())) if last else (),
        )

    def _waits(self, step: Step, last: Attempt | None) -> Waits | None:
        if step.state in (StepState.WAITING, StepState.HELD):
            return Waits(step.reason or str(step.state), step.due_at)
        if step.state is not StepState.QUEUED or last is None:
            return None
        if self.run.held:
            return Waits("the run is on hold")
        if last.due_at > self.now:
            declared = self.workflow.chain[step.position]
            tries = declared.retry.attempts if isinstance(declared, PlaybookStep) else 1
            return Waits(f"try {step.failures + 1} of {tries}", last.due_at)
        return Waits(self._queue(last))

    def _queue(self, attempt: Attempt) -> str:
        """Why nobody has taken an attempt that is due."""
        serving = [worker for worker in self.servers if attempt.queue in worker.queues]
        if not serving:
            return f"nobody serves queue {attempt.queue}"
        if attempt.sent_at is None:
            return f"not handed to queue {attempt.queue} yet: the broker is away, or the clock will send it"
        if all(self.busy.get(worker.name, 0) >= worker.concurrency for worker in serving):
            return f"no free worker on queue {attempt.queue}"
        return f"on its way to a worker on queue {attempt.queue}"


def alive(session: Session, now: datetime) -> list[Worker]:
    """The workers that have been heard of lately, by name."""
    return list(session.scalars(select(Worker).where(Worker.seen_at > now - ALIVE).order_by(Worker.name)))


def _servers(session: Session, now: datetime) -> list[Worker]:
    return [worker for worker in alive(session, now) if not worker.stopping]


def _busy(session: Session, workers: Sequence[str]) -> dict[str, int]:
    """How many attempts each worker plays."""
    if not workers:
        return {}
    rows = session.execute(
        select(Attempt.worker, func.count())
        .where(Attempt.state == AttemptState.RUNNING, Attempt.worker.in_(workers))
        .group_by(Attempt.worker)
    )
    return {str(worker): count for worker, count in rows}


def _failures(session: Session, attempts: Iterable[int]) -> dict[int, list[Failure]]:
    """The failed tasks of attempts, at most a few of each."""
    ids = list(attempts)
    found: dict[int, list[Failure]] = defaultdict(list)
    if not ids:
        return found
    for row in session.scalars(
        select(TaskResult)
        .where(TaskResult.attempt_id.in_(ids), TaskResult.status.in_(_BAD))
        .order_by(TaskResult.attempt_id, TaskResult.seq)
        .limit(_FAILURES_SHOWN * len(ids))
    ):
        if len(found[row.attempt_id]) < _FAILURES_SHOWN:
            found[row.attempt_id].append(Failure(row.host, row.play, row.task, row.message, row.item))
    return found
