# SPDX-License-Identifier: GPL-3.0-or-later
"""Concurrency groups: one run holds a group at a time, the others queue in the order in which they came."""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from relengq.models import GroupHolder, Run
from relengq.states import RunState


def holder(session: Session, group: str) -> str | None:
    """The id of the run that holds the group."""
    return session.scalar(select(GroupHolder.run_id).where(GroupHolder.name == group))


def first_in_line(session: Session, group: str) -> str | None:
    """The id of the oldest run that waits for the group."""
    return session.scalar(
        select(Run.id)
        .where(Run.group_name == group, Run.state == RunState.QUEUED, Run.held.is_(False))
        .order_by(Run.id)
        .limit(1)
    )


def take(session: Session, run: Run) -> str | None:
    """Let the run hold its group. Returns None when it does, else the id of the run that is before it."""
    if run.group_name is None:
        return None
    held_by = holder(session, run.group_name)
    if held_by == run.id:
        return None
    if held_by is not None:
        return held_by
    first = first_in_line(session, run.group_name)
    if first is not None and first < run.id:
        return first
    try:
        with session.begin_nested():
            session.add(GroupHolder(name=run.group_name, run_id=run.id))
    except IntegrityError:
        return holder(session, run.group_name)
    return None


def reason(group: str, ahead: str) -> str:
    """Why a run waits that is not the first in its group."""
    return f"concurrency group {group} is held by run {ahead}"


def tell_waiting(session: Session, group: str, ahead: str) -> None:
    """Let the runs that still wait name the new holder of their group as the reason."""
    session.execute(
        update(Run)
        .where(Run.group_name == group, Run.state == RunState.QUEUED, Run.id != ahead)
        .values(reason=reason(group, ahead))
        .execution_options(synchronize_session="fetch")
    )


def give_back(session: Session, run: Run) -> None:
    """Let go of the group, if the run holds it."""
    session.execute(delete(GroupHolder).where(GroupHolder.run_id == run.id))
