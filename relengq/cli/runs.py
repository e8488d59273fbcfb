# SPDX-License-Identifier: GPL-3.0-or-later
"""``runs`` and ``history``: find runs again, and who did what to one."""

from __future__ import annotations

from datetime import datetime

import click
from rich.text import Text

from relengq.cli.options import one_line
from relengq.cli.parameters import Moment, Pair, json_option, run_argument
from relengq.cli.screen import duration, print_json, seconds, state
from relengq.cli.setup import Setup, pass_setup
from relengq.documents import Json
from relengq.errors import did_you_mean
from relengq.models import Run
from relengq.runs import lookup
from relengq.runs.lookup import HIDDEN, Filters, RunLine
from relengq.runs.timeline import with_waits
from relengq.states import RunState

ACTIVE = "active"
_NOTE_CHARACTERS = 120


@click.command("runs")
@click.option("-w", "--workflow", help="Runs of this workflow.")
@click.option(
    "-s", "--state", "states", multiple=True, type=click.Choice([*map(str, RunState), ACTIVE]),
    help="Runs in this state; may be given again. 'active': all that are not over.",
)  # fmt: skip
@click.option("--trigger", type=click.Choice(["message", "schedule", "person"]), help="What started them.")
@click.option("--who", help="Who started them: a user, or for instance 'schedule nightly'.")
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    type=Pair(),
    metavar="KEY=VALUE",
    help="Runs with this input; of a list, one item.",
)
@click.option("--since", type=Moment(), metavar="TIME", help="Started at or after TIME: 2026-11-20, today, 2h (ago).")
@click.option("--until", type=Moment(), metavar="TIME", help="Started before TIME.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=30, show_default=True, help="At most so many.")
@json_option
@pass_setup
def runs_command(
    setup: Setup,
    *,
    workflow: str | None,
    states: tuple[str, ...],
    trigger: str | None,
    who: str | None,
    inputs: tuple[tuple[str, str], ...],
    since: datetime | None,
    until: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, newest first.

    \b
    Example:  relengq runs --workflow nightly-compose --state failed --since 7d
              relengq runs -i release=rawhide -i arches=x86_64
    """
    filters = Filters(workflow, _states(states), trigger, who, inputs, since, until, limit)
    database = setup.installation.database
    with database.read() as session:
        now = database.now(session)
        found = [
            with_waits(session, line, now=now, readable=setup.readable)
            for line in lookup.runs(session, filters, setup.readable)
        ]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            line.id, line.workflow, state(line.state), setup.screen.moment(line.created_at),
            duration(seconds(line.started_at, line.finished_at, now)), line.who, _about(line),
        )
        for line in found
    ]  # fmt: skip
    columns = ("RUN", "WORKFLOW", "STATE", "CREATED", "TOOK", "BY", "INPUTS, REASON")
    setup.screen.table(columns, rows, empty=_empty(setup, filters), cut_last=True)


@click.command("history")
@run_argument
@json_option
@pass_setup
def history_command(setup: Setup, run: str, as_json: bool) -> None:
    """Show who or what did what to a run.

    \b
    Example:  relengq history last
    """
    run_id, workflow = setup.find(run)
    with setup.installation.database.read() as session:
        events = lookup.history(session, run_id)
        if not setup.may_read_logs(workflow):
            steps = session.get_one(Run, run_id).steps
            labels = lookup.hidden_labels((step.name, step.instance) for step in steps)
            events = [event.hidden(labels) for event in events]
    if as_json:
        print_json(events)
        return
    rows = [
        (setup.screen.moment(event.at), event.who, Text(event.action), event.step or "", _cut(event.note or ""))
        for event in events
    ]
    setup.screen.table(("WHEN", "WHO", "WHAT", "STEP", "NOTE"), rows, empty="Nothing happened yet.")


def _states(words: tuple[str, ...]) -> tuple[RunState, ...]:
    found: list[RunState] = []
    for word in words:
        found += [each for each in RunState if not each.final] if word == ACTIVE else [RunState(word)]
    return tuple(found)


def _about(line: RunLine) -> str:
    """What tells runs of one workflow apart: inputs that are not the defaults, and what is the matter."""
    inputs = " ".join(f"{name}={_plain(line.inputs[name])}" for name in line.given)
    if HIDDEN in line.inputs.values():
        return HIDDEN
    return _cut(" ".join(filter(None, (_cut(inputs), f"({one_line(line.reason)})" if line.reason else ""))))


def _plain(value: Json) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _cut(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= _NOTE_CHARACTERS else f"{text[:_NOTE_CHARACTERS]}…"


def _empty(setup: Setup, filters: Filters) -> str:
    """Why the list is empty, as far as that can be told."""
    if filters.workflow:
        workflows = setup.installation.site.workflows
        hint = did_you_mean(filters.workflow, workflows)
        if filters.workflow not in workflows:
            return f"No run, and there is no workflow '{filters.workflow}'{f': {hint}' if hint else '.'}"
    if filters == Filters(limit=filters.limit):
        return "There is no run yet. Start one: relengq run WORKFLOW"
    return "No run fits."
