# SPDX-License-Identifier: GPL-3.0-or-later
"""The clock's duties beside schedules: dead leases, time-outs of waits and runs, waiting groups, unsent attempts.

What is due is found by one look, and each is then done in a transaction of its own that looks again: two clocks at
once, or one that stalled and woke, do no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from relengq.engine import waits
from relengq.engine.advance import advance, answer, break_off
from relengq.engine.consequences import attempt_ended
from relengq.engine.control import stop_in
from relengq.engine.dispatch import resend_unclaimed, send_due
from relengq.engine.due import look
from relengq.engine.installation import Installation
from relengq.engine.retention import Retention
from relengq.engine.timekeeping import Timekeeper
from relengq.engine.tries import Tries
from relengq.errors import BrokerUnavailable, DatabaseUnavailable
from relengq.models import Attempt, Run
from relengq.runs.attempts import Ending
from relengq.runs.definitions import workflow_of
from relengq.runs.moves import move_step
from relengq.states import AttemptState, StepState
from relengq.workflows import ApprovalStep, WaitForStep

WHO = "clock"
_MESSAGES_EVERY = 60.0
_OVERLAP = timedelta(minutes=5)
"""So much longer than a transaction lasts that none that kept a message is overlooked."""
_log = structlog.get_logger(__name__)

Duty = Callable[[Session, Installation, Run, datetime], None]


class Clock:
    """Does the duties, and remembers what it has said and when it looked last."""

    def __init__(self, installation: Installation, watching_since: float | None = None) -> None:
        """``watching_since`` is for the timekeeper: since when somebody has watched the database in its place."""
        self._installation = installation
        self._look_at = 0.0
        self._messages_at = 0.0
        self._messages_since: datetime | None = None
        self._broker_away = False
        self._uncounted: set[str] = set()
        """Queues of which it has been said that they cannot be counted."""
        self._timekeeper = Timekeeper(installation, watching_since)
        self.tries = Tries(installation)
        self._retention = Retention(installation)

    def stand_by(self) -> None:
        """Watch the database while another clock leads. May raise DatabaseUnavailable."""
        self._timekeeper.stand_by()

    def tick(self) -> None:
        """Do every duty that is due now. May raise DatabaseUnavailable; a broker that is away is said once."""
        installation = self._installation
        now = self._timekeeper.look()
        if self.tries.do("put_back", self._timekeeper.put_back):
            self._messages_at, self._messages_since = 0.0, None
        with installation.database.read() as session:
            due = look(session, now)
        if self._timekeeper.judges_leases:
            self._see_to("attempts.lost", due.dead_leases, _find_lost)
        self._see_to("waits.timed_out", due.expired_waits, _end_waits)
        looked_over = self.tries.do("messages", self._look_over_messages)
        self._see_to("runs.timed_out", due.past_deadline, _end_run)
        self._see_to("groups.woken", due.free_groups, _admit)
        self.tries.do("sending", partial(self._send, due.anything or bool(looked_over)))
        self.tries.do("retention", self._retention.tick)

    def _see_to(self, action: str, run_ids: list[str], duty: Duty) -> None:
        """Do a duty for each run; one of which the database refuses it keeps none of the others."""
        for run_id in run_ids:
            self.tries.do(f"{action} {run_id}", partial(_each, self._installation, action, [run_id], duty))

    def _send(self, anything: bool) -> None:
        """Send what is due, if there may be something."""
        try:
            if self._resend() or anything:
                send_due(self._installation)
        except BrokerUnavailable as error:
            if not self._broker_away:
                _log.warning("broker.away", error=str(error))
            self._broker_away = True
        else:
            if self._broker_away:
                _log.info("broker.back")
            self._broker_away = False

    def database_is_away(self) -> None:
        """Whoever calls ``tick`` found that the database cannot be reached."""
        self._timekeeper.database_is_away()

    def _look_over_messages(self) -> bool:
        """Once a minute, hand on kept messages whose listener died before it did, and delete those of no use.

        Returns whether that was now.
        """
        if time.monotonic() < self._messages_at:
            return False
        installation = self._installation
        now = installation.now()
        self._see_to("waits.answered", _with_kept_messages(installation, self._messages_since), _answer)
        with installation.database.write() as session:
            if gone := waits.unneeded(session, now):
                _log.info("messages.forgotten", count=gone)
        self._messages_at = time.monotonic() + _MESSAGES_EVERY
        self._messages_since = now - _OVERLAP
        return True

    def _resend(self) -> bool:
        """Look for attempts that the broker has lost, every third of ``resend_seconds``. Returns whether it was now."""
        if time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + self._installation.settings.resend_seconds / 3
        resend_unclaimed(self._installation, self._installation.now(), self._uncounted)
        return True


def _each(installation: Installation, action: str, run_ids: list[str], duty: Duty) -> None:
    """Do a duty for each run in a transaction of its own. One that cannot be done ends its run, and stops no other."""
    for run_id in run_ids:
        if not _tried(installation, action, run_id, duty):
            _tried(installation, "clock.broken_off", run_id, _give_up)


def _tried(installation: Installation, action: str, run_id: str, duty: Duty) -> bool:
    """Do a duty for one run; returns whether it could be done, or had been done before."""
    try:
        if _one(installation, run_id, duty):
            _log.info(action, run_id=run_id)
    except (BrokerUnavailable, DatabaseUnavailable):
        raise
    except Exception:
        _log.exception("clock.duty_failed", duty=action, run_id=run_id)
        return False
    return True


def _one(installation: Installation, run_id: str, duty: Duty) -> bool:
    with installation.database.write() as session:
        run = session.scalar(select(Run).where(Run.id == run_id).with_for_update())
        if run is None or run.state.final:
            return False
        duty(session, installation, run, installation.database.now(session))
        return True


def _give_up(session: Session, installation: Installation, run: Run, now: datetime) -> None:
    break_off(session, run, now, "a bug in relengq; the clock's log has the traceback")


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


def _end_run(session: Session, installation: Installation, run: Run, now: datetime) -> None:
    if run.stop_as or run.result or run.deadline is None or run.deadline >= now:
        return  # another clock was quicker: to stop a run twice would stop its ``finally`` too
    stop_in(session, installation, run, result="failed", who=WHO, now=now)


def _admit(session: Session, installation: Installation, run: Run, now: datetime) -> None:
    advance(session, installation, run, now)
