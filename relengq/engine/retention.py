# SPDX-License-Identifier: GPL-3.0-or-later
"""How long things are kept, and the deleting of what is older: by the clock a little at a time, or by a person."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog
from pydantic import ValidationError
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from relengq.engine.installation import Installation
from relengq.errors import DatabaseUnavailable
from relengq.models import Base, Definition, Listener, ParkedMessage, Run, ScheduleFire, SpentKey, Worker
from relengq.runs import pruning
from relengq.runs.pruning import RUNS_AT_ONCE, Policy, Portion, What
from relengq.workflows import Retention as Own

_EVERY = 600.0
"""Seconds between two rounds of the clock."""
_FIRST = 60.0
"""Seconds after which a new leader begins, and one that met with trouble goes on: there are more urgent things."""
_A_TICK = 0.1
"""Seconds of one tick that deleting may take; a transaction that has begun is finished."""
_FORGOTTEN = timedelta(days=30)
"""After so long without a word from it, a worker or a listener is no longer listed."""
NOTHING = Own()
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is due to be deleted of one workflow."""

    workflow: str
    logs: int
    """Of how many runs the output."""
    events: int
    """Of how many runs what each task did."""
    runs: int
    """How many runs."""


def policy(session: Session, installation: Installation, workflow: str, overrule: Own = NOTHING) -> Policy:
    """How long what is kept of a workflow's runs.

    What its file says goes before the settings, and ``overrule`` before both. When its file is gone, or has faults, the
    newest run's copy of it counts: a file that is broken for an hour must not cost what it was to keep.
    """
    known = installation.site.workflows.get(workflow)
    own = known.retention if known is not None else _last_known(session, workflow)
    settings = installation.settings

    def first(*values: float | None) -> float:
        return next(value for value in values if value is not None)

    return Policy(
        logs=first(overrule.logs, own.logs, settings.retention_logs),
        events=first(overrule.events, own.events, settings.retention_events),
        runs=first(overrule.runs, own.runs, settings.retention_runs),
        keep=int(first(overrule.keep, own.keep, settings.retention_keep)),
    )


def _last_known(session: Session, workflow: str) -> Own:
    """What the newest run's copy of a workflow says; nothing when another version of relengq wrote it otherwise."""
    of_newest = (
        select(Definition.body)
        .join(Run, Run.definition_digest == Definition.digest)
        .where(Run.workflow == workflow)
        .order_by(Run.id.desc())
        .limit(1)
    )
    body = session.scalar(of_newest) or {}
    try:
        return Own.model_validate(body.get("retention", {}))
    except ValidationError:
        return NOTHING


def plan(installation: Installation, overrule: Own = NOTHING, only: Collection[str] = ()) -> list[Plan]:
    """What is due to be deleted now, of each workflow that has something. Nothing is deleted."""
    found = []
    with installation.database.read() as session:
        now = installation.database.now(session)
        for name in sorted(only) or list(pruning.workflows(session)):
            own = policy(session, installation, name, overrule)
            counts = {what: _count(session, name, what, own, now) for what in What}
            if any(counts.values()):
                found.append(Plan(name, counts[What.LOGS], counts[What.EVENTS], counts[What.RUNS]))
    return found


def _count(session: Session, name: str, what: What, own: Policy, now: datetime) -> int:
    query = pruning.due(session, name, what, own, now)
    if query is None:
        return 0
    return session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0


def prune(installation: Installation, overrule: Own = NOTHING, only: Collection[str] = ()) -> Iterator[Portion]:
    """Delete what is due, one short transaction for each portion that is given; ``only`` these workflows, if any.

    Nothing is locked while the caller has a portion. Each workflow gives one at least. May raise DatabaseUnavailable;
    then, or when it is not asked on, what is left is found by the next call.
    """
    with installation.database.read() as session:
        names = sorted(only) or list(pruning.workflows(session))
    for name in names:
        for what in What:
            yield from _of_workflow(installation, name, what, overrule)
    if not only:
        yield from _leftovers(installation)


def _of_workflow(installation: Installation, name: str, what: What, overrule: Own) -> Iterator[Portion]:
    database = installation.database
    after = ""
    while True:
        with database.read() as session:
            now = database.now(session)
            own = policy(session, installation, name, overrule)
            query = pruning.due(session, name, what, own, now)
            ids = [] if query is None else session.scalars(query.where(Run.id > after).limit(RUNS_AT_ONCE)).all()
        if not ids:
            yield Portion(name, what)
            return
        after = ids[-1]
        while True:
            with database.write() as session:
                # Asked again: a run that was the newest may no longer be, and the other way round.
                again = pruning.due(session, name, what, own, now)
                if again is None:
                    break
                portion = pruning.prune(session, again.where(Run.id.in_(ids)), name, what, own, now)
            yield portion
            if portion.runs or not portion.rows:
                break


def _leftovers(installation: Installation) -> Iterator[Portion]:
    """Delete what belongs to no run any more, and what only says what has been dealt with."""
    kept = installation.settings.retention_keys
    now = installation.now()
    old = now - timedelta(seconds=kept)
    newer = aliased(ScheduleFire)
    later = select(newer.due_at).where(newer.schedule == ScheduleFire.schedule, newer.due_at > ScheduleFire.due_at)
    which: list[tuple[type[Base], ColumnElement[bool]]] = [
        (Worker, Worker.seen_at < now - _FORGOTTEN),
        (Listener, Listener.seen_at < now - _FORGOTTEN),
    ]
    if kept:
        which += [
            (SpentKey, SpentKey.pruned_at < old),
            (ParkedMessage, ParkedMessage.resolved_at < old),
            (ScheduleFire, (ScheduleFire.due_at < old) & later.exists()),
        ]
    for table, condition in which:
        some = partial(pruning.delete_some, table=table, which=condition, limit=pruning.ROWS_AT_ONCE)
        yield from _until_none(installation, some)
    try:
        yield from _until_none(installation, pruning.delete_definitions)
    except IntegrityError:
        _log.info("retention.definition_in_use")  # a run is being made of it just now


def _until_none(installation: Installation, action: Callable[[Session], int]) -> Iterator[Portion]:
    rows = pruning.ROWS_AT_ONCE
    while rows >= pruning.ROWS_AT_ONCE:
        with installation.database.write() as session:
            rows = action(session)
        yield Portion("", What.RUNS, 0, rows)


class Retention:
    """The clock's part: a round now and then, a little of it in each tick."""

    def __init__(self, installation: Installation, first: float = _FIRST) -> None:
        self._installation = installation
        self._at = time.monotonic() + first
        self._round: Iterator[Portion] | None = None
        self._gone: Counter[str] = Counter()

    def tick(self) -> None:
        """Go on with the round, if it is time for one. Raises DatabaseUnavailable; a new round begins later."""
        if time.monotonic() < self._at:
            return
        begun = time.monotonic()
        self._round = self._round or prune(self._installation)
        try:
            for portion in self._round:
                self._gone[str(portion.what)] += portion.runs
                self._gone["rows"] += portion.rows
                if time.monotonic() - begun >= _A_TICK:
                    return
        except DatabaseUnavailable:
            self._round = None
            self._at = time.monotonic() + _FIRST
            raise
        except Exception:
            _log.exception("retention.fault")
        if any(self._gone.values()):
            _log.info("retention.pruned", **self._gone)
        self._round, self._gone = None, Counter()
        self._at = time.monotonic() + _EVERY
