# SPDX-License-Identifier: GPL-3.0-or-later
"""What the clock has to see to now. It asks every second, and mostly in vain: so it asks a single question."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import CompoundSelect, Select, bindparam, literal, null, select, union_all
from sqlalchemy.orm import InstrumentedAttribute as Column
from sqlalchemy.orm import Session

from relengq.models import Attempt, GroupHolder, Run, Step
from relengq.models.base import UtcDateTime
from relengq.states import AttemptState, RunState, StepState

_AT_ONCE = 100
"""So many runs of a kind; the next look finds the others."""
_KINDS = ("lease", "wait", "deadline", "group")
"""What is due; ``unsent`` as well, of which it matters only whether there is any."""


@dataclass(frozen=True)
class Due:
    """The ids of runs by what is due, the oldest first. Who sees to it looks again: it may have been done since."""

    dead_leases: list[str]
    """Of an attempt, the worker has not renewed its lease."""
    expired_waits: list[str]
    """Nobody has answered in time, or nothing came."""
    past_deadline: list[str]
    """They take longer than their workflow lets them."""
    free_groups: list[str]
    """Each is the first that waits for a group which nobody holds: its holder's process died between two commits."""
    unsent: bool
    """Whether there are attempts that nobody has sent."""

    @property
    def anything(self) -> bool:
        """Whether there is anything to see to."""
        return self.unsent or any((self.dead_leases, self.expired_waits, self.past_deadline, self.free_groups))


def look(session: Session, now: datetime) -> Due:
    """What is due at ``now``."""
    found: dict[str, dict[str, str | None]] = {}
    # Past the ORM, which has nothing to do here and takes its time for it.
    for kind, run_id, group in session.connection().execute(_question(), {"now": now}):
        found.setdefault(kind, {})[run_id] = group
    leases, waits, deadlines, in_line = (sorted(found.get(kind, {})) for kind in _KINDS)
    first: dict[str | None, str] = {}
    for run_id in in_line:
        first.setdefault(found["group"][run_id], run_id)
    return Due(leases, waits, deadlines, list(first.values()), "unsent" in found)


@functools.cache
def _question() -> CompoundSelect[str, str, str | None]:
    """What is due, the run's id, and the run's group where that matters.

    Each of its parts has an index, so that what is finished, or waits for something else, costs nothing.
    """
    now = bindparam("now", type_=UtcDateTime())
    running, waiting, queued = AttemptState.RUNNING, StepState.WAITING, Attempt.state == AttemptState.QUEUED
    unfinished = Run.finished_at.is_(None)
    parts = (
        _part("lease", Attempt.run_id).where(Attempt.state == running, Attempt.lease_until < now).limit(_AT_ONCE),
        _part("wait", Step.run_id).where(Step.state == waiting, Step.due_at < now).limit(_AT_ONCE),
        _part("deadline", Run.id)
        .where(unfinished, Run.deadline < now, Run.stop_as.is_(None), Run.result.is_(None))
        .limit(_AT_ONCE),
        _part("group", Run.id, Run.group_name)
        .where(unfinished, Run.started_at.is_(None), Run.state == RunState.QUEUED, Run.held.is_(False))
        .where(Run.group_name.is_not(None), Run.group_name.not_in(select(GroupHolder.name)))
        .order_by(Run.id)
        .limit(_AT_ONCE),
        _part("unsent", Attempt.run_id).where(queued, Attempt.sent_at.is_(None), Attempt.due_at <= now).limit(1),
    )
    # A part with a limit has to be a query of its own, for SQLite.
    return union_all(*(select(part.subquery()) for part in parts))


def _part(kind: str, run_id: Column[str], group: Column[str | None] | None = None) -> Select[str, str, str | None]:
    shown = null() if group is None else group
    return select(literal(kind).label("kind"), run_id.label("run_id"), shown.label("of_group"))
