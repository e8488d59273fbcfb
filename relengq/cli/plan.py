# SPDX-License-Identifier: GPL-3.0-or-later
"""``run --check``: what a start would do, as far as its inputs alone tell, without starting anything."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from relengq.cli.screen import Screen, bold, dim
from relengq.documents import Json
from relengq.engine.matrix import instances, label
from relengq.errors import ExpressionFault
from relengq.expressions import condition, is_template, references, render
from relengq.inputs import check_inputs, mask
from relengq.site import Site
from relengq.workflows import PlaybookStep, Step, Workflow

_STATIC = frozenset({"inputs", "matrix"})


@dataclass(frozen=True)
class PlannedStep:
    """A step of a run that would be started."""

    name: str
    kind: str
    final: bool
    instances: list[str] | None
    """Labels of its matrix' instances; None: no matrix, or known only when the run gets there."""
    queues: list[str] | None
    """Where its attempts would go; None: known only then, or it needs no worker."""
    unserved: list[str]
    """Those of its queues that no pool of the site serves."""
    when: str | None
    """Its condition, when that is still open."""
    skipped: bool
    """Whether its condition is false already."""


@dataclass(frozen=True)
class Plan:
    """What a start would do."""

    workflow: str
    inputs: dict[str, Json]
    group: str | None
    steps: list[PlannedStep]


def plan(site: Site, workflow: Workflow, given: dict[str, Json]) -> Plan:
    """Check the inputs and walk through the steps. Raises InputFault."""
    shown = mask(workflow.inputs, check_inputs(workflow.inputs, given))
    sees: dict[str, Json] = {"inputs": shown}
    group = None
    if workflow.concurrency is not None:
        run: Json = {"workflow": workflow.name, "trigger": "person"}
        try:
            group = str(render(workflow.concurrency.group, {**sees, "run": run}))
        except ExpressionFault:
            group = workflow.concurrency.group
    served = {queue for pool in site.pools.values() for queue in pool.queues}
    steps = [
        _planned(step, workflow, sees, served, final=position >= len(workflow.steps))
        for position, step in enumerate(workflow.chain)
    ]
    return Plan(workflow.name, shown, group, steps)


def _planned(step: Step, workflow: Workflow, sees: dict[str, Json], served: set[str], *, final: bool) -> PlannedStep:
    made = _instances(step, sees)
    contexts: list[dict[str, Json]] = [{**sees, "matrix": values} for values in made or []] or [sees]
    queues = _queues(step, workflow, contexts)
    verdicts = {_verdict(step, context) for context in contexts}
    return PlannedStep(
        name=step.name,
        kind=step.kind,
        final=final,
        instances=None if made is None else [label(values) for values in made],
        queues=queues,
        unserved=sorted(set(queues or ()) - served),
        when=step.when if verdicts - {True, False} else None,
        skipped=verdicts == {False} or made == [],
    )


def _instances(step: Step, sees: dict[str, Json]) -> list[dict[str, Json]] | None:
    if step.matrix is None or not all(_static(text) for text in step.matrix.values()):
        return None
    try:
        return list(instances(step.matrix, sees).values())
    except ExpressionFault:
        return None


def _static(value: Json) -> bool:
    """Whether a template reads nothing but inputs and the matrix."""
    if isinstance(value, list):
        return all(_static(item) for item in value)
    return not isinstance(value, str) or all(path[0] in _STATIC for path in references(value, bare=False))


def _queues(step: Step, workflow: Workflow, contexts: list[dict[str, Json]]) -> list[str] | None:
    if not isinstance(step, PlaybookStep):
        return None
    name = step.queue or workflow.queue
    if not is_template(name):
        return [name]
    try:
        return sorted({str(render(name, context)) for context in contexts}) if _static(name) else None
    except ExpressionFault:
        return None


def _verdict(step: Step, context: dict[str, Json]) -> bool | None:
    """Whether the step's condition holds; None when that is known only when the run gets there."""
    if step.when is None:
        return True
    if not all(path[0] in _STATIC for path in references(step.when, bare=True)):
        return None
    try:
        return condition(step.when).holds(context)
    except ExpressionFault:
        return None


def print_plan(screen: Screen, found: Plan, allowed: str) -> None:
    """The plan for people."""
    screen.line(bold(found.workflow), " would start; nothing was started.")
    for number, (name, value) in enumerate(found.inputs.items()):
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        screen.line(dim("  inputs      " if not number else "              "), f"{name}={text}")
    if found.group:
        screen.line(dim("  group       "), found.group)
    screen.line(dim("  who         "), allowed)
    screen.line()
    rows = [(Text(f"  {step.name}"), _does(step), _where(step)) for step in found.steps]
    screen.table(("  STEP", "WHAT", "QUEUE"), rows, empty="")


def _does(step: PlannedStep) -> str:
    parts = ["finally: " + step.kind if step.final else step.kind]
    if step.instances is not None:
        parts.append(f"for {', '.join(step.instances) or 'nothing'}")
    if step.skipped:
        parts.append("skipped with these inputs")
    elif step.when is not None:
        parts.append(f"when {step.when}")
    return "; ".join(parts)


def _where(step: PlannedStep) -> str:
    if step.queues is None:
        return "known later" if step.kind == "playbook" else ""
    return ", ".join(f"{queue} (no pool serves it)" if queue in step.unserved else queue for queue in step.queues)
