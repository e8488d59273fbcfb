# SPDX-License-Identifier: GPL-3.0-or-later
"""The attempts of a run, and what each Ansible task of them did. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from relengq.documents import Json
from relengq.durations import human
from relengq.errors import NotFound, did_you_mean
from relengq.models import Attempt, Run, Step, TaskResult
from relengq.states import AttemptState, StepState

BAD = ("failed", "unreachable")
"""States of tasks that went wrong."""


@dataclass(frozen=True)
class Pruned:
    """What was deleted of a run for its age."""

    what: str
    """output, or task results."""
    at: datetime
    """When it was deleted."""
    kept: float
    """For how many seconds after its end it was to be kept, as the retention said then."""

    def __str__(self) -> str:
        return f"pruned on {self.at:%Y-%m-%d} by the retention of {human(self.kept)}"


OUTPUT, TASKS = "output", "task results"


def pruned(run: Run) -> tuple[Pruned, ...]:
    """What was deleted of the run."""
    deleted = ((OUTPUT, run.logs_pruned_at, run.logs_kept), (TASKS, run.events_pruned_at, run.events_kept))
    return tuple(Pruned(what, at, kept or 0.0) for what, at, kept in deleted if at is not None)


@dataclass(frozen=True)
class AttemptLine:
    """One try of a step."""

    id: int
    step: str
    instance: str
    label: str
    """The step's name, with its instance and the number of the try: ``createrepo [x86_64] #2``."""
    number: int
    state: AttemptState
    step_state: StepState
    worker: str | None
    host: str | None
    started_at: datetime | None
    finished_at: datetime | None
    return_code: int | None
    stats: dict[str, Json] | None
    message: str | None


@dataclass(frozen=True)
class TaskLine:
    """What one Ansible task did on one host. ``duration`` is in seconds."""

    host: str
    play: str
    task: str
    action: str
    status: str
    changed: bool
    started_at: datetime | None
    duration: float
    message: str | None
    item: str | None


def attempts(session: Session, run_id: str, step: str | None = None) -> list[AttemptLine]:
    """The run's attempts in the order of its steps; with ``step`` those of one step, or of one instance of it.

    A step is named ``createrepo``, an instance ``createrepo [x86_64]``. Raises NotFound for an unknown one.
    """
    steps = session.scalars(select(Step).where(Step.run_id == run_id)).all()
    chosen = {row.id: row for row in steps if step is None or _key(step) in (_key(row.name), _key(row.label))}
    if step is not None and not chosen:
        names = {row.name for row in steps} | {row.label for row in steps}
        raise NotFound(f"Run {run_id} has no step '{step}'.", hint=did_you_mean(step, names))
    rows = session.scalars(select(Attempt).where(Attempt.run_id == run_id))
    lines = [(chosen[row.step_id], row) for row in rows if row.step_id in chosen]
    lines.sort(key=lambda pair: (pair[0].position, pair[0].instance, pair[1].number))
    return [_line(owner, attempt) for owner, attempt in lines]


def tasks(
    session: Session, attempt_ids: Sequence[int], *, host: str | None = None, failed: bool = False
) -> dict[int, list[TaskLine]]:
    """What tasks did, by attempt, in the order in which they ended; of one host, or only what failed."""
    found: dict[int, list[TaskLine]] = {attempt_id: [] for attempt_id in attempt_ids}
    query = select(TaskResult).where(TaskResult.attempt_id.in_(attempt_ids))
    if host is not None:
        query = query.where(TaskResult.host == host)
    if failed:
        query = query.where(TaskResult.status.in_(BAD))
    for row in session.scalars(query.order_by(TaskResult.attempt_id, TaskResult.seq)):
        found[row.attempt_id].append(
            TaskLine(
                row.host, row.play, row.task, row.action, row.status, row.changed, row.started_at, row.duration,
                row.message, row.item,
            )
        )  # fmt: skip
    return found


def hosts(session: Session, attempt_ids: Sequence[int]) -> set[str]:
    """The hosts that tasks of these attempts ran on."""
    return set(session.scalars(select(TaskResult.host).where(TaskResult.attempt_id.in_(attempt_ids)).distinct()))


def _key(label: str) -> str:
    """A label without blanks, so that ``createrepo[x86_64]`` is found as well."""
    return "".join(label.split())


def _line(step: Step, attempt: Attempt) -> AttemptLine:
    return AttemptLine(
        id=attempt.id,
        step=step.name,
        instance=step.instance,
        label=f"{step.label} #{attempt.number}",
        number=attempt.number,
        state=attempt.state,
        step_state=step.state,
        worker=attempt.worker,
        host=attempt.host,
        started_at=attempt.started_at,
        finished_at=attempt.finished_at,
        return_code=attempt.return_code,
        stats=attempt.stats,
        message=attempt.message,
    )
