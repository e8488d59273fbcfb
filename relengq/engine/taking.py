# SPDX-License-Identifier: GPL-3.0-or-later
"""One transaction in which messages are taken in: runs made, messages kept and parked, and a receipt for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from relengq.database import away
from relengq.engine import parking, waits
from relengq.engine.installation import Installation
from relengq.engine.start import Trigger, make_in, refuse_flood, unique
from relengq.engine.triggers import Decision, Outcome, bug
from relengq.errors import Refused, Unavailable
from relengq.messages import Message
from relengq.models import ParkedMessage, Run
from relengq.runs.create import NewRun, pruned_runs
from relengq.workflows import topic_matches

_TICK = timedelta(microseconds=1)
_RUN_TICK = timedelta(milliseconds=1)
"""Ids of runs are in the order of their milliseconds."""
_log = structlog.get_logger(__name__)


class Disposition(StrEnum):
    """What became of a message: the first of these that is true of it."""

    PARKED = "parked"
    """Some workflow should have started and could not."""
    STARTED = "started"
    """It started a run or several."""
    AWAITED = "awaited"
    """It was kept for runs that wait for such a message, or are going to."""
    DUPLICATE = "duplicate"
    """What it would do was done before: by itself, or by another message with the same key."""
    UNMATCHED = "unmatched"
    """No workflow and no run is meant."""


@dataclass(frozen=True)
class Receipt:
    """What became of one message."""

    message_id: str
    topic: str
    disposition: Disposition
    runs: tuple[str, ...] = ()
    """The runs that it started."""
    parked: tuple[tuple[str, str], ...] = ()
    """The workflows that it was parked for, each with the reason."""
    awaiting: tuple[str, ...] = ()
    """The runs that it was kept for."""
    duplicates: tuple[tuple[str, str], ...] = ()
    """The workflows that had their run for it, each with the run's id; empty when it is, or was, parked instead."""
    faults: tuple[str, ...] = ()
    """For each of ``parked``, the kind of fault: the name of an error."""


@dataclass
class Plan:
    """A message and what is to be done for it."""

    message: Message
    decisions: list[Decision]
    awaited: tuple[str, ...] = ()
    """The patterns of the site's ``wait_for`` steps that it fits."""
    runs: dict[int, NewRun] = field(default_factory=dict)
    """What the decisions to start make, by their index."""


@dataclass
class Outcomes:
    """What transactions have done."""

    receipts: list[Receipt] = field(default_factory=list)
    kept: dict[str, set[int]] = field(default_factory=dict)
    """For each run that was waiting, the rows of kept messages that it has to look at."""
    queued: set[str] = field(default_factory=set)
    """The runs whose attempts are to be sent."""

    def add(self, other: Outcomes) -> None:
        """Take up what another transaction has done."""
        self.receipts += other.receipts
        for run_id, rows in other.kept.items():
            self.kept.setdefault(run_id, set()).update(rows)
        self.queued |= other.queued


def fits(patterns: Iterable[str], topic: str) -> list[str]:
    """Those of the patterns that the topic fits."""
    return [pattern for pattern in patterns if topic_matches(pattern, topic)]


class _Account:
    """What one message has led to so far."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.parked: list[tuple[str, str]] = []
        self.faults: list[str] = []
        self.awaiting: list[str] = []
        self.duplicates: list[tuple[str, str]] = []
        self.kept_before = False
        self.own: set[str] = set()
        """Runs that this very message started, now or when it was delivered before: it is none that they wait for."""

    def copy(self) -> _Account:
        """The account as it is now."""
        return deepcopy(self)

    def back_to(self, before: _Account) -> None:
        """Forget what has been undone."""
        self.__dict__.update(before.__dict__)

    def receipt(self, message: Message) -> Receipt:
        """What all of it amounts to."""
        if self.parked:
            disposition = Disposition.PARKED
        elif self.runs:
            disposition = Disposition.STARTED
        elif self.awaiting:
            disposition = Disposition.AWAITED
        elif self.duplicates or self.kept_before:
            disposition = Disposition.DUPLICATE
        else:
            disposition = Disposition.UNMATCHED
        return Receipt(
            message.id, message.topic, disposition, tuple(self.runs), tuple(self.parked), tuple(self.awaiting),
            tuple(self.duplicates), tuple(self.faults),
        )  # fmt: skip


class Taking:
    """One transaction. ``careful`` puts each part into a savepoint, and parks what raises something unexpected.

    A message that came before is ``anew`` for runs that were made since when a person hands it in, and not when a
    broker delivers it again.
    """

    def __init__(
        self,
        session: Session,
        installation: Installation,
        plans: Sequence[Plan],
        *,
        careful: bool = False,
        anew: bool = False,
    ) -> None:
        self.kept: dict[str, set[int]] = {}
        self._session = session
        self._installation = installation
        self._careful = careful
        self._anew = anew
        self._now = installation.database.now(session)
        # What turns such moments into those of ``time.monotonic``.
        self._since = time.monotonic() - self._now.timestamp()
        starting = [new for plan in plans for new in plan.runs.values()]
        self._known = _known_runs(session, starting)
        self._parked = _parked_before(session, [plan.message.id for plan in plans if plan.decisions])
        self._patterns = waits.waited_patterns(session)
        self._waiting: dict[str, set[str]] = {}
        """By pattern, the runs that have a row in ``waits``, as far as somebody had to know."""
        self._made: dict[str, set[str]] = {}
        """By pattern, those that were made in this transaction."""

    @property
    def ahead(self) -> float:
        """Seconds until it is as late as the last run says. Before that its steps are not due yet."""
        return max(0.0, self._now.timestamp() + self._since - time.monotonic())

    def take(self, plan: Plan) -> Receipt:
        """Do for one message what is to be done."""
        account = _Account()
        # Each message has a moment of its own, and what it starts begins after it and before the next message.
        self._now += _TICK
        received = self._now
        waiting = {*fits(self._patterns, plan.message.topic), *plan.awaited}
        for index, decision in enumerate(plan.decisions):
            self._decided(plan, decision, plan.runs.get(index), account)
        if waiting:
            self._guarded(plan.message, "", account, lambda: self._keep(plan.message, waiting, received, account))
        return account.receipt(plan.message)

    def _decided(self, plan: Plan, decision: Decision, new: NewRun | None, account: _Account) -> None:
        message, verdict = plan.message, decision.verdict
        if verdict.outcome is Outcome.NO:
            return
        if (message.id, verdict.workflow) in self._parked:
            account.duplicates.append((verdict.workflow, self._parked[message.id, verdict.workflow]))
        elif new is not None:
            self._guarded(message, verdict.workflow, account, lambda: self._start(message, new, account))
        else:
            self._park(message, verdict.workflow, verdict.reason or "", decision.fault or "", account)

    def _start(self, message: Message, new: NewRun, account: _Account) -> None:
        if new.trigger_key and (known := self._known.get(new.trigger_key)):
            self._found(message, new.workflow.name, *known, account)
            return
        try:
            refuse_flood(self._session, self._installation)
        except Refused as error:
            self._park(message, new.workflow.name, str(error), type(error).__name__, account)
            return
        self._now += _RUN_TICK
        run, fresh = make_in(self._session, self._installation, new, self._now, sure=not self._careful)
        if new.trigger_key:
            self._known[new.trigger_key] = (run.id, str(run.trigger.get("message_id")))
        if not fresh:
            self._found(message, new.workflow.name, run.id, str(run.trigger.get("message_id")), account)
            return
        account.runs.append(run.id)
        account.own.add(run.id)
        if not run.state.final:
            for pattern in new.waits.values():
                self._patterns.add(pattern)
                self._made.setdefault(pattern, set()).add(run.id)

    def _found(self, message: Message, workflow: str, run_id: str, message_id: str, account: _Account) -> None:
        """The start has happened before."""
        account.duplicates.append((workflow, run_id))
        if message_id == message.id:
            account.own.add(run_id)

    def _park(self, message: Message, workflow: str, reason: str, fault: str, account: _Account) -> None:
        trigger = Trigger("message", waits.WHO, f"id:{message.id}")
        key = unique(trigger, workflow) or ""
        known = self._session.scalar(select(Run.id).where(Run.trigger_key == key))
        known = known or pruned_runs(self._session, [key]).get(key)
        if known is not None:  # it started its run before something became wrong
            self._found(message, workflow, known, message.id, account)
        elif parking.park(self._session, message, workflow, reason, self._now) is None:
            account.duplicates.append((workflow, ""))
        else:
            account.parked.append((workflow, reason))
            account.faults.append(fault)
            self._parked[message.id, workflow] = ""

    def _keep(self, message: Message, patterns: Collection[str], received: datetime, account: _Account) -> None:
        unknown = [pattern for pattern in patterns if pattern not in self._waiting]
        if unknown:
            self._waiting |= waits.runs_waiting(self._session, unknown)
        runs: set[str] = set()
        for pattern in patterns:
            runs |= self._waiting[pattern] | self._made.get(pattern, set())
        runs -= account.own
        if len(message.raw) > parking.BODY_KEPT:
            if runs:
                size = len(message.raw)
                _log.warning("message.too_large_to_keep", message_id=message.id, topic=message.topic, size=size)
            return
        row_id, fresh = waits.keep(self._session, message, received)
        if not runs:
            return  # it stays for a while: the run that waits for it may be in a transaction of another process
        if not fresh and self._anew:
            fresh = waits.renew(self._session, row_id, runs, received)
        if fresh:
            account.awaiting += sorted(runs)
        account.kept_before = not fresh
        for run_id in runs:
            self.kept.setdefault(run_id, set()).add(row_id)

    def _guarded(self, message: Message, workflow: str, account: _Account, action: Callable[[], None]) -> None:
        """Do it; when careful, undo what raises something unexpected and park the message for it."""
        if not self._careful:
            action()
            return
        before = account.copy()
        try:
            with self._session.begin_nested():
                action()
        except Exception as error:
            if isinstance(error, Unavailable) or away(error):
                raise
            _log.exception("message.fault", message_id=message.id, topic=message.topic, workflow=workflow)
            account.back_to(before)
            self._park(message, workflow, bug(error), type(error).__name__, account)


def _known_runs(session: Session, starting: Iterable[NewRun]) -> dict[str, tuple[str, str]]:
    """The runs that some of the starts have led to before, by key: their ids, and those of their messages."""
    keys = {new.trigger_key for new in starting if new.trigger_key}
    if not keys:
        return {}
    rows = session.execute(select(Run.trigger_key, Run.id, Run.trigger).where(Run.trigger_key.in_(keys)))
    known = {str(row.trigger_key): (row.id, str(row.trigger.get("message_id"))) for row in rows}
    return {key: (run_id, "") for key, run_id in pruned_runs(session, keys).items()} | known


def _parked_before(session: Session, message_ids: Collection[str]) -> dict[tuple[str, str], str]:
    """For which workflows some of the messages have been parked before, with the runs of their replays."""
    if not message_ids:
        return {}
    parked = select(ParkedMessage.message_id, ParkedMessage.workflow, ParkedMessage.run_id)
    rows = session.execute(parked.where(ParkedMessage.message_id.in_(message_ids)))
    return {(row.message_id, row.workflow): row.run_id or "" for row in rows}
