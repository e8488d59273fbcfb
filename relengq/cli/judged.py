# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of a message, or would become of it: for programs as data, for people as lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from rich.text import Text

from relengq.cli.options import one_line
from relengq.cli.screen import Screen, bold, dim
from relengq.documents import Json
from relengq.engine.taking import Disposition
from relengq.workflows import topic_matches

_VALUE_CHARACTERS = 100
_PREFIX_WORDS = 3
"""Words of a topic that the bus's configuration puts before it: org.fedoraproject.prod."""


class Fate(StrEnum):
    """What a workflow makes of a message."""

    START = "start"
    """It would start a run."""
    STARTED = "started"
    DUPLICATE = "duplicate"
    """The run has been started before."""
    PARK = "park"
    """The message cannot be used, and would be parked."""
    PARKED = "parked"
    NO = "no"
    """Its condition is false."""


@dataclass(frozen=True)
class Outcome:
    """What one workflow makes of a message."""

    workflow: str
    outcome: Fate
    """start or park (in a dry run), started, parked, duplicate, or no: its condition is false."""
    pattern: str | None = None
    """The topic pattern of the trigger that decided."""
    inputs: dict[str, Json] | None = None
    """Inputs of the run; secret ones are masked."""
    key: str | None = None
    """What makes the start unique within the workflow."""
    reason: str | None = None
    """Why nothing is started: the condition that is false, with its values, or why the message is parked."""
    run: str | None = None
    """The run that was started by it, now or before."""


@dataclass(frozen=True)
class Waiting:
    """A run with a step that waits, or is going to wait, for messages on such a topic."""

    run: str
    workflow: str


@dataclass(frozen=True)
class Judged:
    """A message, and what became or would become of it."""

    message: str
    """The message's id."""
    topic: str
    sent_at: datetime | None
    """When it was sent, as far as it says so."""
    outcome: Disposition
    """What it is counted under: the first that is true of parked, started, awaited, duplicate and unmatched."""
    workflows: tuple[Outcome, ...]
    """What each workflow with a fitting topic pattern makes of it."""
    waiting: tuple[Waiting, ...] = ()
    """Runs that it is kept for."""
    nearest: str | None = None
    """Where nothing is meant for the topic: a pattern that fits all of it but the prefix, or with which runs wait."""


_WORDS = {
    Fate.START: Text("would start", style="green"),
    Fate.PARK: Text("would be parked", style="bold red"),
    Fate.PARKED: Text("parked", style="bold red"),
    Fate.NO: Text("no", style="dim"),
}


def nearest(topic: str, patterns: Iterable[str]) -> str | None:
    """The pattern that fits a topic, or all of it but the prefix (org.fedoraproject.stg, …prod, or none at all)."""
    found: str | None = None
    words = topic.split(".")
    for pattern in patterns:
        if topic_matches(pattern, topic):
            return pattern
        tail = pattern.split(".")[_PREFIX_WORDS:]
        ends = [words[cut:] for cut in (_PREFIX_WORDS, 0) if words[cut:]]
        if any(part not in "*#" for part in tail) and any(topic_matches(".".join(tail), ".".join(end)) for end in ends):
            found = found or pattern
    return found


def show(screen: Screen, judged: Judged) -> None:
    """Print a message's head, and a line for each workflow and run that it concerns."""
    sent = f"  sent {screen.moment(judged.sent_at)}" if judged.sent_at else ""
    screen.line(bold(one_line(judged.topic)), dim(f"  {one_line(judged.message)}{sent}"))
    width = max((len(each.workflow) for each in judged.workflows), default=0)
    for outcome in judged.workflows:
        screen.line(f"  {outcome.workflow:{width}}  ", *_told(outcome))
    for wait in judged.waiting:
        screen.line(f"  for run {wait.run} of {wait.workflow}, which waits for messages on this topic")
    if judged.outcome is Disposition.DUPLICATE and not judged.workflows:
        screen.line(Text("  it was kept before for runs that wait", style="yellow"))
    elif not judged.workflows and not judged.waiting:
        screen.line(dim(f"  {_unmeant(judged)}"))


def _unmeant(judged: Judged) -> str:
    if judged.nearest is None:
        return "nothing is meant for this topic"
    if topic_matches(judged.nearest, judged.topic):
        return f"no run waits for it now; some would, for {judged.nearest}"
    return f"nothing is meant for this topic; it differs from {judged.nearest} in how it begins"


def _told(outcome: Outcome) -> Iterator[str | Text]:
    if outcome.outcome is Fate.STARTED:
        yield Text(f"started run {outcome.run}", style="green")
    elif outcome.outcome is Fate.DUPLICATE:
        yield Text(f"already started as run {outcome.run}" if outcome.run else "already", style="yellow")
    else:
        yield _WORDS[outcome.outcome]
    if outcome.reason:
        yield f": {one_line(outcome.reason)}"
    elif outcome.inputs:
        yield f"  {_inputs(outcome.inputs)}"


def _inputs(inputs: Mapping[str, Json]) -> str:
    return "  ".join(f"{name}={_value(value)}" for name, value in inputs.items())


def _value(value: Json) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        text = ",".join(map(str, value))
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = one_line(text)
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[:_VALUE_CHARACTERS]}…"
