# SPDX-License-Identifier: GPL-3.0-or-later
"""Where expressions stand in a workflow's file, and what they may read there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from relengq.documents import Json, Loc
from relengq.site.files import StepPart, WorkflowFile, items, mapping, texts

MESSAGE = frozenset(("msg", "topic", "headers", "id", "sent_at"))
STEP = frozenset(("inputs", "outputs", "steps", "run", "site"))
START = frozenset(("inputs", "run"))
VARS = frozenset(("secrets",))
"""Known in a step's vars alone, which reach its playbook and are neither stored nor shown."""


@dataclass(frozen=True)
class Use:
    """An expression in a workflow's file."""

    loc: Loc
    text: str
    bare: bool
    """Whether it is a condition; else it is a template."""
    roots: frozenset[str]
    """The first words of the names that it may read."""
    step: StepPart | None
    """The step that it belongs to."""
    shown: str | None
    """What its value becomes part of that is stored or shown, so that it must not have a secret in it."""


def uses(file: WorkflowFile) -> Iterator[Use]:
    """Every expression of the file."""
    body = file.body
    group = mapping(body.get("concurrency")).get("group")
    yield from _templates(group, ("concurrency", "group"), START, None, "a concurrency group")
    for loc, trigger in file.triggers():
        yield from _conditions(trigger.get("if"), (*loc, "if"), MESSAGE, None, None)
        yield from _templates(trigger.get("inputs"), (*loc, "inputs"), MESSAGE, None, None)
        yield from _templates(trigger.get("key"), (*loc, "key"), MESSAGE, None, None)
    for step in file.steps:
        yield from _of_step(step)
    yield from _templates(body.get("outputs"), ("outputs",), STEP, None, "a run's outputs")
    yield from _announcements(body.get("announce"), ("announce",), STEP, None)


def _of_step(step: StepPart) -> Iterator[Use]:
    body, loc = step.body, step.loc
    roots = STEP | {"matrix"} if step.axes else STEP
    yield from _templates(body.get("matrix"), (*loc, "matrix"), STEP, step, "a matrix")
    yield from _conditions(body.get("when"), (*loc, "when"), roots, step, "a condition")
    yield from _conditions(body.get("allow_failure"), (*loc, "allow_failure"), roots, step, "a condition")
    yield from _templates(body.get("vars"), (*loc, "vars"), roots | VARS, step, None)
    yield from _templates(body.get("queue"), (*loc, "queue"), roots, step, "a queue")
    yield from _templates(body.get("limit"), (*loc, "limit"), roots, step, "a limit of hosts")
    yield from _announcements(body.get("announce"), (*loc, "announce"), roots | {"step"}, step)
    note = mapping(body.get("approval")).get("note")
    yield from _templates(note, (*loc, "approval", "note"), roots, step, "a note")
    wait = mapping(body.get("wait_for"))
    for key in ("if", "fail_if"):
        yield from _conditions(wait.get(key), (*loc, "wait_for", key), roots | MESSAGE, step, "a condition")


def _announcements(value: Json, loc: Loc, roots: frozenset[str], step: StepPart | None) -> Iterator[Use]:
    for at, item in enumerate(items(value) or [value]):
        place = (*loc, at) if isinstance(value, list) else loc
        body: Mapping[str, Json] = mapping(item)
        yield from _templates(body.get("topic"), (*place, "topic"), roots, step, "an announcement")
        yield from _templates(body.get("body"), (*place, "body"), roots, step, "an announcement")
        yield from _conditions(body.get("when"), (*place, "when"), roots, step, "a condition")


def _conditions(
    value: Json, loc: Loc, roots: frozenset[str], step: StepPart | None, shown: str | None
) -> Iterator[Use]:
    for place, text in texts(value, loc):
        if text.strip():
            yield Use(place, text, True, roots, step, shown)


def _templates(value: Json, loc: Loc, roots: frozenset[str], step: StepPart | None, shown: str | None) -> Iterator[Use]:
    for place, text in texts(value, loc):
        yield Use(place, text, False, roots, step, shown)
