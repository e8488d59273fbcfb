# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the engine what messages would do, whether the person may do it, and let it do it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import select

from relengq.cli.judged import Fate, Judged, Outcome, Waiting, nearest
from relengq.cli.setup import Setup
from relengq.engine import triggers, waits
from relengq.engine.intake import Disposition, Intake, Receipt
from relengq.engine.start import Trigger, unique
from relengq.engine.triggers import Verdict
from relengq.messages import Message
from relengq.models import ParkedMessage, Run
from relengq.workflows import Workflow, topic_matches

PARKED_BEFORE = "it was parked before; see 'relengq parked --all'"


class Judging:
    """Messages on their way into the engine, by the hand of the person who calls."""

    def __init__(self, setup: Setup, intake: Intake) -> None:
        self._setup = setup
        self._intake = intake
        self._allowed: set[str] = set()
        """Workflows and runs of which it is known that the person may launch them."""
        self._foretold: set[tuple[str, str]] = set()
        """Workflow and key of each start that has been foretold: a second message for it starts nothing."""
        self._patterns = intake.patterns()
        self._nearest: dict[str, str | None] = {}
        """By topic, as far as it was asked for."""
        self._waits: dict[str, tuple[Waiting, ...]] = {}
        """By topic: the runs that wait for such messages."""

    def require(self, messages: Sequence[Message]) -> None:
        """Raise NotAllowed unless the person may launch every workflow that the messages would reach.

        Raises SiteFault for a workflow whose file has faults: who may launch it is not known.
        """
        verdicts = [verdict for found in self._intake.judge_all(messages) for verdict in found]
        reached = {verdict.workflow for verdict in verdicts if verdict.outcome is not triggers.Outcome.NO}
        for name in sorted(reached - self._allowed):
            self._may(self._setup.installation.site.workflow(name))
        waiting = {waiting.run for topic in {each.topic for each in messages} for waiting in self._waiting(topic)}
        for run_id in sorted(waiting - self._allowed):
            with self._setup.installation.database.read() as session:
                self._may(self._setup.workflow_in(session, run_id))
        self._allowed |= reached | waiting

    def foretold(self, messages: Sequence[Message]) -> Iterator[Judged]:
        """What would become of messages. Nothing is done."""
        for message, verdicts in zip(messages, self._intake.judge_all(messages), strict=True):
            outcomes = [self._foretell(message, verdict) for verdict in verdicts]
            waiting = self._waiting(message.topic)
            yield self._judged(message, _counted(outcomes, waiting), outcomes, waiting)

    def taken(self, messages: Sequence[Message]) -> Iterator[Judged]:
        """What became of messages, which are taken in one transaction."""
        receipts = self._intake.take(messages, who=self._setup.person.name, may=self._may)
        judged = self._intake.judge_all(messages)
        for message, receipt, verdicts in zip(messages, receipts, judged, strict=True):
            yield self._became(message, receipt, verdicts)

    def _may(self, workflow: Workflow) -> None:
        self._setup.may_launch(workflow, f"start workflow {workflow.name}")

    def _foretell(self, message: Message, verdict: Verdict) -> Outcome:
        if verdict.outcome is triggers.Outcome.NO:
            return _outcome(verdict, Fate.NO)
        key = unique(Trigger("message", self._setup.person.name, verdict.key), verdict.workflow)
        before = select(ParkedMessage.run_id).where(
            ParkedMessage.message_id == message.id, ParkedMessage.workflow == verdict.workflow
        )
        with self._setup.installation.database.read() as session:
            run = session.scalar(select(Run.id).where(Run.trigger_key == key)) if key else None
            parked = session.execute(before).one_or_none()
        start = verdict.workflow, verdict.key or f"id:{message.id}"
        if parked is not None:
            reason = None if parked.run_id else PARKED_BEFORE
            return _outcome(verdict, Fate.DUPLICATE, parked.run_id, reason)
        if run is not None:
            return _outcome(verdict, Fate.DUPLICATE, run)
        if start in self._foretold:
            return _outcome(verdict, Fate.DUPLICATE, reason="a message before it does the same")
        self._foretold.add(start)
        return _outcome(verdict, Fate(verdict.outcome.value))

    def _became(self, message: Message, receipt: Receipt, verdicts: Sequence[Verdict]) -> Judged:
        done: dict[str, tuple[Fate, str | None, str | None]] = {}
        for workflow, run in receipt.duplicates:
            done[workflow] = (Fate.DUPLICATE, run or None, None if run else PARKED_BEFORE)
        for waiting in self._runs(receipt.runs):
            done[waiting.workflow] = (Fate.STARTED, waiting.run, None)
        for workflow, reason in receipt.parked:
            done[workflow] = (Fate.PARKED, None, reason)
        outcomes = [_outcome(verdict, *done.pop(verdict.workflow, (Fate.NO, None, None))) for verdict in verdicts]
        outcomes += [Outcome(name, fate, run=run, reason=reason) for name, (fate, run, reason) in done.items()]
        return self._judged(message, receipt.disposition, outcomes, self._runs(receipt.awaiting))

    def _judged(
        self, message: Message, found: Disposition, outcomes: Sequence[Outcome], waiting: tuple[Waiting, ...]
    ) -> Judged:
        nothing = found is Disposition.UNMATCHED and not outcomes
        near = self._near(message.topic) if nothing else None
        return Judged(message.id, message.topic, message.sent_at, found, tuple(outcomes), waiting, near)

    def _near(self, topic: str) -> str | None:
        if topic not in self._nearest:
            self._nearest[topic] = nearest(topic, self._patterns)
        return self._nearest[topic]

    def _waiting(self, topic: str) -> tuple[Waiting, ...]:
        if topic not in self._waits:
            with self._setup.installation.database.read() as session:
                fitting = {pattern for pattern in waits.waited_patterns(session) if topic_matches(pattern, topic)}
                found = waits.runs_waiting(session, fitting)
            self._waits[topic] = self._runs({run for runs in found.values() for run in runs})
        return self._waits[topic]

    def _runs(self, ids: Collection[str]) -> tuple[Waiting, ...]:
        if not ids:
            return ()
        with self._setup.installation.database.read() as session:
            rows = session.execute(select(Run.id, Run.workflow).where(Run.id.in_(ids)).order_by(Run.id))
            return tuple(Waiting(run, workflow) for run, workflow in rows)


def _outcome(verdict: Verdict, fate: Fate, run: str | None = None, reason: str | None = None) -> Outcome:
    return Outcome(
        workflow=verdict.workflow,
        outcome=fate,
        pattern=verdict.pattern,
        inputs=verdict.inputs,
        key=verdict.key,
        reason=verdict.reason if fate in (Fate.NO, Fate.PARK) else reason,
        run=run,
    )


def _counted(outcomes: Collection[Outcome], waiting: Collection[Waiting]) -> Disposition:
    """What a message would be counted under."""
    found = {each.outcome for each in outcomes}
    if Fate.PARK in found:
        return Disposition.PARKED
    if Fate.START in found:
        return Disposition.STARTED
    if waiting:
        return Disposition.AWAITED
    return Disposition.DUPLICATE if Fate.DUPLICATE in found else Disposition.UNMATCHED
