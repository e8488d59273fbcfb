# SPDX-License-Identifier: GPL-3.0-or-later
"""What the workflows of a site make of a bus message: start for it, not, or park it because something is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

import structlog
from pydantic import ValidationError

from relengq.content import Revision
from relengq.documents import Json
from relengq.engine.hidden import leaves
from relengq.engine.installation import Installation
from relengq.engine.start import Trigger, new_run, order_checked
from relengq.engine.waits import SENT_AT, WHO
from relengq.errors import ExpressionFault, InputFault, MessageFault, SiteFault
from relengq.execution import Mask
from relengq.expressions import condition, render, why_false
from relengq.inputs import check_inputs, mask
from relengq.messages import Message
from relengq.runs.create import NewRun
from relengq.site import Site
from relengq.workflows import MessageTrigger, Workflow, topic_matches

_TOPICS = 10_000
"""Topics whose readers are remembered. There are some hundreds on a bus; somebody may make up any number."""
_KEY_SHOWN = 500
_SECRETS_LOOKED_FOR = 20_000
"""Characters of secret inputs that are looked for in a key, in each of their many forms."""
_SECRET_COUNTS = 50
"""Characters that a value counts for beside its own."""
_log = structlog.get_logger(__name__)


class Outcome(StrEnum):
    """What a workflow makes of a message."""

    START = "start"
    """It starts a run."""
    NO = "no"
    """The topic fits, and no condition holds."""
    PARK = "park"
    """It should start, or might, and the message cannot be used: a person has to look."""


@dataclass(frozen=True)
class Verdict:
    """What one workflow makes of one message."""

    workflow: str
    outcome: Outcome
    trigger: int
    """Which entry of the workflow's ``on`` decided, from 0."""
    pattern: str
    """The topic pattern of that entry."""
    inputs: dict[str, Json] | None = None
    """The run's inputs when it starts: rendered and checked, secret ones masked."""
    key: str | None = None
    """What makes the start unique within the workflow when it starts: ``key:…`` as the file says, or ``id:…``."""
    reason: str | None = None
    """A sentence that says why it does not start."""


@dataclass(frozen=True)
class Decision:
    """A verdict with what a start needs."""

    verdict: Verdict
    workflow: Workflow | None = None
    values: dict[str, Json] | None = None
    """The checked inputs when it starts, secret ones in clear."""
    fault: str | None = None
    """Of which kind it is what parks it: the name of the error, without the values that its sentence may have."""


@dataclass(frozen=True)
class _Entry:
    """One trigger of one workflow."""

    name: str
    index: int
    trigger: MessageTrigger
    workflow: Workflow | None
    """None when the workflow's file has faults and no sound version of it was seen."""
    faults: str | None
    """Why the workflow cannot be started, when its file has faults."""


class Triggers:
    """The triggers of a site. Topics that nobody wants cost one look-up.

    Of a workflow whose file has become faulty, the triggers stay that ``before`` knew, or else those of its entries
    that can be read: a message that should have started it is parked, not lost. ``only`` names the one workflow whose
    triggers count.
    """

    def __init__(self, site: Site, before: Triggers | None = None, only: str | None = None) -> None:
        self.site = site
        self.sound: dict[str, Workflow] = dict(site.workflows)
        """The workflows as they last were without faults."""
        self._entries: list[_Entry] = []
        for name, workflow in site.workflows.items():
            self._entries += [_Entry(name, at, trigger, workflow, None) for at, trigger in enumerate(workflow.on)]
        for name in site.files:
            if name not in site.workflows:
                known = before.sound.get(name) if before else None
                if known:
                    self.sound[name] = known
                self._entries += _of_faulty(site, name, known)
        self._entries = [entry for entry in self._entries if only in (None, entry.name)]
        self._found = lru_cache(_TOPICS)(self._find)
        self._waits = sorted({pattern for workflow in self.sound.values() for pattern in workflow.waits.values()})
        self.awaited = lru_cache(_TOPICS)(self._find_awaited)
        """By topic, the patterns of ``wait_for`` steps that it fits: a run of theirs may wait that nobody knows yet."""

    def wanted(self, topic: str) -> bool:
        """Whether any trigger's pattern fits the topic."""
        return bool(self._found(topic))

    def patterns(self) -> set[str]:
        """The patterns of all triggers, and of all ``wait_for`` steps."""
        return {*self._waits, *(entry.trigger.message for entry in self._entries)}

    def judge(self, message: Message) -> list[Verdict]:
        """What each workflow whose patterns fit makes of it. Never raises for what is in the message."""
        return [decision.verdict for decision in self.decide(message)]

    def decide(self, message: Message, fault: str | None = None) -> list[Decision]:
        """As ``judge``, with what a start needs. With a ``fault`` of the message whatever would start is parked."""
        return [_decide(entries, message, fault) for entries in self._found(message.topic)]

    def _find(self, topic: str) -> tuple[tuple[_Entry, ...], ...]:
        """The entries whose pattern fits, by workflow, in the order of their files."""
        found: dict[str, list[_Entry]] = {}
        for entry in self._entries:
            if topic_matches(entry.trigger.message, topic):
                found.setdefault(entry.name, []).append(entry)
        return tuple(map(tuple, found.values()))

    def _find_awaited(self, topic: str) -> tuple[str, ...]:
        return tuple(pattern for pattern in self._waits if topic_matches(pattern, topic))


def prepare(installation: Installation, decision: Decision, message: Message, who: str, at: Revision | None) -> NewRun:
    """The run that a decision to start leads to, prepared before the transaction.

    Raises SiteFault or ExpressionFault when it cannot be.
    """
    workflow, values, key = decision.workflow, decision.values, decision.verdict.key
    if workflow is None or values is None or key is None:
        raise ValueError("the decision is not to start")
    detail: dict[str, Json] = {"message_id": message.id, "topic": message.topic}
    if key.startswith("key:"):
        detail["key"] = key.removeprefix("key:")[:_KEY_SHOWN]
    if who == WHO and (sent_at := message.sent_at) is not None:
        detail[SENT_AT] = sent_at.isoformat()
    ordered = order_checked(installation, workflow, values, at)
    return new_run(ordered, Trigger("message", who, key, detail))


def bug(error: Exception) -> str:
    """The sentence for an error that is nobody's doing but ours."""
    return f"a bug in relengq, {type(error).__name__}; its log has the traceback"


def _of_faulty(site: Site, name: str, known: Workflow | None) -> Iterator[_Entry]:
    document = site.files[name].document
    first = next((fault for fault in site.faults if fault.file == document.name), None)
    faults = f"{document.name} has faults: {first}" if first else f"{document.name} has faults"
    if known is not None:
        yield from (_Entry(name, at, trigger, known, faults) for at, trigger in enumerate(known.on))
        return
    entries = document.data.get("on") if isinstance(document.data, dict) else None
    for at, entry in enumerate(entries if isinstance(entries, list) else []):
        try:
            trigger = MessageTrigger.model_validate(entry)
        except ValidationError:
            continue
        yield _Entry(name, at, trigger, None, faults)


def _decide(entries: tuple[_Entry, ...], message: Message, fault: str | None) -> Decision:
    """One workflow's decision: the first entry whose condition holds; else what was wrong, or why none does."""
    no: list[str] = []
    park: Decision | None = None
    for entry in entries:
        try:
            why = _why_not(entry, message)
            if why is None:
                return _start(entry, message, fault)
            no.append(why)
        except (ExpressionFault, MessageFault, InputFault) as error:
            park = park or _parked(entry, fault or str(error), MessageFault if fault else type(error))
        except Exception as error:
            _log.exception("message.fault", message_id=message.id, topic=message.topic, workflow=entry.name)
            park = park or _parked(entry, bug(error), type(error))
    last = entries[-1]
    return park or Decision(Verdict(last.name, Outcome.NO, last.index, last.trigger.message, reason="; ".join(no)))


def _why_not(entry: _Entry, message: Message) -> str | None:
    """Why the entry's condition does not hold, or None when it does. Raises ExpressionFault or MessageFault."""
    sees = message.context()
    text = entry.trigger.if_
    if text is None or condition(text).holds(sees):
        return None
    return f"if: {text} is false: {why_false(text, sees)}"


def _start(entry: _Entry, message: Message, fault: str | None) -> Decision:
    """What becomes of it when the condition holds. Raises ExpressionFault or InputFault."""
    workflow, trigger = entry.workflow, entry.trigger
    if entry.faults or fault or workflow is None:
        return _parked(entry, entry.faults or fault or "", SiteFault if entry.faults else MessageFault)
    sees = message.context()
    inputs = render(dict(trigger.inputs), sees)
    values = check_inputs(workflow.inputs, inputs if isinstance(inputs, dict) else {})
    key = f"id:{message.id}"
    if trigger.key is not None:
        rendered = _text(render(trigger.key, sees))
        if not rendered.strip():
            return _parked(entry, "its key is empty", ExpressionFault)
        key = f"key:{_without_secrets(rendered, workflow, values)}"
    verdict = Verdict(entry.name, Outcome.START, entry.index, trigger.message, mask(workflow.inputs, values), key)
    return Decision(verdict, workflow, values)


def _without_secrets(key: str, workflow: Workflow, values: Mapping[str, Json]) -> str:
    """The key, which is stored and shown; a digest of it when it has the value of a secret input in any form."""
    hidden = {name: value for name, value in values.items() if value and workflow.inputs[name].secret}
    if not hidden or not (any(str(value) in key for value in hidden.values()) or _tells(key, leaves(hidden))):
        return key
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def _tells(key: str, hidden: Sequence[str]) -> bool:
    """Whether the key has one of the values, or might: a message may bring more of them than can be looked for."""
    if len(hidden) * _SECRET_COUNTS + sum(map(len, hidden)) > _SECRETS_LOOKED_FOR:
        return True
    return Mask(hidden).text(key) != key


def _parked(entry: _Entry, reason: str, kind: type[Exception]) -> Decision:
    verdict = Verdict(entry.name, Outcome.PARK, entry.index, entry.trigger.message, reason=reason)
    return Decision(verdict, fault=kind.__name__)


def parked(decision: Decision, reason: str, kind: type[Exception]) -> Decision:
    """The decision when something else than the message stands in the way."""
    verdict = replace(decision.verdict, outcome=Outcome.PARK, inputs=None, key=None, reason=reason)
    return Decision(verdict, fault=kind.__name__)


def _text(value: Json) -> str:
    """A rendered key as text: null is nothing, lists and mappings are canonical JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
