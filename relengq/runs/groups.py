# SPDX-License-Identifier: GPL-3.0-or-later
"""Concurrency groups: one run holds a group at a time, the others queue in the order in which they came."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from relengq.models import GroupHolder, Run
from relengq.states import RunState


def holder(session: Session, group: str) -> str | None:
    """The id of the run that holds the group."""
    return session.scalar(select(GroupHolder.run_id).where(GroupHolder.name == group))


def first_in_line(session: Session, group: str) -> str | None:
    """The id of the oldest run that waits for the group, and is neither on hold nor stopped."""
    return session.scalar(
        select(Run.id)
        .where(Run.group_name == group, Run.state == RunState.QUEUED, Run.held.is_(False), Run.stop_as.is_(None))
        .order_by(Run.id)
        .limit(1)
    )


def take(session: Session, run: Run) -> str | None:
    """Let the run hold its group. Returns None when it does, else the id of the run that is before it."""
    if run.group_name is None:
        return None
    while (held_by := holder(session, run.group_name)) is None:
        first = first_in_line(session, run.group_name)
        if first is not None and first < run.id:
            return first
        try:
            with session.begin_nested():
                session.add(GroupHolder(name=run.group_name, run_id=run.id))
        except IntegrityError:
            continue  # another run was quicker: ask again who holds it
    return None if held_by == run.id else held_by


def reason(group: str, ahead: str) -> str:
    """Why a run waits that is not the first in its group."""
    return f"concurrency group {group} is held by run {ahead}"


def holders(session: Session, names: Collection[str]) -> dict[str, str]:
    """Which run holds each of these groups just now; free ones are left out."""
    rows = session.execute(select(GroupHolder.name, GroupHolder.run_id).where(GroupHolder.name.in_(names)))
    return {row.name: row.run_id for row in rows}


def give_back(session: Session, run: Run) -> bool:
    """Let go of the group. Returns whether the run held it."""
    held = delete(GroupHolder).where(GroupHolder.run_id == run.id).returning(GroupHolder.name)
    return session.execute(held).one_or_none() is not None
