# SPDX-License-Identifier: GPL-3.0-or-later
"""The clock's duties beside schedules: dead leases, time-outs of waits and runs, waiting groups, unsent attempts.

Each duty looks for rows that are due, and then does each in a transaction of its own that looks again: two clocks at
once, or one that stalled and woke, do no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from relengq.engine import waits
from relengq.engine.advance import advance, answer, break_off
from relengq.engine.consequences import attempt_ended
from relengq.engine.control import stop_in
from relengq.engine.dispatch import resend_unclaimed, send_due
from relengq.engine.installation import Installation
from relengq.engine.retention import Retention
from relengq.engine.timekeeping import Timekeeper
from relengq.errors import BrokerUnavailable, DatabaseUnavailable
from relengq.models import Attempt, GroupHolder, Run, Step
from relengq.runs.attempts import Ending
from relengq.runs.definitions import workflow_of
from relengq.runs.moves import move_step
from relengq.states import AttemptState, RunState, StepState
from relengq.workflows import ApprovalStep, WaitForStep

WHO = "clock"
_BATCH = 100
_MESSAGES_EVERY = 60.0
_OVERLAP = timedelta(minutes=5)
"""So much longer than a transaction lasts that none that kept a message is overlooked."""
_log = structlog.get_logger(__name__)

Duty = Callable[[Session, Installation, Run, datetime], None]


class Clock:
    """Does the duties, and remembers what it has said and when it looked last."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._look_at = 0.0
        self._messages_at = 0.0
        self._messages_since: datetime | None = None
        self._broker_away = False
        self._timekeeper = Timekeeper(installation)
        self._retention = Retention(installation)

    def tick(self) -> None:
        """Do every duty that is due now. May raise DatabaseUnavailable; a broker that is away is said once."""
        installation = self._installation
        self._timekeeper.look()
        if self._timekeeper.judges_leases:
            _each(installation, "attempts.lost", _with_dead_leases(installation), _find_lost)
        _each(installation, "waits.timed_out", _with_expired_waits(installation), _end_waits)
        self._look_over_messages()
        _each(installation, "runs.timed_out", _past_deadline(installation), _end_run)
        _each(installation, "groups.woken", _first_in_free_groups(installation), _admit)
        try:
            self._resend()
            send_due(installation)
        except BrokerUnavailable as error:
            if not self._broker_away:
                _log.warning("broker.away", error=str(error))
            self._broker_away = True
        else:
            if self._broker_away:
                _log.info("broker.back")
            self._broker_away = False
        self._retention.tick()

    def _look_over_messages(self) -> None:
        """Once a minute, hand on kept messages whose listener died before it did, and delete those of no use."""
        if time.monotonic() < self._messages_at:
            return
        installation = self._installation
        now = installation.now()
        _each(installation, "waits.answered", _with_kept_messages(installation, self._messages_since), _answer)
        with installation.database.write() as session:
            if gone := waits.unneeded(session, now):
                _log.info("messages.forgotten", count=gone)
        self._messages_at = time.monotonic() + _MESSAGES_EVERY
        self._messages_since = now - _OVERLAP

    def _resend(self) -> None:
        """Look for attempts that the broker has lost, every third of ``resend_seconds``."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + self._installation.settings.resend_seconds / 3
        resend_unclaimed(self._installation, self._installation.now())


def _each(installation: Installation, action: str, run_ids: list[str], duty: Duty) -> None:
    """Do a duty for each run in a transaction of its own. One that cannot be done ends its run, and stops no other."""
    for run_id in run_ids:
        try:
            if _one(installation, run_id, duty):
                _log.info(action, run_id=run_id)
        except (BrokerUnavailable, DatabaseUnavailable):
            raise
        except Exception:
            _log.exception("clock.duty_failed", duty=action, run_id=run_id)
            _one(installation, run_id, _give_up)


def _one(installation: Installation, run_id: str, duty: Duty) -> bool:
    with installation.database.write() as session:
        run = session.scalar(select(Run).where(Run.id == run_id).with_for_update())
        if run is None or run.state.final:
            return False
        duty(session, installation, run, installation.database.now(session))
        return True


def _give_up(session: Session, installation: Installation, run: Run, now: datetime) -> None:
    break_off(session, run, now, "a bug in relengq; the clock's log has the traceback")


def _with_dead_leases(installation: Installation) -> list[str]:
    with installation.database.read() as session:
        now = installation.database.now(session)
        return list(
            session.scalars(
                select(Attempt.run_id)
                .where(Attempt.state == AttemptState.RUNNING, Attempt.lease_until < now)
                .distinct()
                .limit(_BATCH)
            )
        )


def _find_lost(session: Session, installation: Installation, run: Run, now: datetime) -> None:
    """End the run's attempts whose workers stopped renewing, as ``on_lost`` says."""
    dead = session.scalars(
        select(Attempt).where(
            Attempt.run_id == run.id, Attempt.state == AttemptState.RUNNING, Attempt.lease_until < now
        )
    ).all()
    for attempt in dead:
        message = f"the worker {attempt.worker} on {attempt.host} stopped answering"
        attempt_ended(session, installation, attempt, Ending(AttemptState.LOST, message=message), now=now, who=WHO)


def _with_expired_waits(installation: Installation) -> list[str]:
    with installation.database.read() as session:
        now = installation.database.now(session)
        return list(
            session.scalars(
                select(Step.run_id).where(Step.state == StepState.WAITING, Step.due_at < now).distinct().limit(_BATCH)
            )
        )


def _end_waits(session: Session, installation: Installation, run: Run, now: datetime) -> None:
    answer(session, installation, run, now)  # what came in time is not to be missed for having been kept just now
    workflow = workflow_of(run)
    for step in run.steps:
        if step.state is not StepState.WAITING or step.due_at is None or step.due_at >= now:
            continue
        declared = workflow.chain[step.position]
        go_on = (isinstance(declared, ApprovalStep) and declared.approval.on_timeout == "continue") or (
            isinstance(declared, WaitForStep) and declared.wait_for.on_timeout == "continue"
        )
        what = "nobody answered" if step.kind == "approval" else "nothing came"
        reason = f"{what} in time ({step.reason})"
        if go_on:
            step.outputs = {"timed_out": True}
            move_step(session, step, StepState.SUCCEEDED, now=now, reason=reason, who=WHO)
        else:
            move_step(session, step, StepState.FAILED, now=now, reason=reason, who=WHO)
    advance(session, installation, run, now)


def _with_kept_messages(installation: Installation, since: datetime | None) -> list[str]:
    """The runs that wait for a message, when one has been kept since then that fits one of their waits."""
    with installation.database.read() as session:
        return waits.runs_to_answer(session, since)


def _answer(session: Session, installation: Installation, run: Run, now: datetime) -> None:
    answer(session, installation, run, now)


def _past_deadline(installation: Installation) -> list[str]:
    with installation.database.read() as session:
        now = installation.database.now(session)
        return list(
            session.scalars(
                select(Run.id)
                .where(Run.finished_at.is_(None), Run.deadline < now, Run.stop_as.is_(None), Run.result.is_(None))
                .limit(_BATCH)
            )
        )


def _end_run(session: Session, installation: Installation, run: Run, now: datetime) -> None:
    if run.stop_as or run.result or run.deadline is None or run.deadline >= now:
        return  # another clock was quicker: to stop a run twice would stop its ``finally`` too
    stop_in(session, installation, run, result="failed", who=WHO, now=now)


def _first_in_free_groups(installation: Installation) -> list[str]:
    """Runs that wait for a group which nobody holds: its holder's process died between two commits."""
    with installation.database.read() as session:
        held = select(GroupHolder.name)
        rows = session.execute(
            select(Run.group_name, Run.id)
            .where(
                Run.state == RunState.QUEUED,
                Run.started_at.is_(None),
                Run.finished_at.is_(None),
                Run.held.is_(False),
                Run.group_name.is_not(None),
                Run.group_name.not_in(held),
            )
            .order_by(Run.id)
            .limit(_BATCH)
        )
        first: dict[str, str] = {}
        for group, run_id in rows:
            first.setdefault(str(group), run_id)
        return list(first.values())


def _admit(session: Session, installation: Installation, run: Run, now: datetime) -> None:
    advance(session, installation, run, now)
