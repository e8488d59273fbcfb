# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of the outbox that are still to be sent: which are next, which were sent, which cannot be."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from relengq.announcements.outbox import FAILED
from relengq.models import Announcement, Run
from relengq.runs.moves import record

KEPT = timedelta(days=7)
"""For how long a message that was sent is kept, to be looked at."""
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_AWAY = 5.0, 300.0, 30.0
"""Seconds before a message that was not taken is tried again: the first time, doubled each time; and at most, where the
bus did not take this one, and where it did not answer at all."""
_DELETED_AT_ONCE = 500
_REASON_CHARACTERS = 1000
WHO = "clock"


@dataclass(frozen=True)
class Backlog:
    """What is unsent."""

    count: int
    since: datetime | None
    """When the oldest of them was written."""
    reason: str | None
    """Why the oldest that was tried was not sent."""
    refused: int
    """How many can never be sent."""


def unsent(session: Session) -> Backlog:
    """What has not been sent."""
    waiting = (Announcement.sent_at.is_(None), Announcement.refused.is_(False))
    count, since = session.execute(select(func.count(), func.min(Announcement.created_at)).where(*waiting)).one()
    tried = select(Announcement.fault).where(*waiting, Announcement.fault.is_not(None)).order_by(Announcement.id)
    refused = select(func.count()).where(Announcement.sent_at.is_(None), Announcement.refused.is_(True))
    return Backlog(count, since, session.scalar(tried.limit(1)), session.scalar(refused) or 0)


def next_due(session: Session, now: datetime, limit: int) -> list[tuple[str, int]]:
    """Run and id of the oldest messages that may be sent, in their order.

    None is behind one of its own run that has to wait.
    """
    ahead = aliased(Announcement)
    held_back = exists().where(
        ahead.run_id == Announcement.run_id,
        ahead.id <= Announcement.id,
        ahead.sent_at.is_(None),
        ahead.refused.is_(False),
        ahead.due_at > now,
    )
    rows = session.execute(
        select(Announcement.run_id, Announcement.id)
        .where(Announcement.sent_at.is_(None), Announcement.refused.is_(False), ~held_back)
        .order_by(Announcement.id)
        .limit(limit)
    )
    return [(row.run_id, row.id) for row in rows]


def mark_sent(session: Session, ids: Collection[int], now: datetime) -> None:
    """They are in the broker's keeping."""
    session.execute(
        update(Announcement)
        .where(Announcement.id.in_(ids), Announcement.sent_at.is_(None))
        .values(sent_at=now, fault=None, tries=Announcement.tries + 1)
    )


def mark_failed(session: Session, announcement_id: int, reason: str, now: datetime, *, own: bool) -> None:
    """It was not sent, and its run's messages wait. With ``own``, it is to blame itself: the run's history says so."""
    row = session.get(Announcement, announcement_id)
    if row is None or row.sent_at is not None:
        return
    pause = min(_FIRST_PAUSE * 2 ** min(row.tries, 10), _LONGEST_PAUSE if own else _LONGEST_AWAY)
    if own and row.fault != reason[:_REASON_CHARACTERS]:
        _tell(session, row, f"{reason}; it is tried again", now)
    row.tries += 1
    row.fault = reason[:_REASON_CHARACTERS]
    row.due_at = now + timedelta(seconds=pause)


def mark_refused(session: Session, announcement_id: int, reason: str, now: datetime) -> None:
    """It can never be sent; what follows of its run need not wait for it."""
    row = session.get(Announcement, announcement_id)
    if row is None or row.sent_at is not None or row.refused:
        return
    row.refused = True
    row.tries += 1
    row.fault = reason[:_REASON_CHARACTERS]
    _tell(session, row, reason, now)


def release(session: Session, now: datetime) -> None:
    """Let everything that waits be tried at once: the bus is back."""
    waiting = (Announcement.sent_at.is_(None), Announcement.refused.is_(False), Announcement.due_at > now)
    session.execute(update(Announcement).where(*waiting).values(due_at=now))


def forget(session: Session, now: datetime) -> int:
    """Delete some of those that were sent long ago; returns how many."""
    old = select(Announcement.id).where(Announcement.sent_at < now - KEPT).limit(_DELETED_AT_ONCE)
    ids = session.scalars(old).all()
    if ids:
        session.execute(delete(Announcement).where(Announcement.id.in_(ids)))
    return len(ids)


def _tell(session: Session, row: Announcement, reason: str, now: datetime) -> None:
    run = session.get_one(Run, row.run_id)
    record(session, run, FAILED, now=now, who=WHO, note=f"{row.topic}: {reason[:_REASON_CHARACTERS]}")
