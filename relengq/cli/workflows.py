# SPDX-License-Identifier: GPL-3.0-or-later
"""``workflows`` and ``show``: what can be run."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click
from rich.text import Text

from relengq import access, site
from relengq.access import Person
from relengq.cli.options import one_line
from relengq.cli.parameters import json_option
from relengq.cli.screen import Screen, bold, dim, print_json, warn
from relengq.cli.setup import site_directory
from relengq.documents import Json
from relengq.durations import human
from relengq.inputs import InputSpec
from relengq.settings import Settings
from relengq.site import Site
from relengq.workflows import ApprovalStep, PlaybookStep, Step, WaitForStep, Workflow


@click.command("workflows")
@json_option
def workflows_command(as_json: bool) -> None:
    """List the workflows that can be run.

    \b
    Example:  relengq workflows
    """
    settings = Settings.load()
    found = site.load(site_directory())
    someone = access.person(settings)
    if as_json:
        print_json([_summary(found, flow, someone, settings) for _, flow in sorted(found.workflows.items())])
    else:
        rows = [
            (bold(name), one_line(flow.description), _inputs_short(flow), _starts(found, flow))
            for name, flow in sorted(found.workflows.items())
        ]
        empty = f"There is no workflow in {found.path}/playbooks/workflows. Make a site: relengq init DIR"
        Screen(settings.time_zone).table(("WORKFLOW", "WHAT IT IS FOR", "INPUTS", "STARTED BY"), rows, empty=empty)
    if found.faults:
        warn(f"{len(found.faults)} faults in the site's files keep some out; see 'relengq check'.")


@click.command("show")
@click.argument("workflow")
@json_option
def show_command(workflow: str, as_json: bool) -> None:
    """Show a workflow: its inputs, steps and triggers.

    \b
    Example:     relengq show nightly-compose
    Exit codes:  2 its file has faults, 3 there is none of that name
    """
    settings = Settings.load()
    found = site.load(site_directory())
    flow = found.workflow(workflow)
    if as_json:
        print_json({**flow.model_dump(mode="json", by_alias=True), "schedules": _schedules(found, flow)})
        return
    screen = Screen(settings.time_zone)
    screen.line(bold(flow.name), f"  {flow.description}" if flow.description else "")
    _show_inputs(screen, flow)
    screen.line()
    screen.line(bold("Steps"))
    for number, step in enumerate(flow.chain, 1):
        final = number > len(flow.steps)
        if final and number == len(flow.steps) + 1:
            screen.line(bold("Finally"))
        screen.line(
            f"  {number}. ".ljust(6), Text(step.name), dim(f"  {'; '.join(filter(None, _about_step(step, flow)))}")
        )
    _show_messages(screen, flow)
    _show_policies(screen, found, flow)
    screen.line()
    screen.line(dim(f"Start it: {_example(flow)}"))


def _summary(found: Site, flow: Workflow, someone: Person, settings: Settings) -> dict[str, object]:
    return {
        "name": flow.name,
        "description": flow.description,
        "inputs": {name: spec.model_dump(mode="json") for name, spec in flow.inputs.items()},
        "steps": [step.name for step in flow.chain],
        "messages": [trigger.message for trigger in flow.on],
        "schedules": _schedules(found, flow),
        "may_launch": access.allowed(someone, settings, flow.access.launch),
    }


def _schedules(found: Site, flow: Workflow) -> list[str]:
    return sorted(name for name, schedule in found.schedules.items() if schedule.workflow == flow.name)


def _inputs_short(flow: Workflow) -> str:
    """Inputs by name; those that may be left out in brackets."""
    return " ".join(name if spec.required else f"[{name}]" for name, spec in flow.inputs.items())


def _starts(found: Site, flow: Workflow) -> str:
    return ", ".join([*_schedules(found, flow), *(trigger.message for trigger in flow.on)])


def _show_inputs(screen: Screen, flow: Workflow) -> None:
    if not flow.inputs:
        return
    screen.line()
    rows = [
        (Text(f"  {name}"), spec.type, _default(spec), "; ".join(filter(None, (spec.help, _bounds(spec)))))
        for name, spec in flow.inputs.items()
    ]
    screen.table(("  INPUT", "TYPE", "DEFAULT", "MEANING"), rows, empty="")


def _default(spec: InputSpec) -> str:
    return "(required)" if spec.required else _shown(spec.default)


def _shown(value: Json) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "(empty)"
    return str(value).lower() if isinstance(value, bool) else str(value) or "(empty)"


def _bounds(spec: InputSpec) -> str:
    parts = []
    if spec.choices is not None:
        parts.append("one of " + ", ".join(map(str, spec.choices)))
    if spec.pattern is not None:
        parts.append(f"matches {spec.pattern}")
    if spec.min is not None or spec.max is not None:
        parts.append(f"{'' if spec.min is None else spec.min}…{'' if spec.max is None else spec.max}")
    if spec.secret:
        parts.append("secret")
    return "; ".join(parts)


def _about_step(step: Step, flow: Workflow) -> Iterator[str]:
    """What a step does and under which conditions, in short parts."""
    if isinstance(step, PlaybookStep):
        yield from _about_playbook(step, flow)
    elif isinstance(step, ApprovalStep):
        yield "waits for approval" + (f" by {' or '.join(step.approval.groups)}" if step.approval.groups else "")
        yield _limit(step.approval.timeout)
    elif isinstance(step, WaitForStep):
        yield f"waits for message {step.wait_for.message}"
        if step.wait_for.if_:
            yield f"if {step.wait_for.if_}"
        if step.wait_for.fail_if:
            yield f"fails if {step.wait_for.fail_if}"
        yield _limit(step.wait_for.timeout)
    if step.matrix:
        yield "once for each " + " × ".join(f"{axis} of {_axis(values)}" for axis, values in step.matrix.items())
    if step.when:
        yield f"when {step.when}"
    if step.allow_failure:
        yield "may fail" if step.allow_failure is True else f"may fail when {step.allow_failure}"


def _about_playbook(step: PlaybookStep, flow: Workflow) -> Iterator[str]:
    yield f"plays {step.playbook} on queue {step.queue or flow.queue}"
    yield _limit(step.timeout)
    if step.retry.attempts > 1:
        yield f"up to {step.retry.attempts} tries"
    if step.on_lost != "retry":
        yield f"on_lost: {step.on_lost}"


def _limit(seconds: float | None) -> str:
    return f"at most {human(seconds)}" if seconds else ""


def _axis(values: Json) -> str:
    return ", ".join(map(str, values)) if isinstance(values, list) else str(values)


def _show_messages(screen: Screen, flow: Workflow) -> None:
    """The messages that start it: under which condition, with which inputs, and what makes two the same."""
    if not flow.on:
        return
    screen.line()
    screen.line(bold("Messages that start it"))
    for trigger in flow.on:
        screen.line(f"  {trigger.message}")
        inputs = [f"{name}={_value(value)}" for name, value in trigger.inputs.items()]
        facts = [("if", trigger.if_), *(("inputs" if not at else "", each) for at, each in enumerate(inputs))]
        for title, fact in [*facts, ("key", trigger.key or "the message's id")]:
            if fact:
                screen.line(dim(f"    {title:8}"), fact)


def _value(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _show_policies(screen: Screen, found: Site, flow: Workflow) -> None:
    facts = {
        "One at a time": f"{flow.concurrency.group} ({flow.concurrency.when_busy})" if flow.concurrency else "",
        "At most": human(flow.timeout) if flow.timeout else "",
        "Schedules": ", ".join(_schedules(found, flow)),
        "Who may start it": " or ".join(flow.access.launch or ()),
        "Who may read logs": " or ".join(flow.access.logs or ()),
        "Secrets": ", ".join(flow.secrets),
        "Results": ", ".join(flow.outputs),
    }
    given = {name: value for name, value in facts.items() if value}
    if given:
        screen.line()
    for name, value in given.items():
        screen.line(bold(f"{name}: "), value)


def _example(flow: Workflow) -> str:
    parts = [f"-i {name}={_example_value(spec)}" for name, spec in flow.inputs.items() if spec.required]
    return " ".join(["relengq run", flow.name, *parts, "--follow"])


def _example_value(spec: InputSpec) -> str:
    return str(spec.choices[0]) if spec.choices else "…"
