# SPDX-License-Identifier: GPL-3.0-or-later
"""Delete what is old: the output of runs, then what tasks did, then the runs, in portions of a bounded size.

Each portion is one short transaction that looks again at what it may delete, with the runs locked. So whoever is killed
in the middle leaves nothing behind that the next one would not find, several at once do no harm, and other writers get
in between. Only finished runs are touched, and of them never the newest of a workflow nor the newest that succeeded,
none that an unfinished run repeats, and none with an announcement that is still to be sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, Select, and_, delete, exists, false, insert, literal, or_, select, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from relengq.models import (
    Announcement,
    Attempt,
    Base,
    Definition,
    History,
    OutputChunk,
    Progress,
    Run,
    RunInput,
    SpentKey,
    Step,
    TaskResult,
    Wait,
)
from relengq.runs.ids import new_id
from relengq.states import RunState

ROWS_AT_ONCE = 500
"""So many rows are deleted in one transaction at most (of output, which is large, fewer)."""
RUNS_AT_ONCE = 20
_CHUNKS_AT_ONCE = 50
_TIME_CHARACTERS = 8
_MARGIN = timedelta(minutes=1)
"""Ids say when a run was made; in a batch of messages they may be ahead of the time by a little."""

_LOGS: tuple[type[Base], ...] = (OutputChunk,)
_EVENTS: tuple[type[Base], ...] = (TaskResult, Progress)
_REST: tuple[type[Base], ...] = (History, Announcement, RunInput, Wait, Attempt, Step)
"""In an order in which no row is deleted before those that refer to it."""


class What(StrEnum):
    """What is kept of runs, each for a time of its own."""

    LOGS = "logs"
    """The output of their steps."""
    EVENTS = "events"
    """What each Ansible task did on each host."""
    RUNS = "runs"
    """Themselves, with everything that there is of them."""


@dataclass(frozen=True)
class Policy:
    """For how many seconds after their end what is kept of a workflow's runs; 0: for ever."""

    logs: float
    events: float
    runs: float
    keep: int
    """How many finished runs, of which those that were skipped do not count; 0: all."""

    def seconds(self, what: What) -> float:
        """For how long one kind is kept."""
        return {What.LOGS: self.logs, What.EVENTS: self.events, What.RUNS: self.runs}[what]


@dataclass(frozen=True)
class Portion:
    """What one transaction has deleted."""

    workflow: str
    what: What
    runs: int = 0
    """How many runs it has brought to an end: all of that kind is gone from them."""
    rows: int = 0


def workflows(session: Session) -> Iterator[str]:
    """The workflows that have runs, by name: one look into the index for each."""
    name = session.scalar(select(Run.workflow).order_by(Run.workflow).limit(1))
    while name is not None:
        yield name
        following = select(Run.workflow).where(Run.workflow > name).order_by(Run.workflow).limit(1)
        name = session.scalar(following)


def newest(session: Session, workflow: str) -> set[str]:
    """The newest finished run of a workflow, and the newest that succeeded. These stay."""
    found: dict[RunState, str] = {}
    for state in RunState:
        if state.final:
            mine = select(Run.id).where(Run.workflow == workflow, Run.state == state)
            if (run_id := session.scalar(mine.order_by(Run.id.desc()).limit(1))) is not None:
                found[state] = run_id
    return {max(found.values()), found.get(RunState.SUCCEEDED, "")} if found else set()


def due(session: Session, workflow: str, what: What, policy: Policy, now: datetime) -> Select[str] | None:
    """The runs of which this is to be deleted now, as a query in the order of their ids; None when there can be none.

    Runs that are repeated by reruns of reruns are among them: ``prune`` leaves those out.
    """
    old = _old(session, workflow, what, policy, now)
    if old is None:
        return None
    rerun = aliased(Run)
    unsent = exists().where(
        Announcement.run_id == Run.id, Announcement.sent_at.is_(None), Announcement.refused.is_(False)
    )
    repeated = exists().where(rerun.origin_id == Run.id, rerun.finished_at.is_(None))
    query = select(Run.id).where(
        Run.workflow == workflow, Run.finished_at.is_not(None), old, Run.id.not_in(newest(session, workflow)),
        ~unsent, ~repeated,
    )  # fmt: skip
    if what is What.LOGS:
        query = query.where(Run.logs_pruned_at.is_(None))
    elif what is What.EVENTS:
        query = query.where(Run.events_pruned_at.is_(None))
    return query.order_by(Run.id)


def _old(session: Session, workflow: str, what: What, policy: Policy, now: datetime) -> ColumnElement[bool] | None:
    """The condition under which a run is old enough. It bounds the ids, so that young runs are not looked at."""
    found: list[ColumnElement[bool]] = []
    if seconds := policy.seconds(what):
        before = now - timedelta(seconds=seconds)
        found.append(and_(Run.finished_at < before, Run.id < new_id(before + _MARGIN)[:_TIME_CHARACTERS]))
    if what is What.RUNS and policy.keep:
        counted = (Run.finished_at.is_not(None), Run.state != RunState.SKIPPED)
        finished = select(Run.id).where(Run.workflow == workflow, *counted)
        surplus = session.scalar(finished.order_by(Run.id.desc()).offset(policy.keep).limit(1))
        if surplus is not None:
            found.append(Run.id <= surplus)
    return or_(false(), *found) if found else None


def prune(session: Session, query: Select[str], workflow: str, what: What, policy: Policy, now: datetime) -> Portion:
    """Delete one portion of what these runs have; ``query`` is of ``due``, bounded to a few runs. Call it again until
    it has brought them to an end.
    """
    ids = session.scalars(query.with_for_update(of=Run, skip_locked=True)).all()
    ids = [run_id for run_id in ids if run_id not in _repeated(session, ids)]
    if not ids:
        return Portion(workflow, what)
    tables = {What.LOGS: _LOGS, What.EVENTS: _EVENTS, What.RUNS: (*_LOGS, *_EVENTS, *_REST)}[what]
    rows, over = _delete(session, ids, tables)
    if not over:
        return Portion(workflow, what, 0, rows)
    if what is What.RUNS:
        _delete_runs(session, ids, now)
        return Portion(workflow, what, len(ids), rows + len(ids))
    kept = policy.seconds(what)
    marks = {"logs_pruned_at": now, "logs_kept": kept} if what is What.LOGS else {
        "events_pruned_at": now, "events_kept": kept,
    }  # fmt: skip
    session.execute(update(Run).where(Run.id.in_(ids)).values(marks).execution_options(synchronize_session=False))
    return Portion(workflow, what, len(ids), rows)


def _delete(session: Session, ids: Sequence[str], tables: Sequence[type[Base]]) -> tuple[int, bool]:
    """Delete rows of these runs, up to the bound. Returns how many, and whether none is left."""
    rows = 0
    for table in tables:
        left = min(ROWS_AT_ONCE - rows, _CHUNKS_AT_ONCE) if table is OutputChunk else ROWS_AT_ONCE - rows
        if left <= 0:
            return rows, False
        gone = delete_some(session, table, _of(table, ids), left)
        rows += gone
        if gone >= left:
            return rows, False
    return rows, True


def _of(table: type[Base], ids: Sequence[str]) -> ColumnElement[bool]:
    """Which rows of a table belong to these runs."""
    columns = table.__table__.columns
    if "run_id" in columns:
        return columns["run_id"].in_(ids)
    return columns["attempt_id"].in_(select(Attempt.id).where(Attempt.run_id.in_(ids)))


def delete_some(session: Session, table: type[Base], which: ColumnElement[bool], limit: int) -> int:
    """Delete at most so many rows; returns how many."""
    keys = list(table.__table__.primary_key)
    key = tuple_(*keys) if len(keys) > 1 else keys[0]
    statement = delete(table).where(key.in_(select(*keys).where(which).limit(limit)))
    # Counted by what comes back: not every driver knows how many rows a statement has met.
    return len(session.execute(statement.returning(literal(1)), execution_options={"synchronize_session": False}).all())


def _delete_runs(session: Session, ids: Sequence[str], now: datetime) -> None:
    """Delete runs of which nothing else is left, and remember their trigger keys."""
    spent = select(Run.trigger_key, Run.id, literal(now, SpentKey.pruned_at.type)).where(
        Run.id.in_(ids), Run.trigger_key.is_not(None)
    )
    session.execute(insert(SpentKey).from_select(["trigger_key", "run_id", "pruned_at"], spent))
    session.execute(delete(Run).where(Run.id.in_(ids)).execution_options(synchronize_session=False))


def _repeated(session: Session, ids: Collection[str]) -> set[str]:
    """Those of the runs that an unfinished run repeats, be it through reruns that are over."""
    found: set[str] = set()
    roots = {run_id: {run_id} for run_id in ids}
    while roots:
        rows = session.execute(select(Run.id, Run.origin_id, Run.finished_at).where(Run.origin_id.in_(roots)))
        following: dict[str, set[str]] = {}
        for row in rows:
            if row.finished_at is None:
                found |= roots[row.origin_id]
            following.setdefault(row.id, set()).update(roots[row.origin_id])
        roots = following
    return found


def delete_definitions(session: Session) -> int:
    """Delete the copies of workflows that no run was made of any more. May raise IntegrityError: a run is being made.

    Returns how many.
    """
    used: InstrumentedAttribute[str] = Run.definition_digest
    return delete_some(session, Definition, ~exists().where(used == Definition.digest), ROWS_AT_ONCE)
