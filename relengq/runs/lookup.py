# SPDX-License-Identifier: GPL-3.0-or-later
"""Find runs: one by the beginning of its id, many by what they were started with. Reads only, by index only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from relengq.documents import Json
from relengq.errors import NotFound, UsageFault
from relengq.models import History, Run, RunInput, Step
from relengq.runs.create import as_searched
from relengq.runs.ids import ALPHABET, new_id, normal
from relengq.states import RunState

LAST = "last"
"""In place of an id: the newest run."""
HIDDEN = "(only for its readers)"
"""In place of what somebody may not read."""
_ID_CHARACTERS = 16
_TIME_CHARACTERS = 8
_SHOWN = 5


@dataclass(frozen=True)
class Filters:
    """What runs to list. Everything that is given must fit."""

    workflow: str | None = None
    states: Sequence[RunState] = ()
    trigger: str | None = None
    """``message``, ``schedule`` or ``person``."""
    who: str | None = None
    inputs: Sequence[tuple[str, str]] = ()
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 30


@dataclass(frozen=True)
class RunLine:
    """A run in a list. ``reason`` says why it waits, or why it failed."""

    id: str
    workflow: str
    state: RunState
    reason: str | None
    trigger: str
    who: str
    inputs: dict[str, Json] = field(repr=False)
    revision: str | None
    dirty: bool
    origin: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    readers: tuple[str, ...] | None
    """Groups that may read its inputs, outputs and messages; None: everybody."""

    @classmethod
    def of(cls, run: Run) -> RunLine:
        """The line of a run."""
        return cls(
            id=run.id,
            workflow=run.workflow,
            state=run.state,
            reason=run.reason,
            trigger=run.trigger_kind,
            who=run.who,
            inputs=run.inputs,
            revision=run.revision,
            dirty=run.dirty,
            origin=run.origin_id,
            created_at=run.created_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
            readers=_readers(run),
        )

    def hidden(self) -> RunLine:
        """The line as somebody sees it who is none of its readers."""
        inputs: dict[str, Json] = dict.fromkeys(self.inputs, HIDDEN)
        reason = HIDDEN if self.reason and self.state is RunState.FAILED else self.reason
        return replace(self, inputs=inputs, reason=reason)


def _readers(run: Run) -> tuple[str, ...] | None:
    """What ``access: {logs: …}`` says in the run's own copy of its workflow."""
    access = run.definition.body.get("access")
    groups = access.get("logs") if isinstance(access, dict) else None
    return tuple(map(str, groups)) if isinstance(groups, list) else None


@dataclass(frozen=True)
class Event:
    """A line of a run's history."""

    id: int
    at: datetime
    who: str
    action: str
    step: str | None
    before: str | None
    after: str | None
    note: str | None


def find(session: Session, text: str) -> str:
    """The id of the run that ``text`` names: its whole id, any unique beginning of it, or ``last``.

    Raises NotFound, or UsageFault when several runs begin like that.
    """
    if text == LAST:
        newest = session.scalar(select(Run.id).order_by(Run.id.desc()).limit(1))
        if newest is None:
            raise NotFound("There is no run yet.", hint="Start one: relengq run WORKFLOW")
        return newest
    prefix = normal(text)
    found: Sequence[str] = []
    if prefix and len(prefix) <= _ID_CHARACTERS and set(prefix) <= set(ALPHABET):
        # A range and not LIKE: every collation of every database can answer it from the primary key.
        last = prefix.ljust(_ID_CHARACTERS, ALPHABET[-1])
        query = select(Run.id).where(Run.id.between(prefix, last)).order_by(Run.id.desc()).limit(_SHOWN + 1)
        found = session.scalars(query).all()
    if not found:
        raise NotFound(f"There is no run '{text}'.", hint="See 'relengq runs'.")
    if len(found) > 1 and prefix not in found:
        shown = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
        raise UsageFault(f"Several runs begin with '{text}': {shown}.", hint="Type more of the id.")
    return prefix if prefix in found else found[0]


def runs(session: Session, filters: Filters) -> list[RunLine]:
    """The runs that fit, newest first."""
    return [RunLine.of(run) for run in session.scalars(_query(filters))]


def _query(filters: Filters) -> Select[Run]:
    query = select(Run).order_by(Run.id.desc()).limit(filters.limit)
    if filters.workflow:
        query = query.where(Run.workflow == filters.workflow)
    if filters.states:
        query = query.where(Run.state.in_(filters.states))
    if filters.trigger:
        query = query.where(Run.trigger_kind == filters.trigger)
    if filters.who:
        query = query.where(Run.who == filters.who)
    # Ids begin with their time, so a time is a place in the primary key.
    if filters.since:
        query = query.where(Run.id >= new_id(filters.since)[:_TIME_CHARACTERS])
    if filters.until:
        query = query.where(Run.id < new_id(filters.until)[:_TIME_CHARACTERS])
    for name, value in filters.inputs:
        fitting = select(RunInput.run_id).where(RunInput.name == name, RunInput.value == as_searched(value))
        query = query.where(Run.id.in_(fitting))
    return query


def history(session: Session, run_id: str, after: int = 0) -> list[Event]:
    """What happened to a run, oldest first; with ``after`` only what has a higher id."""
    rows = session.execute(
        select(History, Step.name, Step.instance)
        .join(Step, Step.id == History.step_id, isouter=True)
        .where(History.run_id == run_id, History.id > after)
        .order_by(History.id)
    )
    return [
        Event(
            row.id, row.at, row.who, row.action, f"{name} [{instance}]" if instance else name, row.before,
            row.after, row.note,
        )
        for row, name, instance in rows
    ]  # fmt: skip
