# SPDX-License-Identifier: GPL-3.0-or-later
"""Hand due attempts to the broker: after each commit those that it made, and by the clock whatever was left behind."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from sqlalchemy import select, update

from relengq.celery import queue_length
from relengq.engine.installation import Installation, Parcel
from relengq.models import Attempt, Run
from relengq.states import AttemptState

_BATCH = 200
_log = structlog.get_logger(__name__)


def send_due(installation: Installation, run_id: str | None = None) -> int:
    """Send attempts that are due and were not sent yet, of one run or of all. Returns how many.

    An attempt is marked as sent after the broker took it: a crash between the two sends it twice, which is harmless,
    since only one delivery can claim it. Raises BrokerUnavailable; the rest stays due.
    """
    sent = 0
    while parcels := _due(installation, run_id):
        for parcel in parcels:
            installation.send(parcel)
            _mark(installation, parcel.attempt_id)
            sent += 1
        if len(parcels) < _BATCH:
            break
    return sent


def _due(installation: Installation, run_id: str | None) -> list[Parcel]:
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
            )
            .order_by(Attempt.id)
            .limit(_BATCH)
        )
        if run_id is not None:
            query = query.where(Attempt.run_id == run_id)
        return [
            Parcel(attempt_id, f"{attempt_id}.{sends + 1}", queue, label)
            for attempt_id, queue, label, sends in session.execute(query)
        ]


def _mark(installation: Installation, attempt_id: int) -> None:
    with installation.database.write() as session:
        session.execute(
            update(Attempt)
            .where(Attempt.id == attempt_id)
            .values(sent_at=installation.database.now(session), sends=Attempt.sends + 1)
        )


def resend_unclaimed(installation: Installation, now: datetime) -> int:
    """Send again what was sent, was never claimed, and is no longer in the broker. Returns how many.

    The broker lost it (a restart, a flush, a purge), or a worker took it and died before the claim. A queue that still
    has tasks is left alone: they are only waiting for a free worker. Raises BrokerUnavailable.
    """
    before = now - timedelta(seconds=installation.settings.resend_seconds)
    with installation.database.read() as session:
        rows = session.execute(
            select(Attempt.queue, Attempt.id)
            .where(Attempt.state == AttemptState.QUEUED, Attempt.sent_at < before)
            .order_by(Attempt.id)
        ).all()
    lost: list[int] = []
    for queue in sorted({row.queue for row in rows}):
        if not queue_length(queue):
            lost += [row.id for row in rows if row.queue == queue]
    if not lost:
        return 0
    with installation.database.write() as session:
        session.execute(
            update(Attempt)
            .where(Attempt.id.in_(lost), Attempt.state == AttemptState.QUEUED, Attempt.sent_at < before)
            .values(sent_at=None)
        )
    _log.warning("attempts.resent", count=len(lost))
    return send_due(installation)
