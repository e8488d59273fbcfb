# SPDX-License-Identifier: GPL-3.0-or-later
"""Hand due attempts to the broker: after each commit those that it made, and by the clock whatever was left behind."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from relengq.celery import queue_length
from relengq.engine.installation import Installation, Parcel
from relengq.errors import BrokerUnavailable
from relengq.models import Attempt, Run
from relengq.runs.attempts import queued_attempts
from relengq.states import AttemptState, RunState

_BATCH = 200
_LOOKED_AT = 10_000
_LONGER = 10
_log = structlog.get_logger(__name__)


def send_due(installation: Installation, run_ids: Collection[str] | None = None) -> int:
    """Send attempts that are due and were not sent yet, of some runs, or one batch of all. Returns how many.

    An attempt is marked as sent after the broker took it: a crash between the two sends it twice, which is harmless,
    since only one delivery can claim it. Raises BrokerUnavailable; the rest stays due.
    """
    if run_ids is not None and not run_ids:
        return 0
    return send(installation, _due(installation, run_ids))


def parcels(session: Session, now: datetime) -> list[Parcel]:
    """What the session has queued and may be sent as soon as that is committed; what is due later is left to the clock.

    The session has been flushed.
    """
    return [
        Parcel(attempt.id, f"{attempt.id}.{attempt.sends + 1}", attempt.queue, attempt.label)
        for attempt in queued_attempts(session)
        if attempt.state is AttemptState.QUEUED and attempt.due_at <= now and not attempt.step.run.held
    ]


def send(installation: Installation, due: Iterable[Parcel]) -> int:
    """Send these, and mark them as sent, as ``send_due`` does."""
    tried: list[int] = []
    refused = 0
    try:
        for parcel in due:
            try:
                installation.send(parcel)
            except BrokerUnavailable:
                raise
            except Exception:
                # What the broker or its client refuses must not stand in the way of the others, now or at the next
                # tick: it counts as sent and lost, and is tried again when that is found.
                _log.exception("attempt.not_sent", attempt=parcel.attempt_id, queue=parcel.queue)
                refused += 1
            tried.append(parcel.attempt_id)
    finally:
        if tried:
            _mark(installation, tried)
    return len(tried) - refused


def _due(installation: Installation, run_ids: Collection[str] | None) -> list[Parcel]:
    unfinished = [state for state in RunState if not state.final]
    with installation.database.read() as session:
        now = installation.database.now(session)
        query = (
            select(Attempt.id, Attempt.queue, Attempt.label, Attempt.sends)
            .join(Run, Run.id == Attempt.run_id)
            .where(
                Attempt.state == AttemptState.QUEUED,
                Attempt.sent_at.is_(None),
                Attempt.due_at <= now,
                Run.held.is_(False),
                Run.state.in_(unfinished),
            )
            .order_by(Attempt.id)
            .limit(_BATCH)
        )
        if run_ids is not None:
            query = query.where(Attempt.run_id.in_(list(run_ids)[:_BATCH]))
        return [
            Parcel(attempt_id, f"{attempt_id}.{sends + 1}", queue, label)
            for attempt_id, queue, label, sends in session.execute(query)
        ]


def _mark(installation: Installation, attempt_ids: list[int]) -> None:
    # By itself, so that the worker that takes one of them just now has to wait for its row as little as can be.
    database = installation.database
    database.execute(
        update(Attempt).where(Attempt.id.in_(attempt_ids)).values(sent_at=database.moment(), sends=Attempt.sends + 1)
    )


def resend_unclaimed(installation: Installation, now: datetime, uncounted: set[str]) -> int:
    """Send again what was sent, was not claimed, and is no longer in the broker. Returns how many are to be sent.

    The broker lost it (a restart, a flush, a purge), or a worker took it and died before the claim. A queue that has a
    task for each attempt that waits is left alone: they only wait for a free worker. With fewer, those that are missing
    cannot be told from the others, so after a longer time, and more seldom each time, everything is sent again: of
    several deliveries one can be claimed. So a queue never has more than two tasks for each attempt that waits, however
    long it waits. A queue that cannot be counted is left alone; ``uncounted`` remembers those of which that has been
    said. Raises BrokerUnavailable.
    """
    patience = timedelta(seconds=installation.settings.resend_seconds)
    waiting = (Attempt.state == AttemptState.QUEUED, Attempt.sent_at < now - patience)
    with installation.database.read() as session:
        queues = set(session.scalars(select(Attempt.queue).where(*waiting).distinct()))
    if not (short := _short(installation, queues, uncounted)):
        return 0
    with installation.database.read() as session:
        rows = session.execute(
            select(Attempt.queue, Attempt.id, Attempt.sent_at, Attempt.sends)
            .where(*waiting, Attempt.queue.in_(short))
            .order_by(Attempt.id)
            .limit(_LOOKED_AT)
        ).all()
    lost = [
        row.id for row in rows if not short[row.queue] or now - row.sent_at > patience * _LONGER * max(row.sends, 1)
    ]
    for begin in range(0, len(lost), _BATCH):
        with installation.database.write() as session:
            session.execute(
                update(Attempt)
                .where(Attempt.id.in_(lost[begin : begin + _BATCH]), Attempt.state == AttemptState.QUEUED)
                .values(sent_at=None)
            )
    if lost:
        _log.warning("attempts.lost_by_broker", count=len(lost))
    return len(lost)


def _short(installation: Installation, queues: Collection[str], uncounted: set[str]) -> dict[str, int]:
    """Those of the queues that have fewer tasks in the broker than attempts were sent to them, with how many."""
    lengths = {queue: length for queue in queues if (length := _length(queue, uncounted)) is not None}
    with installation.database.read() as session:
        rows = session.execute(
            select(Attempt.queue, func.count())
            .where(Attempt.queue.in_(lengths), Attempt.state == AttemptState.QUEUED, Attempt.sent_at.is_not(None))
            .group_by(Attempt.queue)
        )
        return {queue: lengths[queue] for queue, waiting in rows if lengths[queue] < waiting}


def _length(queue: str, uncounted: set[str]) -> int | None:
    """How many tasks a queue has, 0 when there is no such queue; None, and a word about it, when it cannot be asked.

    Somebody else's queue, or what is no queue, must not keep those of all the others from being looked at.
    """
    try:
        length = queue_length(queue) or 0
    except BrokerUnavailable:
        raise
    except Exception as error:
        if queue not in uncounted:
            _log.warning("queue.not_counted", queue=queue, error=f"{type(error).__name__}: {error}")
        uncounted.add(queue)
        return None
    uncounted.discard(queue)
    return length
