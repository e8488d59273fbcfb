# SPDX-License-Identifier: GPL-3.0-or-later
"""Write announcements, each in the transaction of the state that it announces.

Whatever moves a run or a step does so in a transaction of the installation's database, and the outbox looks at each of
them before it is committed. A transaction that moves nothing costs nothing, and a state that was rolled back is not
announced.
"""

from __future__ import annotations

import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import structlog
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from relengq.announcements import bodies
from relengq.documents import Json
from relengq.errors import ExpressionFault
from relengq.expressions import condition, render
from relengq.models import Announcement, History, Run, Step
from relengq.runs.definitions import workflow_of
from relengq.runs.moves import record, taken_moves
from relengq.states import RunState, StepState
from relengq.storable import storable_json
from relengq.workflows import RUN_FINISHED, RUN_STARTED, RUN_WAITING, STEP_FINISHED, Workflow
from relengq.workflows import Announcement as Own
from relengq.workflows.values import topic_name

OWN = "own"
"""The kind of a workflow's own messages."""
FAILED = "announcement failed"
"""What the history of a run says of an announcement that could not be made or sent."""
_STEP_ENDS = (StepState.SUCCEEDED, StepState.FAILED, StepState.CANCELLED)
_RUN_ENDS = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)
_KEPT_WORKFLOWS = 200
_log = structlog.get_logger(__name__)

Sees = Callable[[Run, Mapping[str, Json] | None], dict[str, Json]]
"""What expressions of a run see as it stands, with the values of a matrix instance."""


@dataclass(frozen=True)
class _Move:
    """A move that somebody may want to hear of."""

    kind: str
    line: History
    run: Run
    step: Step | None = None


class Outbox:
    """Adds to a transaction what it has to announce. Belongs into ``Database.before_commit``."""

    def __init__(self, sees: Sees, bus_config: Path) -> None:
        self._sees = sees
        self._bus_config = bus_config
        self._workflows: dict[str, Workflow] = {}

    def __call__(self, session: Session) -> None:
        """Write what the moves of the transaction announce. Raises only what the database raises."""
        for move in _in_order(_moves(session, taken_moves(session))):
            try:
                workflow = self._workflow(move.run)
            except ValidationError:  # another version of relengq wrote it
                _log.exception("announcement.bug", run_id=move.run.id, topic=move.kind)
                reason = "this version of relengq does not understand the run's workflow"
                self._failed(session, move, move.kind, reason, ValidationError)
                continue
            for item in _wanted(workflow, move):
                self._announce(session, move, workflow, item)

    def _announce(self, session: Session, move: _Move, workflow: Workflow, item: str | Own) -> None:
        """Add one announcement. What cannot be made is told in the run's history, and harms nothing else."""
        topic = item if isinstance(item, str) else item.topic
        kind: type[Exception]
        try:
            made = _event(move, workflow) if isinstance(item, str) else self._own(move, workflow, item)
        except (DBAPIError, PoolTimeout):
            raise
        except ExpressionFault as fault:
            reason, kind = str(fault), type(fault)
        except Exception as error:
            _log.exception("announcement.bug", run_id=move.run.id, topic=topic)
            reason, kind = f"a bug in relengq, {type(error).__name__}; its log has the traceback", type(error)
        else:
            if made is not None:
                session.add(made)
            return
        self._failed(session, move, topic, reason, kind)

    def _failed(self, session: Session, move: _Move, topic: str, reason: str, kind: type[Exception]) -> None:
        """Tell the history why, and the log that: the reason may have values."""
        _log.warning("announcement.failed", run_id=move.run.id, topic=topic, fault=kind.__name__)
        record(session, move.run, FAILED, now=move.line.at, note=f"{topic}: {reason}", step=move.step)

    def _own(self, move: _Move, workflow: Workflow, own: Own) -> Announcement | None:
        """A message of the workflow's own, or None when its condition is false."""
        step = move.step
        ended = step if step is not None else move.run
        if own.when is None and str(ended.state) != "succeeded":
            return None
        has_matrix = step is not None and workflow.chain[step.position].matrix
        sees = self._sees(move.run, (step.matrix or {}) if step is not None and has_matrix else None)
        if step is not None:
            sees["step"] = _as_seen(step)
        if own.when is not None and not condition(own.when).holds(sees):
            return None
        topic = topic_name(render(own.topic, sees), len(self._prefix.encode()))
        body = render(own.body, sees)
        if not isinstance(body, dict):
            raise ExpressionFault("the body of a message is a mapping")
        if (length := bodies.size(body)) > bodies.BODY_LIMIT:
            raise ExpressionFault(f"its body has {length} bytes; the limit is {bodies.BODY_LIMIT}")
        return _row(move, OWN, topic, body, bodies.INFO)

    @cached_property
    def _prefix(self) -> str:
        """What fedora-messaging puts before a topic, with its dot; empty when the file cannot be read just now."""
        try:
            prefix = tomllib.loads(self._bus_config.read_text()).get("topic_prefix")
        except (OSError, ValueError):
            return ""
        return f"{prefix.rstrip('.')}." if isinstance(prefix, str) and prefix else ""

    def _workflow(self, run: Run) -> Workflow:
        """The run's workflow; those that were asked for lately are remembered."""
        found = self._workflows.get(run.definition_digest)
        if found is None:
            if len(self._workflows) >= _KEPT_WORKFLOWS:
                self._workflows.clear()
            found = self._workflows[run.definition_digest] = workflow_of(run)
        return found


def _moves(session: Session, lines: list[History]) -> Iterator[_Move]:
    for line in lines:
        if line.attempt_id is not None or line.after is None:
            continue
        kind = _kind(line)
        if kind is not None:
            run = session.get_one(Run, line.run_id)
            yield _Move(kind, line, run, session.get_one(Step, line.step_id) if line.step_id is not None else None)


def _kind(line: History) -> str | None:
    """Which event the line of the history is, if it is one."""
    if line.step_id is not None:
        if line.after in _STEP_ENDS:
            return STEP_FINISHED
        return RUN_WAITING if line.after == StepState.WAITING else None
    if line.after in _RUN_ENDS:
        return RUN_FINISHED
    began = line.before == RunState.QUEUED and line.after in (RunState.RUNNING, RunState.WAITING)
    return RUN_STARTED if began else None


def _in_order(moves: Iterator[_Move]) -> list[_Move]:
    """The moves as they came, but the start of a run first: its state follows the ones of its first step."""
    return sorted(moves, key=lambda move: move.kind != RUN_STARTED)


def _wanted(workflow: Workflow, move: _Move) -> Iterator[str | Own]:
    """What is to be announced of the move, in the order of the file: its event, once, and own messages."""
    places = [(workflow.announce, RUN_FINISHED)]
    if move.step is not None:
        places.append((workflow.chain[move.step.position].announce, STEP_FINISHED))
    told = False
    for announce, ends in places:
        for item in announce:
            if isinstance(item, Own):
                if move.kind == ends:
                    yield item
            elif item == move.kind and not told:
                told = True
                yield item


def _event(move: _Move, workflow: Workflow) -> Announcement:
    """The announcement of an event."""
    at, run, step = move.line.at, move.run, move.step
    severity = bodies.INFO
    if move.kind == RUN_STARTED:
        body = bodies.run_started(run, workflow, at)
    elif move.kind == RUN_FINISHED:
        in_order = sorted(run.steps, key=lambda row: (row.position, row.instance))
        body, severity = bodies.run_finished(run, workflow, at, in_order)
    elif step is None:
        raise ValueError(f"{move.kind} without a step")
    elif move.kind == RUN_WAITING:
        body = bodies.run_waiting(run, workflow, at, step)
    else:
        body, severity = bodies.step_finished(run, workflow, at, step)
    return _row(move, move.kind, f"relengq.{move.kind}.v1", body, severity)


def _row(move: _Move, kind: str, topic: str, body: dict[str, Json], severity: int) -> Announcement:
    at = move.line.at
    stored = storable_json(body)
    return Announcement(
        message_id=str(uuid.uuid4()), run_id=move.run.id, kind=kind, topic=topic, severity=severity,
        body=stored if isinstance(stored, dict) else {}, created_at=at, due_at=at, tries=0, refused=False,
    )  # fmt: skip


def _as_seen(step: Step) -> dict[str, Json]:
    """The ``step`` that the templates of its announcements see."""
    return {"name": step.name, "instance": step.instance, "state": str(step.state), "message": step.reason}
