# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a run: its row, its steps, what it is searched by. A trigger key makes it exist once."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from relengq.documents import Json
from relengq.errors import WrongState
from relengq.models import Run, RunInput, SpentKey, Step, Wait
from relengq.runs.definitions import keep_definition
from relengq.runs.ids import new_id
from relengq.runs.moves import record
from relengq.states import RunState, StepState
from relengq.workflows import Workflow

_SEARCHED_CHARACTERS = 200
_TRIES = 20
"""How often an id is drawn: two runs of one millisecond draw the same one in 1 of 1024 cases."""


@dataclass(frozen=True)
class NewStep:
    """A step that a new run begins with: not reached yet, or kept from the run that it repeats."""

    position: int
    name: str
    kind: str
    final: bool
    instance: str = ""
    matrix: dict[str, Json] | None = None
    kept: Step | None = None


@dataclass(frozen=True)
class NewRun:
    """Everything that a run is made of."""

    workflow: Workflow
    steps: Sequence[NewStep]
    trigger_kind: str
    trigger_key: str | None
    trigger: Mapping[str, Json]
    who: str
    inputs: dict[str, Json]
    """Secret values are masked already."""
    sealed_inputs: bytes | None
    revision: str | None
    dirty: bool
    host: str
    """Where it is started."""
    group_name: str | None
    timeout: float | None
    """Seconds after which the run is stopped."""
    waits: Mapping[int, str] = field(default_factory=dict)
    """The topic patterns of the steps that wait for a message, by position."""
    origin_id: str | None = None
    origin_from: str | None = None
    note: str | None = field(default=None)


def by_key(session: Session, trigger_key: str) -> Run | None:
    """The run that was started under this key."""
    return session.scalar(select(Run).where(Run.trigger_key == trigger_key))


def pruned_runs(session: Session, trigger_keys: Collection[str]) -> dict[str, str]:
    """By key, the runs that were started under these keys and have been pruned since. Ask for living ones first."""
    rows = session.execute(select(SpentKey.trigger_key, SpentKey.run_id).where(SpentKey.trigger_key.in_(trigger_keys)))
    return {row.trigger_key: row.run_id for row in rows}


def create(session: Session, new: NewRun, *, now: datetime, sure: bool = False) -> tuple[Run, bool]:
    """Make the run, or find the one that its trigger key made before. Returns it and whether it is new.

    Who is ``sure`` that there is none leaves the insertion to the session's next flush, with all that is made until
    then. It may raise IntegrityError after all, when another process was quicker or has drawn the same id; then the
    whole transaction is to be done again.

    Raises WrongState when the run that the key made has been pruned: a start happens once.
    """
    if sure:
        keep_definition(session, new.workflow)
        run = _row(new, now)
        session.add(run)
        _complete(session, run, new, now)
        return run, True
    if new.trigger_key and (known := by_key(session, new.trigger_key)):
        return known, False
    if new.trigger_key and (pruned := pruned_runs(session, [new.trigger_key])):
        raise WrongState(f"This start was made before: run {pruned[new.trigger_key]}, which has been pruned since.")
    keep_definition(session, new.workflow)
    for left in reversed(range(_TRIES)):
        run = _row(new, now)
        try:
            with session.begin_nested():
                session.add(run)
                session.flush()
            break
        except IntegrityError:
            if new.trigger_key and (known := by_key(session, new.trigger_key)):
                return known, False
            if not left:
                raise
    _complete(session, run, new, now)
    session.flush()
    return run, True


def _complete(session: Session, run: Run, new: NewRun, now: datetime) -> None:
    """What belongs to a run beside its own row and its steps."""
    session.add_all(_searched(run))
    session.add_all(Wait(run=run, run_id=run.id, position=at, pattern=new.waits[at], since=now) for at in new.waits)
    record(session, run, "created", now=now, who=new.who, note=new.note, after=RunState.QUEUED)


def _row(new: NewRun, now: datetime) -> Run:
    run_id = new_id(now)
    return Run(
        id=run_id,
        workflow=new.workflow.name,
        definition_digest=new.workflow.digest,
        state=RunState.QUEUED,
        trigger_kind=new.trigger_kind,
        trigger_key=new.trigger_key,
        trigger=dict(new.trigger),
        who=new.who,
        inputs=new.inputs,
        sealed_inputs=new.sealed_inputs,
        revision=new.revision,
        dirty=new.dirty,
        host=new.host,
        group_name=new.group_name,
        deadline=now + timedelta(seconds=new.timeout) if new.timeout else None,
        origin_id=new.origin_id,
        origin_from=new.origin_from,
        created_at=now,
        held=False,
        steps=[_step(step, run_id) for step in new.steps],
    )


def _step(new: NewStep, run_id: str) -> Step:
    kept = new.kept
    return Step(
        run_id=run_id,
        position=new.position,
        name=new.name,
        kind=new.kind,
        final=new.final,
        instance=kept.instance if kept else new.instance,
        matrix=kept.matrix if kept else new.matrix,
        state=kept.state if kept else StepState.PENDING,
        reason=f"kept from run {kept.kept_from or kept.run_id}" if kept else None,
        outputs=kept.outputs if kept else None,
        allow_failure=kept.allow_failure if kept else False,
        kept_from=(kept.kept_from or kept.run_id) if kept else None,
        failures=0,
        losses=0,
        attempts=[],
    )


def _searched(run: Run) -> list[RunInput]:
    rows = []
    for name, value in run.inputs.items():
        values = value if isinstance(value, list) else [value]
        for position, item in enumerate(values[:100]):
            rows.append(
                RunInput(run=run, run_id=run.id, name=name, position=position, value=as_searched(item)),
            )
    return rows


def as_searched(value: Json) -> str:
    """A value as ``runs --input`` compares it."""
    plain = value if isinstance(value, str) else json.dumps(value)
    return plain[:_SEARCHED_CHARACTERS]
