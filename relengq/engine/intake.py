# SPDX-License-Identifier: GPL-3.0-or-later
"""Take bus messages in: start what they start, keep what runs wait for, park what cannot be used.

A batch of messages is one transaction. When anything unexpected happens in it, all of it is undone and the messages are
taken one by one, so that only what is to blame is parked. Taking a message again does nothing that was done before:
runs have a key, and kept and parked messages the message's id. So a listener may be killed at any moment, and the
broker may deliver again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from relengq.content import Revision
from relengq.engine import waits
from relengq.engine.deliver import deliver
from relengq.engine.dispatch import send_due
from relengq.engine.installation import Installation
from relengq.engine.taking import Disposition, Outcomes, Plan, Receipt, Taking, fits
from relengq.engine.triggers import Decision, Outcome, Triggers, Verdict, bug, parked, prepare
from relengq.errors import DatabaseUnavailable, MessageFault, NotFound, RelengqError, SiteFault, Unavailable
from relengq.messages import Message
from relengq.runs.attempts import queued_runs
from relengq.workflows import Workflow

__all__ = ["Disposition", "Intake", "Receipt", "Validate"]

_BROKER_REST = 10.0
"""Seconds for which a broker that was away is left to the clock."""
_SENT_AT_ONCE = 100
_TRIES = 3
_COLLISIONS = ("40001", "40P01")
"""PostgreSQL's codes for a transaction that it has undone because it stood in the way of another one."""
_log = structlog.get_logger(__name__)

_T = TypeVar("_T")

Validate = Callable[[Message], None]
"""Raises MessageFault when the message is not what its schema says."""
Also = Callable[[Session, Sequence[Receipt]], None]
May = Callable[[Workflow], None]


class Intake:
    """Takes messages in. One thread at a time. With ``only``, no other workflow than that is started."""

    def __init__(self, installation: Installation, validate: Validate | None = None, only: str | None = None) -> None:
        self._installation = installation
        self._only = only
        self._validate = validate
        self._triggers: Triggers | None = None
        self._broker_from = 0.0

    def take(
        self, messages: Sequence[Message], *, who: str = waits.WHO, also: Also | None = None, may: May | None = None
    ) -> list[Receipt]:
        """Take the messages in their order; returns what became of each.

        All of it is one transaction, then the waits that the messages end, then what is due goes to Celery. Doing it
        again is harmless. ``also`` runs inside the transaction with the receipts; when nothing of the batch needs a
        write there is no transaction and it is not called. ``may`` is asked before a workflow is started; what it
        raises is raised before anything is done. Raises DatabaseUnavailable, or Unavailable when there is no site.
        """
        plans = self._plans(messages, who, may)
        with self._installation.database.read() as session:
            patterns = waits.waited_patterns(session)
        if not any(plan.decisions or plan.awaited or fits(patterns, plan.message.topic) for plan in plans):
            return [Receipt(plan.message.id, plan.message.topic, Disposition.UNMATCHED) for plan in plans]
        done = self._all(plans, also, anew=who != waits.WHO)
        queued = done.queued | _patiently(lambda: deliver(self._installation, done.kept))
        self._send(queued)
        return done.receipts

    def judge(self, message: Message) -> list[Verdict]:
        """What each workflow whose patterns fit would make of the message; nothing is done.

        Raises Unavailable when there is no site.
        """
        (found,) = self.judge_all([message])
        return found

    def judge_all(self, messages: Sequence[Message]) -> list[list[Verdict]]:
        """As ``judge`` for each of the messages, with one look at the site."""
        triggers = self._now()
        return [[decision.verdict for decision in self._decisions(triggers, message)] for message in messages]

    def patterns(self) -> list[str]:
        """Every topic pattern that is wanted: by the site's triggers and waits, and by unfinished runs. Sorted."""
        wanted = self._now().patterns()
        with self._installation.database.read() as session:
            return sorted(wanted | waits.waited_patterns(session))

    def _now(self) -> Triggers:
        """The triggers of the site as it is now."""
        try:
            site = self._installation.site
        except (NotFound, SiteFault, OSError) as error:
            raise Unavailable(f"The site cannot be read, so no message can be taken: {error}") from error
        if self._triggers is None or self._triggers.site is not site:
            self._triggers = Triggers(site, self._triggers, self._only)
        return self._triggers

    def _decisions(self, triggers: Triggers, message: Message) -> list[Decision]:
        if not triggers.wanted(message.topic):
            return []
        fault: str | None = None
        try:
            if self._validate is not None:
                self._validate(message)
        except MessageFault as error:
            fault = str(error)
        except Exception as error:
            _log.exception("message.fault", message_id=message.id, topic=message.topic)
            fault = bug(error)
        return triggers.decide(message, fault)

    def _plans(self, messages: Sequence[Message], who: str, may: May | None) -> list[Plan]:
        triggers = self._now()
        plans = [
            Plan(message, self._decisions(triggers, message), triggers.awaited(message.topic)) for message in messages
        ]
        starting = [plan for plan in plans if any(each.verdict.outcome is Outcome.START for each in plan.decisions)]
        at = self._installation.revision() if starting else None
        for plan in starting:
            self._prepare(plan, who, may, at)
        return plans

    def _prepare(self, plan: Plan, who: str, may: May | None, at: Revision | None) -> None:
        """Prepare each run that the message starts; what cannot be prepared is parked."""
        for index, decision in enumerate(plan.decisions):
            if decision.workflow is None or decision.verdict.outcome is not Outcome.START:
                continue
            if may is not None:
                may(decision.workflow)
            try:
                plan.runs[index] = prepare(self._installation, decision, plan.message, who, at)
            except Unavailable:
                raise
            except RelengqError as error:
                plan.decisions[index] = parked(decision, str(error), type(error))
            except Exception as error:
                _log.exception("message.fault", message_id=plan.message.id, workflow=decision.verdict.workflow)
                plan.decisions[index] = parked(decision, bug(error), type(error))

    def _all(self, plans: list[Plan], also: Also | None, *, anew: bool) -> Outcomes:
        """All in one transaction, or else each in one of its own.

        When another listener has just made the same run, that is found at the second try.
        """
        for _ in range(_TRIES):
            try:
                return self._together(plans, also, careful=False, anew=anew)
            except IntegrityError as error:
                _log.info("messages.taken_again", count=len(plans), error=str(error.orig).partition("\n")[0])
            except Unavailable as error:
                if not _collided(error):
                    raise
            except Exception:
                _log.exception("messages.taken_one_by_one", count=len(plans))
                break
        done = Outcomes()
        for plan in plans:
            alone = partial(self._together, [plan], also, careful=True, anew=anew)
            done.add(_patiently(alone))
        return done

    def _together(self, plans: Sequence[Plan], also: Also | None, *, careful: bool, anew: bool) -> Outcomes:
        database = self._installation.database
        with database.write() as session:
            taking = Taking(session, self._installation, plans, careful=careful, anew=anew)
            receipts = [taking.take(plan) for plan in plans]
            if also is not None:
                also(session, receipts)
            session.flush()
            done = Outcomes(receipts, taking.kept, queued_runs(session))
        time.sleep(taking.ahead)
        for receipt in receipts:
            _say(receipt)
        return done

    def _send(self, run_ids: set[str]) -> None:
        """Hand attempts to Celery, unless its broker was away just now: then the clock does it."""
        if time.monotonic() < self._broker_from:
            return
        ordered = sorted(run_ids)
        try:
            for begin in range(0, len(ordered), _SENT_AT_ONCE):
                send_due(self._installation, ordered[begin : begin + _SENT_AT_ONCE])
        except Unavailable as error:  # the runs are kept; the clock sends
            self._broker_from = time.monotonic() + _BROKER_REST
            _log.warning("dispatch.postponed", error=str(error))


def _say(receipt: Receipt) -> None:
    """Log what was parked. The sentence that says why stands in the parked message's row: it may have values."""
    for (workflow, _), fault in zip(receipt.parked, receipt.faults, strict=True):
        _log.warning(
            "message.parked", message_id=receipt.message_id, topic=receipt.topic, workflow=workflow, fault=fault
        )


def _patiently(action: Callable[[], _T]) -> _T:
    """Do it, and again when PostgreSQL has undone it because of another transaction."""
    for left in reversed(range(_TRIES)):
        try:
            return action()
        except DatabaseUnavailable as error:
            if not left or not _collided(error):
                raise
    raise AssertionError("the last try has returned or raised")


def _collided(error: Exception) -> bool:
    cause = error.__cause__
    return getattr(getattr(cause, "orig", None), "sqlstate", None) in _COLLISIONS
