# SPDX-License-Identifier: GPL-3.0-or-later
"""How one run looks on a terminal: its head, its steps, what failed, and what to do next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TypeAlias

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from relengq.cli.options import one_line, printable
from relengq.cli.screen import Screen, bold, dim, duration, seconds, state
from relengq.documents import Json
from relengq.runs.lookup import RunLine
from relengq.runs.results import OUTPUT
from relengq.runs.timeline import StepLine, Timeline
from relengq.states import RunState, StepState

_INSTANCES_SHOWN = 12
"""Instances of a matrix beyond this number are summed up unless they are of interest."""
_VALUE_CHARACTERS = 200
_NOTE_CHARACTERS = 44
_MESSAGE_LINES = 20
_HEAD_LINES = 5
"""Lines of the live view beside the steps: the title, headings, and what wraps."""
_APPROVALS_SHOWN = 8
_QUIET = (StepState.SUCCEEDED, StepState.PENDING, StepState.SKIPPED)


Fact: TypeAlias = tuple[str, str]
"""A line of the head: its title and its value."""


class View:
    """One run as it stands at ``now``."""

    def __init__(self, screen: Screen, seen: Timeline, now: datetime) -> None:
        self._screen = screen
        self._seen = seen
        self._now = now

    def whole(self) -> Group:
        """Everything that ``status`` shows."""
        parts: list[RenderableType] = [self.title(), _grid(self._facts()), Text(), self.steps()]
        parts += [part for step in self._seen.steps for part in self._failure(step)]
        if self._seen.run.state.final and self._seen.outputs:
            parts += [Text(), _grid(self._values("outputs", self._seen.outputs))]
        if advice := advise(self._seen):
            parts += [Text(), *(Text(f"{'' if at else 'Next:':7}{line}") for at, line in enumerate(advice))]
        return Group(*parts)

    def live(self) -> Group:
        """What is shown again and again while a run is followed."""
        room = self._screen.console.height - _HEAD_LINES
        return Group(self.title(), self._table(_fitting(list(_of_interest(self._seen.steps)), room)))

    def title(self) -> Text:
        """The run's workflow, id and state, and for how long."""
        run = self._seen.run
        took = seconds(run.started_at, run.finished_at, self._now)
        text = Text.assemble(bold(run.workflow), "  ", run.id, "  ", state(run.state))
        if timing := duration(took, self._seen.usual):
            text.append(f"  {'in' if run.state.final else 'for'} {timing}" if took is not None else f"  {timing}")
        if run.reason and not run.state.final:
            text.append(f"  {one_line(run.reason)}")
        return text

    def _facts(self) -> Iterator[Fact]:
        seen, run = self._seen, self._seen.run
        moment = self._screen.moment
        yield ("started by", f"{run.who} ({run.trigger}) at {moment(run.created_at)}")
        yield from _message(seen.trigger_detail)
        if run.origin:
            parts = {None: "all of it", "failed": "from where it failed"}
            yield ("repeats", f"run {run.origin}, {parts.get(seen.origin_from, f'from {seen.origin_from}')}")
        for rerun in seen.reruns:
            yield ("repeated by", f"run {rerun.id}, {rerun.state}")
        if run.inputs:
            yield "inputs", _inputs(run)
        if run.revision:
            yield ("revision", run.revision[:12] + (" with uncommitted changes" if run.dirty else ""))
        if seen.group:
            yield ("group", seen.group)
        if seen.deadline and not run.state.final:
            yield ("stopped at", moment(seen.deadline))
        if run.state.final and run.reason:
            yield ("because", run.reason)
        for pruned in seen.pruned:
            yield (pruned.what, str(pruned))

    @staticmethod
    def _values(title: str, values: dict[str, Json]) -> Iterator[Fact]:
        for number, (name, value) in enumerate(values.items()):
            yield ("" if number else title, f"{name}={_short(value)}")

    def steps(self) -> Table:
        """The steps in order, one line each; quiet instances of a large matrix are summed up."""
        return self._table(_of_interest(self._seen.steps))

    def _table(self, lines: Iterable[StepLine | str]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="dim", show_edge=False)
        for name in ("STEP", "STATE", "TOOK", ""):
            table.add_column(name, overflow="fold", no_wrap=name in ("STATE", "TOOK"))
        finally_seen = False
        for step in lines:
            if isinstance(step, str):
                table.add_row("", "", "", dim(step))
                continue
            if step.final and not finally_seen:
                finally_seen = True
                table.add_row(dim("finally"))
            table.add_row(Text(one_line(step.label)), state(step.state), self._took(step), self._note(step))
        return table

    def _took(self, step: StepLine) -> Text:
        if step.kept_from or step.state in (StepState.SKIPPED, StepState.CANCELLED):
            return Text("")
        return Text(duration(seconds(step.started_at, step.finished_at, self._now), step.usual))

    def _note(self, step: StepLine) -> Text:
        """The one thing to know about a step: where it is, why it waits, why it ended so."""
        if step.kept_from:
            return dim(f"kept from run {step.kept_from}")
        if step.waits:
            return self._waits(step)
        if step.state is StepState.RUNNING:
            where = ": ".join(filter(None, (step.host, " / ".join(filter(None, (step.play, step.task))))))
            on = f" ({step.task_host})" if step.task_host else ""
            return Text(one_line(f"{where}{on}{_tries(step)}"))
        if step.state is StepState.FAILED:
            allowed = "allowed to fail; " if step.allow_failure else ""
            return Text(one_line(f"{allowed}{_short(step.reason or '', _NOTE_CHARACTERS)}{_tries(step)}"))
        if step.state is StepState.SUCCEEDED:
            return dim(f"{step.host or step.reason or ''}{_tries(step)}")
        return dim(_short(step.reason or "", _NOTE_CHARACTERS))

    def _waits(self, step: StepLine) -> Text:
        assert step.waits is not None  # noqa: S101 -- the caller asked
        text = step.waits.reason
        if step.waits.at is not None:
            word = "until" if step.state is StepState.WAITING else "due at"
            text += f" {word} {self._screen.moment(step.waits.at)}"
        if step.state is StepState.QUEUED and step.reason:
            text += f" ({_short(step.reason)})"
        return Text(one_line(text), style="yellow")

    def _failure(self, step: StepLine) -> Iterator[Text]:
        """What failed, with host, task and message."""
        if step.state is not StepState.FAILED or step.kept_from:
            return
        yield Text()
        yield Text.assemble(Text(one_line(step.label)), " ", state("failed"), f" on {step.host}" if step.host else "")
        if not step.failures:
            yield from _indented(step.reason or "no reason is known")
        for failure in step.failures:
            item = f" (item {failure.item})" if failure.item else ""
            yield bold(f"  {failure.host}: {failure.task}{item}")
            yield from _indented(failure.message or "no message")


def _message(detail: dict[str, Json]) -> Iterator[Fact]:
    """The message that started the run, and what makes its start unique when that is not its id."""
    if "message_id" in detail:
        yield "message", f"{detail['message_id']} on {detail.get('topic', '')}"
        if "key" in detail:
            yield "key", _short(detail["key"])


def _inputs(run: RunLine) -> str:
    """The inputs that differ from the defaults, and how many others there are."""
    told = "  ".join(f"{name}={_short(run.inputs[name])}" for name in run.given)
    others = len(run.inputs) - len(run.given)
    if not others:
        return told
    rest = f"{others} default{'s' if others > 1 else ''}"
    return f"{told}  (and {rest})" if told else f"({rest})"


def advise(seen: Timeline) -> list[str]:
    """Commands that a person wants next, each with what it does."""
    run = seen.run
    found: list[str] = []
    waiting = [step for step in seen.steps if step.state is StepState.WAITING and step.kind == "approval"]
    for step in waiting[:_APPROVALS_SHOWN]:
        found.append(f"relengq approve {run.id} {shlex.quote(step.label)} --note …   (or reject)")
    if len(waiting) > _APPROVALS_SHOWN:
        found.append(f"… and {len(waiting) - _APPROVALS_SHOWN} more steps wait for approval")
    for step in seen.steps:
        if step.waits and step.waits.reason.startswith("nobody serves") and step.queue:
            found.append(f"start a worker that serves queue {step.queue}: relengq worker POOL, or relengq up")
            break
    if run.state is RunState.HELD:
        found.append(f"relengq release {run.id}   (--fail gives up steps that were lost)")
    if run.state is RunState.FAILED:
        gone = any(pruned.what == OUTPUT for pruned in seen.pruned)
        if not gone and any(step.state is StepState.FAILED and step.attempts for step in seen.steps):
            found.append(f"relengq logs {run.id} --failed")
        if not seen.reruns:
            found.append(f"relengq rerun {run.id} --failed")
    if run.state is RunState.RUNNING:
        found.append(f"relengq status {run.id} --follow, or relengq logs {run.id} -f")
    return found


def _of_interest(steps: Sequence[StepLine]) -> Iterator[StepLine | str]:
    """The steps, where a large matrix has its quiet instances summed up in a sentence."""
    sizes: dict[str, int] = {}
    for step in steps:
        sizes[step.name] = sizes.get(step.name, 0) + 1
    quiet: dict[str, dict[StepState, int]] = {}
    for at, step in enumerate(steps):
        if sizes[step.name] <= _INSTANCES_SHOWN or step.state not in _QUIET:
            yield step
        else:
            counts = quiet.setdefault(step.name, {})
            counts[step.state] = counts.get(step.state, 0) + 1
        last = at + 1 == len(steps) or steps[at + 1].name != step.name
        if last and step.name in quiet:
            counted = ", ".join(f"{count} {name}" for name, count in quiet[step.name].items())
            yield f"{step.name}: {counted} more"


def _fitting(lines: Sequence[StepLine | str], room: int) -> Sequence[StepLine | str]:
    """The part of the lines that a terminal has room for: from just before what is under way."""
    if len(lines) <= room or room < 3:
        return lines
    under_way = (at for at, line in enumerate(lines) if not isinstance(line, str) and not line.state.final)
    start = max(0, min(next(under_way, 0) - 1, len(lines) - room + 2))
    shown = lines[start : start + room - 2]
    above = [f"… {start} lines above"] if start else []
    below = len(lines) - start - len(shown)
    return [*above, *shown, *([f"… {below} lines below"] if below else [])]


def _tries(step: StepLine) -> str:
    return f" (try {step.attempts})" if step.attempts > 1 else ""


def _grid(facts: Iterable[Fact]) -> Table:
    """Facts below each other; long ones go on under themselves."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=13, no_wrap=True)
    grid.add_column(overflow="fold")
    for title, value in facts:
        grid.add_row(dim(f"  {title}"), Text(one_line(value)))
    return grid


def _short(value: Json, limit: int = _VALUE_CHARACTERS) -> str:
    """A value on one line, cut when it is long."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        text = ",".join(map(str, value))
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = one_line(text)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _indented(message: str) -> Iterator[Text]:
    lines = printable(message).strip().splitlines()
    for line in lines[:_MESSAGE_LINES]:
        yield Text(f"    {line}")
    if len(lines) > _MESSAGE_LINES:
        yield dim(f"    … {len(lines) - _MESSAGE_LINES} more lines; see 'relengq logs --failed'")
