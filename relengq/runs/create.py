# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a run: its row, its steps, what it is searched by. A trigger key makes it exist once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from relengq.documents import Json
from relengq.models import Definition, Run, RunInput, Step
from relengq.runs.ids import new_id
from relengq.runs.moves import record
from relengq.states import RunState, StepState

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

    workflow: str
    definition: dict[str, Json]
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
    group_name: str | None
    deadline: datetime | None
    origin_id: str | None = None
    origin_from: str | None = None
    note: str | None = field(default=None)


def by_key(session: Session, trigger_key: str) -> Run | None:
    """The run that was started under this key."""
    return session.scalar(select(Run).where(Run.trigger_key == trigger_key))


def create(session: Session, new: NewRun, *, now: datetime) -> tuple[Run, bool]:
    """Make the run, or find the one that its trigger key made before. Returns it and whether it is new."""
    if new.trigger_key and (known := by_key(session, new.trigger_key)):
        return known, False
    digest = _keep_definition(session, new.definition)
    for left in reversed(range(_TRIES)):
        run = _row(new, digest, now)
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
    for step in new.steps:
        session.add(_step(run, step))
    session.add_all(_searched(run))
    record(session, run, "created", now=now, who=new.who, note=new.note, after=RunState.QUEUED)
    session.flush()
    return run, True


def _row(new: NewRun, digest: str, now: datetime) -> Run:
    return Run(
        id=new_id(now),
        workflow=new.workflow,
        definition_digest=digest,
        state=RunState.QUEUED,
        trigger_kind=new.trigger_kind,
        trigger_key=new.trigger_key,
        trigger=dict(new.trigger),
        who=new.who,
        inputs=new.inputs,
        sealed_inputs=new.sealed_inputs,
        revision=new.revision,
        dirty=new.dirty,
        group_name=new.group_name,
        deadline=new.deadline,
        origin_id=new.origin_id,
        origin_from=new.origin_from,
        created_at=now,
        held=False,
    )


def _step(run: Run, new: NewStep) -> Step:
    kept = new.kept
    return Step(
        run=run,
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
    )


def _keep_definition(session: Session, body: dict[str, Json]) -> str:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    if session.get(Definition, digest) is None:
        try:
            with session.begin_nested():
                session.add(Definition(digest=digest, body=body))
        except IntegrityError:
            pass  # another process has just kept the same
    return digest


def _searched(run: Run) -> list[RunInput]:
    rows = []
    for name, value in run.inputs.items():
        values = value if isinstance(value, list) else [value]
        for position, item in enumerate(values[:100]):
            rows.append(
                RunInput(run_id=run.id, name=name, position=position, value=as_searched(item)),
            )
    return rows


def as_searched(value: Json) -> str:
    """A value as ``runs --input`` compares it."""
    plain = value if isinstance(value, str) else json.dumps(value)
    return plain[:_SEARCHED_CHARACTERS]
