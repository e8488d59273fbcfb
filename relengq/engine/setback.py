# SPDX-License-Identifier: GPL-3.0-or-later
"""Put back what lies too far in the future because the database's time was set back.

What has happened cannot lie in the future, and what is to come cannot be further off than the whole of its time.
Whoever puts back goes by that alone, not by how far time was set: so two that do it do no harm, what was begun while
the time was right keeps its due time, and what was begun while it was ahead gets one that comes.

What only tells when something was (the history, when a run began and ended, when a message was parked) stays as it was
written: nothing waits for it. Retention comes to it by so much later.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from pydantic import ValidationError
from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from relengq.models import (
    Announcement,
    Attempt,
    Base,
    KeptMessage,
    Listener,
    Run,
    ScheduleState,
    Step,
    Wait,
    Worker,
)
from relengq.runs.definitions import workflow_of
from relengq.states import AttemptState, StepState

_SOON = timedelta(seconds=1)
"""What lies so little in the future is left alone: it may have been written just now, and comes by itself."""
_Row = TypeVar("_Row", bound=Base)


def put_back(session: Session, now: datetime, since: datetime, lease: timedelta) -> bool:
    """Put back all that is not locked just now. Returns whether that was all.

    ``since`` is a moment just before time was set back, in the time that holds since. Nothing is waited for: who has a
    run locked may want one of the rows that are locked here.
    """
    future = _Future(session, now)
    future.leases(lease)
    future.queued()
    future.timeouts()
    future.messages(since)
    future.announcements()
    future.sights()
    return future.whole


class _Future:
    """What lies in the future at ``now``, and is put back."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session = session
        self._now = now
        self._ahead = now + _SOON
        self.whole = True
        """Whether all that was found could be had."""

    def _locked(self, table: type[_Row], *which: ColumnElement[bool]) -> Sequence[_Row]:
        count = self._session.scalar(select(func.count()).select_from(table).where(*which))
        if not count:
            return ()
        rows = self._session.scalars(select(table).where(*which).with_for_update(skip_locked=True)).all()
        self.whole = self.whole and len(rows) >= count
        return rows

    def leases(self, lease: timedelta) -> None:
        """They end in a lease's time, unless they are renewed."""
        running = Attempt.state == AttemptState.RUNNING
        for attempt in self._locked(Attempt, running, Attempt.lease_until > self._ahead + lease):
            attempt.lease_until = self._now + lease

    def queued(self) -> None:
        """A retry waits as long as it was to wait. What had been sent was due, and somebody may have asked for it."""
        queued = Attempt.state == AttemptState.QUEUED
        late = or_(Attempt.created_at > self._ahead, Attempt.sent_at > self._ahead)
        for attempt in self._locked(Attempt, queued, late):
            if attempt.created_at > self._now:
                attempt.due_at -= attempt.created_at - self._now
                attempt.created_at = self._now
            if attempt.sent_at is not None and attempt.sent_at > self._now:
                attempt.due_at = min(attempt.due_at, self._now)
                attempt.sent_at = None

    def timeouts(self) -> None:
        """Those that began in the future begin now."""
        waiting = (Step.state == StepState.WAITING, Step.due_at.is_not(None), Step.started_at > self._ahead)
        for step in self._locked(Step, *waiting):
            if step.due_at is not None and step.started_at is not None:
                step.due_at -= step.started_at - self._now
                step.started_at = self._now
        unfinished = (Run.finished_at.is_(None), Run.deadline > self._ahead, Run.created_at > self._ahead)
        for run in self._locked(Run, *unfinished):
            try:
                timeout = workflow_of(run).timeout
            except ValidationError:
                continue  # of another version of relengq, which will end it when it comes to it
            # What expressions see of the run, as when it was made, stays.
            if timeout is not None and run.deadline is not None:
                run.deadline = min(run.deadline, self._now + timedelta(seconds=timeout))

    def messages(self, since: datetime) -> None:
        """Runs that wait for a message, and messages that were kept, come before all that has been kept since.

        Their order stays, so that of the messages those that came after a run was made count for it, and no others.
        """
        waits = self._locked(Wait, Wait.since > self._ahead)
        future = select(KeptMessage.id, KeptMessage.received_at).where(KeptMessage.received_at > self._ahead)
        kept = self._session.execute(future.with_for_update(skip_locked=True)).all()
        moments = sorted({*(wait.since for wait in waits), *(row.received_at for row in kept)}, reverse=True)
        put = {moment: since - timedelta(microseconds=place) for place, moment in enumerate(moments, 1)}
        for wait in waits:
            wait.since = put[wait.since]
        if kept:
            rows = [{"id": row.id, "received_at": put[row.received_at]} for row in kept]
            self._session.execute(update(KeptMessage), rows)

    def announcements(self) -> None:
        """What is unsent is tried at once: it holds up what follows of its run."""
        unsent = (Announcement.sent_at.is_(None), Announcement.refused.is_(False), Announcement.due_at > self._ahead)
        free = select(Announcement.id).where(*unsent).with_for_update(skip_locked=True)
        self._session.execute(
            update(Announcement)
            .where(Announcement.id.in_(free))
            .values(due_at=self._now)
            .execution_options(synchronize_session=False)
        )

    def sights(self) -> None:
        """Who was seen last in the future would seem to be alive until then."""
        tables: tuple[type[Worker] | type[Listener] | type[ScheduleState], ...] = (Worker, Listener, ScheduleState)
        for table in tables:
            for row in self._locked(table, table.seen_at > self._ahead):
                row.seen_at = self._now
