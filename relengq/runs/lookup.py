# SPDX-License-Identifier: GPL-3.0-or-later
"""Find runs: one by the beginning of its id, many by what they were started with. Reads only, by index only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from relengq.documents import Json
from relengq.errors import NotFound, UsageFault
from relengq.models import History, Run, RunInput, Step
from relengq.runs import groups
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
    given: tuple[str, ...]
    """Names of the inputs that differ from the workflow's defaults."""
    revision: str | None
    dirty: bool
    origin: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    readers: tuple[str, ...] | None
    """Groups that may read its inputs, outputs and messages; None: everybody."""

    @classmethod
    def of(cls, run: Run, holders: Mapping[str, str]) -> RunLine:
        """The line of a run. ``holders``: which run holds its concurrency group, see ``group_holders``."""
        return cls(
            id=run.id,
            workflow=run.workflow,
            state=run.state,
            reason=_reason(run, holders),
            trigger=run.trigger_kind,
            who=run.who,
            inputs=run.inputs,
            given=_given(run),
            revision=run.revision,
            dirty=run.dirty,
            origin=run.origin_id,
            created_at=run.created_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
            readers=_readers(run),
        )

    def hidden(self) -> RunLine:
        """The line as somebody sees it who is none of its readers.

        No reason is told: it quotes messages, the note of an approval or the name of a group, all made of inputs.
        """
        inputs: dict[str, Json] = dict.fromkeys(self.inputs, HIDDEN)
        return replace(self, inputs=inputs, given=tuple(inputs), reason=HIDDEN if self.reason else None)


Readable = Callable[[RunLine], bool]
"""Whether the caller is one of a run's readers."""


def _readers(run: Run) -> tuple[str, ...] | None:
    """What ``access: {logs: …}`` says in the run's own copy of its workflow."""
    access = run.definition.body.get("access")
    groups = access.get("logs") if isinstance(access, dict) else None
    return tuple(map(str, groups)) if isinstance(groups, list) else None


def _given(run: Run) -> tuple[str, ...]:
    """The inputs that are not the defaults; a secret one that has a default cannot be told from it."""
    declared = run.definition.body.get("inputs")
    specs = declared if isinstance(declared, dict) else {}
    return tuple(name for name, value in run.inputs.items() if not _is_default(specs.get(name), value))


def _is_default(spec: Json, value: Json) -> bool:
    if not isinstance(spec, dict) or "default" not in spec:
        return False
    return spec.get("secret") is True or spec["default"] == value


def group_holders(session: Session, runs: Iterable[Run]) -> dict[str, str]:
    """Which runs hold the concurrency groups that some of these wait for; one query, or none."""
    names = {run.group_name for run in runs if run.group_name is not None and _in_line(run)}
    return groups.holders(session, names) if names else {}


def _in_line(run: Run) -> bool:
    return run.state is RunState.QUEUED and run.started_at is None and run.group_name is not None


def _reason(run: Run, holders: Mapping[str, str]) -> str | None:
    """Why the run is as it is. What it says of its group when it is queued would be stale soon: ask who holds it."""
    if run.group_name is None or not _in_line(run):
        return run.reason
    held_by = holders.get(run.group_name)
    if held_by is None:
        return f"concurrency group {run.group_name} is free; the clock lets it in"
    return None if held_by == run.id else groups.reason(run.group_name, held_by)


_QUOTING = ("announcement failed",)
"""Actions that change no state, and whose notes may quote values all the same."""


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

    def hidden(self, labels: Mapping[str, str]) -> Event:
        """The event as somebody sees it who is none of the run's readers; ``labels`` as of ``hidden_labels``.

        What a person wrote stays; what stands beside a new state may quote the message of a task.
        """
        step = labels.get(self.step, self.step) if self.step else None
        return replace(
            self, step=step, note=HIDDEN if self.note and (self.after or self.action in _QUOTING) else self.note
        )


def hidden_labels(steps: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What those who are no readers see of a run's steps, by label: instances, made of inputs, have numbers there.

    ``steps`` are the names and instances, in the run's order.
    """
    counts: dict[str, int] = {}
    labels: dict[str, str] = {}
    for name, instance in steps:
        counts[name] = counts.get(name, 0) + 1
        labels[label(name, instance)] = f"{name} [#{counts[name]}]" if instance else name
    return labels


def label(name: str, instance: str) -> str:
    """How a person reads a step, or an instance of it."""
    return f"{name} [{instance}]" if instance else name


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


def runs(session: Session, filters: Filters, readable: Readable | None = None) -> list[RunLine]:
    """The runs that fit, newest first; those that are not readable are hidden.

    With a filter on inputs they are left out, and do not count: otherwise the filter would tell their values.
    """
    query = _query(filters)
    found: list[RunLine] = []
    last: str | None = None
    while len(found) < filters.limit:
        page = session.scalars(query if last is None else query.where(Run.id < last)).all()
        holders = group_holders(session, page)
        for line in (RunLine.of(run, holders) for run in page):
            if readable is None or readable(line):
                found.append(line)
            elif not filters.inputs:
                found.append(line.hidden())
        if len(page) < filters.limit:
            break
        last = page[-1].id
    return found[: filters.limit]


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
            row.id, row.at, row.who, row.action, label(name, instance) if name else None, row.before, row.after,
            row.note,
        )
        for row, name, instance in rows
    ]  # fmt: skip
