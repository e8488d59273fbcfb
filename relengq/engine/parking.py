# SPDX-License-Identifier: GPL-3.0-or-later
"""Parked messages: those that should have started a workflow and could not be used. A person replays or drops them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from relengq import compression
from relengq.database import insert
from relengq.engine.dispatch import send_due
from relengq.engine.installation import Installation
from relengq.engine.start import make_in, refuse_flood
from relengq.engine.triggers import Outcome, Triggers, prepare
from relengq.errors import MessageFault, NotFound, Refused, RelengqError, Unavailable, WrongState
from relengq.messages import Message, clean
from relengq.models import ParkedMessage
from relengq.runs.attempts import queued_runs
from relengq.runs.create import NewRun, by_key, pruned_runs
from relengq.storable import storable_json

BODY_KEPT = 16 << 20
"""Bytes of a body that are kept with a parked message."""
_TOO_LARGE = f"The body was larger than {BODY_KEPT >> 20} MiB and was cut, so that it cannot be replayed."
_REASON_CHARACTERS = 4000
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ParkedLine:
    """A parked message without its body."""

    id: int
    message_id: str
    topic: str
    workflow: str
    reason: str
    parked_at: datetime
    resolution: str | None
    """replayed or dropped; None while it is parked."""
    resolved_at: datetime | None
    resolved_by: str | None
    run_id: str | None
    """The run that its replay started, or found."""


@dataclass(frozen=True)
class Parked:
    """A parked message as it was kept."""

    line: ParkedLine
    message: Message
    """With as much of its body as was kept."""
    cut: bool
    """Whether the body was cut, for its size."""


def park(session: Session, message: Message, workflow: str, reason: str, now: datetime) -> int | None:
    """Park a message for a workflow; returns its row, or None when it was parked for that workflow before."""
    if len(message.raw) > BODY_KEPT:
        reason = f"{reason[: _REASON_CHARACTERS - len(_TOO_LARGE) - 2]}. {_TOO_LARGE}"
    row_id: int | None = session.scalar(
        insert(session, ParkedMessage)
        .values(
            message_id=message.id,
            workflow=workflow,
            topic=message.topic,
            reason=clean(reason, _REASON_CHARACTERS),
            headers=storable_json(message.headers),
            body=compression.pack(message.raw[:BODY_KEPT]),
            encoding=clean(message.encoding, 255),
            parked_at=now,
        )
        .on_conflict_do_nothing(index_elements=["message_id", "workflow"])
        .returning(ParkedMessage.id)
    )
    return row_id


def listed(
    session: Session, *, everything: bool = False, workflow: str | None = None, limit: int = 100
) -> list[ParkedLine]:
    """The parked messages, newest first; with ``everything`` also those that were replayed or dropped."""
    without_body = select(ParkedMessage).options(defer(ParkedMessage.body), defer(ParkedMessage.headers))
    query = without_body.order_by(ParkedMessage.id.desc()).limit(limit)
    if not everything:
        query = query.where(ParkedMessage.resolution.is_(None))
    if workflow is not None:
        query = query.where(ParkedMessage.workflow == workflow)
    return [_line(row) for row in session.scalars(query)]


def show(session: Session, parked_id: int) -> Parked:
    """One parked message with its body. Raises NotFound, or MessageFault when what is stored is damaged."""
    row = _get(session, parked_id)
    try:
        raw = compression.unpack(row.body, BODY_KEPT)
    except ValueError as error:
        raise MessageFault(f"the stored body of parked message {parked_id} is damaged: {error}") from None
    message = Message(row.message_id, row.topic, row.headers, raw, row.encoding)
    return Parked(_line(row), message, row.reason.endswith(_TOO_LARGE))


@dataclass(frozen=True)
class Replayed:
    """What a replay has led to."""

    line: ParkedLine
    fresh: bool
    """Whether it made a run; else the line's run was there before, or there is none and the reason says why."""


def replay(
    installation: Installation, parked_id: int, who: str, validate: Callable[[Message], None] | None = None
) -> Replayed:
    """Judge a parked message again, with the site as it is now, and start its workflow's run if it may.

    Otherwise it stays parked, with the reason that there is now. Raises NotFound, WrongState when it was replayed or
    dropped before, and Unavailable.
    """
    with installation.database.read() as session:
        parked = show(session, parked_id)
    new, reason = _judged_again(installation, parked, who, validate)
    with installation.database.write() as session:
        row, now = _still_parked(session, parked_id), installation.database.now(session)
        fresh = False
        if new is None:
            row.reason = clean(reason, _REASON_CHARACTERS)
        else:
            run_id, fresh, reason = _made(session, installation, new, now)
            if run_id is None:
                row.reason = clean(reason, _REASON_CHARACTERS)
            else:
                _resolve(row, "replayed", who, now, run_id)
        session.flush()
        replayed, queued = Replayed(_line(row), fresh), queued_runs(session)
    try:
        send_due(installation, queued)
    except Unavailable as error:  # the run is kept; the clock sends
        _log.warning("dispatch.postponed", run_id=replayed.line.run_id, error=str(error))
    return replayed


def drop(installation: Installation, parked_id: int, who: str) -> ParkedLine:
    """Say that nothing is to be done for a parked message. Raises NotFound, WrongState or DatabaseUnavailable."""
    with installation.database.write() as session:
        row = _still_parked(session, parked_id)
        _resolve(row, "dropped", who, installation.database.now(session))
        return _line(row)


def _judged_again(
    installation: Installation, parked: Parked, who: str, validate: Callable[[Message], None] | None
) -> tuple[NewRun | None, str]:
    """The run that the message's workflow would make of it now, or None and the reason."""
    name, message = parked.line.workflow, parked.message
    if parked.cut:
        return None, parked.line.reason
    fault: str | None = None
    try:
        if validate is not None:
            validate(message)
    except MessageFault as error:
        fault = str(error)
    decided = Triggers(installation.site).decide(message, fault)
    decision = next((each for each in decided if each.verdict.workflow == name), None)
    if decision is None:
        return None, f"no trigger of the workflow '{name}' fits its topic now"
    if decision.verdict.outcome is not Outcome.START:
        return None, decision.verdict.reason or ""
    try:
        return prepare(installation, decision, message, who, installation.revision()), ""
    except Unavailable:
        raise
    except RelengqError as error:
        return None, str(error)


def _made(session: Session, installation: Installation, new: NewRun, now: datetime) -> tuple[str | None, bool, str]:
    """The run that the replay makes or finds; None and the reason when there are too many."""
    if key := new.trigger_key:
        known = by_key(session, key)
        found = known.id if known else pruned_runs(session, [key]).get(key)
        if found is not None:
            return found, False, ""
    try:
        refuse_flood(session, installation)
    except Refused as error:
        return None, False, str(error)
    run, fresh = make_in(session, installation, new, now)
    return run.id, fresh, ""


def _still_parked(session: Session, parked_id: int) -> ParkedMessage:
    """The row, locked. Raises NotFound or WrongState."""
    row = _get(session, parked_id, lock=True)
    if row.resolution is not None:
        run = f" as run {row.run_id}" if row.run_id else ""
        raise WrongState(f"Parked message {parked_id} was {row.resolution} by {row.resolved_by}{run}.")
    return row


def _resolve(row: ParkedMessage, resolution: str, who: str, now: datetime, run_id: str | None = None) -> None:
    """Say what became of a parked message."""
    row.resolution, row.resolved_by, row.resolved_at, row.run_id = resolution, who, now, run_id
    _log.info(f"message.{resolution}", parked=row.id, workflow=row.workflow, run_id=run_id, who=who)


def _get(session: Session, parked_id: int, *, lock: bool = False) -> ParkedMessage:
    row = session.get(ParkedMessage, parked_id, with_for_update=lock or None)
    if row is None:
        raise NotFound(f"There is no parked message {parked_id}.", hint="See 'relengq parked --all'.")
    return row


def _line(row: ParkedMessage) -> ParkedLine:
    return ParkedLine(
        row.id, row.message_id, row.topic, row.workflow, row.reason, row.parked_at, row.resolution, row.resolved_at,
        row.resolved_by, row.run_id,
    )  # fmt: skip
