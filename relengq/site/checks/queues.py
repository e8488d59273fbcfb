# SPDX-License-Identifier: GPL-3.0-or-later
"""Queues that no pool serves."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import product

from relengq.documents import Json, Loc
from relengq.errors import ExpressionFault, Fault, did_you_mean
from relengq.expressions import Path, is_template, references, render
from relengq.site.files import StepPart, WorkflowFile
from relengq.workflows import INSTANCE_LIMIT

_SHOWN = 5


def check(file: WorkflowFile, served: Collection[str]) -> Iterator[Fault]:
    """Queues of the file's steps that are not among ``served``; the workflow's own queue is told once."""
    told: set[str] = set()
    for step in file.steps:
        if step.kind != "playbook":
            continue
        own = step.body.get("queue")
        queue = file.body.get("queue", "default") if own is None else own
        loc: Loc = ("queue",) if own is None else (*step.loc, "queue")
        if not isinstance(queue, str) or (own is None and queue in told):
            continue
        if own is None:
            told.add(queue)
        message = _problem(file, step, queue, served)
        if message:
            place = loc if own is not None or "queue" in file.body else (*step.loc, "name")
            yield file.document.fault(place, *message)


def names(file: WorkflowFile, step: StepPart) -> list[str] | None:
    """The queues that a step can come to; None when only a run knows, or the file is faulty there."""
    own = step.body.get("queue")
    queue = file.body.get("queue", "default") if own is None else own
    if not isinstance(queue, str):
        return None
    return _expanded(file, step, queue) if is_template(queue) else [queue]


def _problem(file: WorkflowFile, step: StepPart, queue: str, served: Collection[str]) -> tuple[str, str | None] | None:
    valid = did_you_mean(queue, served) or ("workers/ has no pool" if not served else None)
    if not is_template(queue):
        return None if queue in served else (f"no pool serves the queue '{queue}'", valid)
    found = _expanded(file, step, queue)
    if found is None:
        literal = re.split(r"\{\{.*?\}\}", queue, flags=re.DOTALL)
        pattern = re.compile(".*".join(map(re.escape, literal)))
        fits = any(pattern.fullmatch(name) for name in served)
        return None if fits else (f"no pool serves any queue like '{queue}'", valid)
    missing = [name for name in found if name not in served]
    if not missing:
        return None
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    plural = "queues" if len(missing) > 1 else "queue"
    hint = did_you_mean(missing[0], served) or valid
    return f"no pool serves the {plural} {', '.join(missing[:_SHOWN])}{more}", hint


def _expanded(file: WorkflowFile, step: StepPart, queue: str) -> list[str] | None:
    """All queues that the template can give, or None when its values are not all known before a run."""
    try:
        paths = list(dict.fromkeys(references(queue, bare=False)))
    except ExpressionFault:
        return None
    choices = [_values(file, step, path) for path in paths]
    known = [values for values in choices if values is not None]
    count = 1
    for values in known:
        count *= len(values)
    if len(known) < len(choices) or count > INSTANCE_LIMIT:
        return None
    found: dict[str, None] = {}
    for combination in product(*known):
        context: dict[str, dict[str, Json]] = {}
        for path, value in zip(paths, combination, strict=True):
            context.setdefault(path[0], {})[path[1]] = value
        try:
            found[str(render(queue, context))] = None
        except ExpressionFault:
            return None
    return list(found)


def _values(file: WorkflowFile, step: StepPart, path: Path) -> list[Json] | None:
    """The values that the name can have, when the file tells them all."""
    if len(path) != 2:
        return None
    root, name = path
    if root == "inputs" and name in file.specs:
        spec = file.specs[name]
        return [True, False] if spec.type == "bool" else spec.choices if spec.type != "list" else None
    if root != "matrix":
        return None
    axis = step.axes.get(name)
    if isinstance(axis, list):
        return None if any(isinstance(value, str) and is_template(value) for value in axis) else axis
    return _items(file, axis) if isinstance(axis, str) else None


def _items(file: WorkflowFile, axis: str) -> list[Json] | None:
    """The items of a list input, when the axis is just that input and it has choices."""
    match = re.fullmatch(r"\{\{\s*inputs\.(\w+)\s*\}\}", axis)
    spec = file.specs.get(match.group(1)) if match else None
    return spec.choices if spec is not None and spec.type == "list" else None
