# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that wait for a message: which messages are kept for them, and which of those ends one.

A run has a row in ``waits`` for each of its ``wait_for`` steps from its creation to its end. A message whose topic fits
one of them is kept, because the step may begin to wait only later. So is one that fits a ``wait_for`` step of any
workflow of the site, for a while: the run that waits for it may be made just now, or its trigger may still be in the
hands of another listener. Kept messages are looked over at two moments: when a step begins to wait, and when a message
has been kept. The second comes after the commit that keeps the message, with the run locked; so whichever of the two
commits last sees what the other has done. When the commits are those of the message and of the run itself, neither may
have seen the other: then the clock hands the message on.

Which messages count: those that were taken after the run was made. Listeners that share a queue do not keep its order,
so of those that were taken a little earlier the ones count that were sent after the message that started the run.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from relengq import compression
from relengq.database import insert
from relengq.documents import Json
from relengq.engine.context import OUTPUTS_LIMIT, Context
from relengq.errors import ExpressionFault, MessageFault
from relengq.expressions import condition
from relengq.messages import BODY_LIMIT, Message
from relengq.models import KeptMessage, Run, Step, Wait
from relengq.runs.moves import move_step
from relengq.states import StepState
from relengq.storable import storable_json
from relengq.workflows import WaitFor, WaitForStep, topic_matches

WHO = "bus"
"""Who ended a wait, in the history of runs."""
SENT_AT = "sent_at"
"""What a run's trigger calls the moment at which its message was sent, when a listener has taken it."""
_LOADED = 50
_AT_ONCE = 500
_LEAST = timedelta(minutes=10)
"""So long every kept message stays: a run whose creation has not been committed yet may ask for it. And so much later
than what follows it a listener may take a message: it had others before it, or died and left it to another."""
_NOTE_CHARACTERS = 500


def waited_patterns(session: Session) -> set[str]:
    """The topic patterns of all waits of unfinished runs."""
    return set(session.scalars(select(Wait.pattern).distinct()))


def runs_waiting(session: Session, patterns: Collection[str]) -> dict[str, set[str]]:
    """For each of the patterns the unfinished runs with a wait of it, whether its step has been reached or not."""
    found: dict[str, set[str]] = {pattern: set() for pattern in patterns}
    for pattern, run_id in session.execute(select(Wait.pattern, Wait.run_id).where(Wait.pattern.in_(patterns))):
        found[pattern].add(run_id)
    return found


def keep(session: Session, message: Message, now: datetime) -> tuple[int, bool]:
    """Keep a message. Returns its row, and whether it is new: it may have been kept before."""
    row_id: int | None = session.scalar(
        insert(session, KeptMessage)
        .values(
            message_id=message.id,
            topic=message.topic,
            headers=message.headers,
            body=compression.pack(message.raw),
            encoding=message.encoding,
            received_at=now,
        )
        .on_conflict_do_nothing(index_elements=["message_id"])
        .returning(KeptMessage.id)
    )
    if row_id is not None:
        return row_id, True
    return session.execute(select(KeptMessage.id).where(KeptMessage.message_id == message.id)).scalar_one(), False


def renew(session: Session, row_id: int, runs: Collection[str], now: datetime) -> bool:
    """Have a message that was kept before count as kept now, when all of these runs were made after it came.

    Returns whether it was so.
    """
    made = select(func.min(Run.created_at)).where(Run.id.in_(runs)).scalar_subquery()
    renewed = update(KeptMessage).where(KeptMessage.id == row_id, KeptMessage.received_at < made)
    return session.execute(renewed.values(received_at=now).returning(KeptMessage.id)).first() is not None


def runs_to_answer(session: Session, since: datetime | None) -> list[str]:
    """The runs with a step that waits for a message such as has been kept since then, or at all."""
    reached = (
        select(Wait.run_id, Wait.pattern)
        .join(Step, (Step.run_id == Wait.run_id) & (Step.position == Wait.position))
        .where(Step.kind == "wait_for", Step.state == StepState.WAITING)
        .distinct()
    )
    rows = session.execute(reached).all()
    if not rows:
        return []
    topics = select(KeptMessage.topic).distinct()
    kept = session.scalars(topics if since is None else topics.where(KeptMessage.received_at >= since)).all()
    fitting = {pattern for pattern in {row.pattern for row in rows} if any(topic_matches(pattern, t) for t in kept)}
    return sorted({row.run_id for row in rows if row.pattern in fitting})


def unneeded(session: Session, now: datetime) -> int:
    """Delete kept messages that no wait can ask for: those that fit none, or are too old. Returns how many."""
    least = now - _LEAST
    waits = session.execute(select(Wait.pattern, func.min(Wait.since)).group_by(Wait.pattern)).all()
    topics: dict[datetime, list[str]] = {}
    """By the moment from which on they are needed."""
    for topic in session.scalars(select(KeptMessage.topic).where(KeptMessage.received_at < least).distinct()):
        needed = (since - _LEAST for pattern, since in waits if topic_matches(pattern, topic))
        topics.setdefault(min(needed, default=least), []).append(topic)
    gone = 0
    for before, those in topics.items():
        old = KeptMessage.received_at < min(before, least)
        for begin in range(0, len(those), _AT_ONCE):
            some = delete(KeptMessage).where(old, KeptMessage.topic.in_(those[begin : begin + _AT_ONCE]))
            gone += len(session.execute(some.returning(KeptMessage.id)).all())
    return gone


def look_over(
    session: Session,
    step: Step,
    declared: WaitForStep,
    sees: Context,
    now: datetime,
    only: Collection[int] | None = None,
) -> bool:
    """Let the first kept message that a waiting step waits for end it; returns whether one has.

    ``only`` says which rows of kept messages are looked at; without it all that there are. A message that cannot be
    judged is not the one; the step's reason says so. The caller has locked the run, and advances it.
    """
    wait = declared.wait_for
    note: str | None = None
    for message in _candidates(session, step, wait.message, only):
        try:
            context: Context = {**sees, **message.context()}
            if wait.if_ is None or condition(wait.if_).holds(context):
                _end(session, step, wait, message, context, now)
                return True
        except (MessageFault, ExpressionFault) as fault:
            note = f"message {message.id} could not be judged: {fault}"
    if note:
        reason = f"{waits_for(wait)}; {note}"[:_NOTE_CHARACTERS]
        move_step(session, step, StepState.WAITING, now=now, reason=reason)
    return False


def waits_for(wait: WaitFor) -> str:
    """Why a step waits."""
    return f"message {wait.message}"


def _candidates(session: Session, step: Step, pattern: str, only: Collection[int] | None) -> Iterator[Message]:
    """The kept messages that count for the step, in the order in which they were kept."""
    since, begun = _since(session, step, pattern), _begun(step.run)
    received = KeptMessage.received_at
    query = select(KeptMessage.id, KeptMessage.topic, KeptMessage.message_id, received)
    query = query.where(received >= (since - _LEAST if begun else since))
    if only is not None:
        query = query.where(KeptMessage.id.in_(only))
    own = step.run.trigger.get("message_id") if step.run.trigger_kind == "message" else None
    rows = session.execute(query.order_by(KeptMessage.id)).all()
    # The message that started the run may have been delivered again, and be kept for others.
    wanted = [row for row in rows if row.message_id != own and topic_matches(pattern, row.topic)]
    early = [row.id for row in wanted if row.received_at < since]
    late = _sent_later(session, early, begun) if begun else set()
    counted = [row.id for row in wanted if row.received_at >= since or row.id in late]
    for begin in range(0, len(counted), _LOADED):
        yield from _messages(session, counted[begin : begin + _LOADED])


def _begun(run: Run) -> datetime | None:
    """When the message was sent that started the run, as far as that says which messages came later."""
    told = run.trigger.get(SENT_AT)
    return datetime.fromisoformat(told) if isinstance(told, str) else None


def _sent_later(session: Session, ids: Sequence[int], moment: datetime) -> set[int]:
    """Those of the kept messages that were sent after the moment, by what their senders say. They count in seconds."""
    late: set[int] = set()
    for begin in range(0, len(ids), _AT_ONCE):
        some = KeptMessage.id.in_(ids[begin : begin + _AT_ONCE])
        for row in session.execute(select(KeptMessage.id, KeptMessage.headers).where(some)):
            sent_at = Message("", "", row.headers).sent_at
            if sent_at is not None and sent_at > moment:
                late.add(row.id)
    return late


def _messages(session: Session, ids: Iterable[int]) -> Iterator[Message]:
    query = select(KeptMessage).where(KeptMessage.id.in_(ids)).order_by(KeptMessage.id)
    for row in session.scalars(query):
        try:
            raw = compression.unpack(row.body, BODY_LIMIT)
        except ValueError:
            raw = b""  # which is no body, and is told as that
        yield Message(row.message_id, row.topic, row.headers, raw, row.encoding)


def _since(session: Session, step: Step, pattern: str) -> datetime:
    """From when on messages count for the step. A run that is older than the table of waits gets its row here."""
    found = session.get(Wait, (step.run_id, step.position))
    if found is None:
        found = Wait(run_id=step.run_id, position=step.position, pattern=pattern, since=step.run.created_at)
        session.add(found)
        session.flush()
    return found.since


def _end(session: Session, step: Step, wait: WaitFor, message: Message, context: Context, now: datetime) -> None:
    """End the step with a message: its body becomes the outputs, unless they are more than is kept."""
    outputs = storable_json(message.body)
    state, reason = StepState.SUCCEEDED, f"message {message.id}"
    trouble = _unfit(outputs)
    step.outputs = outputs if trouble is None and isinstance(outputs, dict) else {}
    if trouble is not None:
        state, reason = StepState.FAILED, f"message {message.id} {trouble}"
    elif wait.fail_if is not None:
        try:
            if condition(wait.fail_if).holds(context):
                state, reason = StepState.FAILED, f"message {message.id} fails it: {wait.fail_if}"
        except ExpressionFault as fault:
            state, reason = StepState.FAILED, f"fail_if, with message {message.id}: {fault}"
    move_step(session, step, state, now=now, reason=reason, who=WHO)


def _unfit(outputs: Json) -> str | None:
    """Why a body cannot be a step's outputs, or None."""
    try:
        size = len(json.dumps(outputs, allow_nan=False))
    except ValueError:
        return "has a number that JSON cannot hold"
    if size > OUTPUTS_LIMIT:
        return f"has a body of {size} bytes, and the limit for outputs is {OUTPUTS_LIMIT}"
    return None


def waiting_steps(run: Run) -> list[Step]:
    """The steps of the run that wait for a message just now."""
    return [step for step in run.steps if step.kind == "wait_for" and step.state is StepState.WAITING]
