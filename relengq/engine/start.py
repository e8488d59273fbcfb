# SPDX-License-Identifier: GPL-3.0-or-later
"""Start runs: check who and with what, make the run once, take its first step, hand it to the broker."""

from __future__ import annotations

import hashlib
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from relengq.content import Revision
from relengq.documents import Json
from relengq.engine.advance import advance
from relengq.engine.control import cancel_in
from relengq.engine.dispatch import send_due
from relengq.engine.installation import Installation
from relengq.engine.unheard import until_heard
from relengq.errors import Refused, Unavailable
from relengq.expressions import render
from relengq.inputs import check_inputs, mask
from relengq.models import Run
from relengq.runs import groups
from relengq.runs.attempts import queued_runs
from relengq.runs.create import NewRun, NewStep, by_key, create
from relengq.runs.moves import move_run
from relengq.states import RunState
from relengq.workflows import Workflow

_GROUP_CHARACTERS = 255
_KEY_CHARACTERS = 255
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Trigger:
    """What starts a run: kind ``person``, ``schedule`` or ``message``, who, and what makes the start unique."""

    kind: str
    who: str
    key: str | None = None
    detail: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """A run that a start led to; ``fresh`` is False when an earlier start had made it."""

    run_id: str
    state: RunState
    fresh: bool
    reason: str | None
    broker_away: str | None = None
    """Why the broker could not be told yet. The run is kept and starts when it is back."""


@dataclass(frozen=True)
class Repeat:
    """What a rerun takes over from the run that it repeats."""

    origin_id: str
    origin_from: str | None
    steps: tuple[NewStep, ...]
    revision: str | None
    dirty: bool


@dataclass(frozen=True)
class Order:
    """A start that has been checked: everything that takes time is done before the transaction begins."""

    workflow: Workflow
    shown: dict[str, Json]
    """The inputs, secret ones masked."""
    sealed: bytes | None
    steps: tuple[NewStep, ...]
    revision: str | None
    dirty: bool
    origin_id: str | None = None
    origin_from: str | None = None


def order(
    installation: Installation, workflow: Workflow, given: Mapping[str, object], repeat: Repeat | None = None
) -> Order:
    """Check the inputs, seal the secret ones, and look at which commit the site is. Raises InputFault or SiteFault."""
    values = check_inputs(workflow.inputs, given)
    if repeat is None:
        return order_checked(installation, workflow, values, installation.revision())
    ordered = order_checked(installation, workflow, values, None)
    return replace(
        ordered,
        steps=repeat.steps,
        revision=repeat.revision,
        dirty=repeat.dirty,
        origin_id=repeat.origin_id,
        origin_from=repeat.origin_from,
    )


def order_checked(
    installation: Installation, workflow: Workflow, values: Mapping[str, Json], at: Revision | None
) -> Order:
    """As ``order`` for inputs that have been checked, with the site at a known revision. Raises SiteFault."""
    hidden = {name: value for name, value in values.items() if workflow.inputs[name].secret}
    commit, dirty = (at.commit, at.dirty) if at else (None, False)
    return Order(
        workflow, mask(workflow.inputs, values), installation.secrets.seal(hidden), first_steps(workflow), commit, dirty
    )


def start(installation: Installation, workflow_name: str, given: Mapping[str, object], trigger: Trigger) -> Started:
    """Start a workflow. Raises NotFound, SiteFault, InputFault, Refused or DatabaseUnavailable."""
    workflow = installation.site.workflow(workflow_name)
    return commit(installation, order(installation, workflow, given), trigger)


def commit(installation: Installation, ordered: Order, trigger: Trigger) -> Started:
    """Make the run in one transaction, send what it has queued, and say how it went.

    A start without a key gets one, so that a try is recognised that was committed while the connection broke.
    """
    keyed = replace(trigger, key=trigger.key or uuid.uuid4().hex)
    made: list[str] = []
    queued: set[str] = set()

    def once() -> Started:
        with installation.database.write() as session:
            found = by_key(session, unique(keyed, ordered.workflow.name) or "") if made else None
            if found is not None:
                return Started(found.id, found.state, found.id in made, found.reason)
            run, fresh = start_in(session, installation, ordered, keyed, installation.database.now(session))
            session.flush()
            queued.update(queued_runs(session))
            made.append(run.id if fresh else "")
        return Started(run.id, run.state, fresh, run.reason)

    started = until_heard(once, lambda: bool(made))
    try:
        send_due(installation, queued)
    except Unavailable as error:  # the run is kept; the clock sends
        _log.warning("dispatch.postponed", run_id=started.run_id, error=str(error))
        return replace(started, broker_away=str(error))
    return started


def start_in(
    session: Session, installation: Installation, ordered: Order, trigger: Trigger, now: datetime
) -> tuple[Run, bool]:
    """Make the run within the caller's transaction, and take it as far as it goes without a worker.

    The caller commits, and then calls ``dispatch.send_due``.
    """
    refuse_flood(session, installation)
    return make_in(session, installation, new_run(ordered, trigger), now)


def new_run(ordered: Order, trigger: Trigger) -> NewRun:
    """What the run will be made of. Raises ExpressionFault when its concurrency group cannot be told."""
    workflow = ordered.workflow
    played = {step.position for step in ordered.steps if step.kept is None}
    return NewRun(
        workflow=workflow,
        steps=ordered.steps,
        trigger_kind=trigger.kind,
        trigger_key=unique(trigger, workflow.name),
        trigger=trigger.detail,
        who=trigger.who,
        inputs=ordered.shown,
        sealed_inputs=ordered.sealed,
        revision=ordered.revision,
        dirty=ordered.dirty,
        host=socket.gethostname()[:255],
        group_name=_group(workflow, ordered.shown, trigger),
        timeout=workflow.timeout,
        waits={at: pattern for at, pattern in workflow.waits.items() if at in played},
        origin_id=ordered.origin_id,
        origin_from=ordered.origin_from,
    )


def make_in(
    session: Session, installation: Installation, new: NewRun, now: datetime, *, sure: bool = False
) -> tuple[Run, bool]:
    """As ``start_in``, of what has been prepared; whether there are too many runs has been asked.

    ``sure`` is for many runs in one transaction: see ``create``. Then no fault is dealt with here, all are raised, and
    the transaction is to be given up.
    """
    run, fresh = create(session, new, now=now, sure=sure)
    if fresh:
        _log.info("run.created", run_id=run.id, workflow=run.workflow, trigger=new.trigger_kind, who=new.who)
        installation.census.add()
        _enter(session, installation, run, new.workflow, now, guarded=not sure)
    return run, fresh


def _enter(
    session: Session, installation: Installation, run: Run, workflow: Workflow, now: datetime, *, guarded: bool
) -> None:
    """Do what ``when_busy`` says, then take the first step."""
    policy = workflow.concurrency
    if policy and run.group_name and policy.when_busy != "queue":
        busy = groups.take(session, run)
        if busy and policy.when_busy == "skip":
            move_run(
                session,
                run,
                RunState.SKIPPED,
                now=now,
                reason=groups.reason(run.group_name, busy),
            )
            return
        if busy:
            # Others are about to end: to stop these twice would stop their ``finally`` too.
            replaced = [other for other in _others(session, run) if not (other.stop_as or other.result)]
            note = "replaced by a newer run"
            cancel_in(session, installation, replaced, who=f"run {run.id}", now=now, note=note)
    advance(session, installation, run, now, guarded=guarded)


def _others(session: Session, run: Run) -> list[Run]:
    unfinished = [state for state in RunState if not state.final]
    return list(
        session.scalars(
            select(Run)
            .where(Run.group_name == run.group_name, Run.id != run.id, Run.state.in_(unfinished))
            .order_by(Run.id)
            .with_for_update()
            .execution_options(populate_existing=True)
        )
    )


def refuse_flood(session: Session, installation: Installation) -> None:
    """Raise Refused when so many runs are unfinished that no other may be made."""
    limit = installation.settings.max_runs_active
    active = installation.census.unfinished(session, limit)
    if active >= limit:
        raise Refused(
            f"{active} runs are unfinished, and max_runs_active is {limit}.",
            hint="Cancel some ('relengq runs --state queued'), or raise the limit in relengq.toml.",
        )


def first_steps(workflow: Workflow) -> tuple[NewStep, ...]:
    """The steps of a run that begins at the beginning."""
    return tuple(
        NewStep(position, step.name, step.kind, final=position >= len(workflow.steps))
        for position, step in enumerate(workflow.chain)
    )


def unique(trigger: Trigger, workflow: str) -> str | None:
    """The trigger's key among those of all runs."""
    if not trigger.key:
        return None
    key = f"{trigger.kind}:{workflow}:{trigger.key}"
    return key if len(key) <= _KEY_CHARACTERS else f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def _group(workflow: Workflow, inputs: dict[str, Json], trigger: Trigger) -> str | None:
    """The name of the run's concurrency group. Secrets are masked in it, as everywhere that is stored."""
    if workflow.concurrency is None:
        return None
    run: Json = {"workflow": workflow.name, "trigger": trigger.kind, "who": trigger.who}
    name = render(workflow.concurrency.group, {"inputs": inputs, "run": run})
    return str(name)[:_GROUP_CHARACTERS]
