# SPDX-License-Identifier: GPL-3.0-or-later
"""Hand due attempts to the broker: after each commit those that it made, and by the clock whatever was left behind."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import structlog
from sqlalchemy import select, update

from relengq.celery import queue_length
from relengq.engine.installation import Installation, Parcel
from relengq.errors import BrokerUnavailable
from relengq.models import Attempt, Run
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
    sent: list[int] = []
    try:
        for parcel in _due(installation, run_ids):
            try:
                installation.send(parcel)
            except BrokerUnavailable:
                raise
            except Exception:
                # One that the broker's client refuses must not stand in the way of the others.
                _log.exception("attempt.not_sent", attempt=parcel.label)
            else:
                sent.append(parcel.attempt_id)
    finally:
        if sent:
            _mark(installation, sent)
    return len(sent)


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
    with installation.database.write() as session:
        session.execute(
            update(Attempt)
            .where(Attempt.id.in_(attempt_ids))
            .values(sent_at=installation.database.now(session), sends=Attempt.sends + 1)
        )


def resend_unclaimed(installation: Installation, now: datetime) -> int:
    """Send again what was sent, was not claimed, and is no longer in the broker. Returns how many are to be sent.

    The broker lost it (a restart, a flush, a purge), or a worker took it and died before the claim. A queue that still
    has tasks is mostly left alone: they only wait for a free worker. But what one worker took cannot be told from
    what waits behind others there, so after a longer time, and more seldom each time, everything is sent again: of
    several deliveries one can be claimed. Raises BrokerUnavailable.
    """
    patience = timedelta(seconds=installation.settings.resend_seconds)
    with installation.database.read() as session:
        rows = session.execute(
            select(Attempt.queue, Attempt.id, Attempt.sent_at, Attempt.sends)
            .where(Attempt.state == AttemptState.QUEUED, Attempt.sent_at < now - patience)
            .order_by(Attempt.id)
            .limit(_LOOKED_AT)
        ).all()
    empty = {queue for queue in {row.queue for row in rows} if not queue_length(queue)}
    lost = [
        row.id for row in rows if row.queue in empty or now - row.sent_at > patience * (_LONGER * max(row.sends, 1))
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
