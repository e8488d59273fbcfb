# SPDX-License-Identifier: GPL-3.0-or-later
"""``prune``: delete now what is older than it is to be kept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection

import click

from relengq import access
from relengq.cli.parameters import Kept, json_option
from relengq.cli.screen import print_json
from relengq.cli.setup import Setup, pass_setup
from relengq.engine import retention
from relengq.engine.retention import Plan
from relengq.errors import NotFound, did_you_mean
from relengq.runs import pruning
from relengq.runs.pruning import What
from relengq.workflows import Retention

_PAUSE = 0.01
"""Seconds between two transactions at least, so that others who wait to write have their turn."""


@click.command("prune")
@click.argument("workflows", nargs=-1, metavar="[WORKFLOW]...")
@click.option("--logs-after", type=Kept(), help="Delete output so long after a run's end; 0: never.")
@click.option("--events-after", type=Kept(), help="Delete what tasks did so long after a run's end; 0: never.")
@click.option("--runs-after", type=Kept(), help="Delete runs so long after their end; 0: never.")
@click.option("--keep", type=click.IntRange(0), help="Keep so many finished runs of each workflow; 0: all.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@json_option
@pass_setup
def prune_command(
    setup: Setup,
    *,
    workflows: tuple[str, ...],
    logs_after: float | None,
    events_after: float | None,
    runs_after: float | None,
    keep: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete old output, events and runs now.

    The clock does the same by itself, a little at a time. How long what is kept
    is said by the settings retention_… and by 'retention' in a workflow; the
    options overrule both for this call. A workflow's newest finished run and the
    newest that succeeded stay, as does what an unfinished run repeats.

    \b
    Example:     relengq prune --dry-run
                 relengq prune --logs-after 7d nightly-compose
    Exit codes:  4 you are no admin (with --dry-run everybody may)
    """
    overrule = Retention(logs=logs_after, events=events_after, runs=runs_after, keep=keep)
    _demand_known(setup, workflows)
    if dry_run:
        found = retention.plan(setup.installation, overrule, workflows)
    else:
        access.require(setup.person, setup.settings, [], "prune")
        found = _prune(setup, overrule, workflows)
    if as_json:
        print_json({"dry_run": dry_run, "workflows": found})
        return
    rows = [(line.workflow, str(line.logs), str(line.events), str(line.runs)) for line in found]
    columns = ("WORKFLOW", "OUTPUT OF", "EVENTS OF", "RUNS")
    setup.screen.table(columns, rows, empty="Nothing is old enough to be deleted.")


def _prune(setup: Setup, overrule: Retention, only: Collection[str]) -> list[Plan]:
    """Delete what is due; returns what was deleted of each workflow."""
    gone: dict[str, Counter[What]] = {}
    begun = time.monotonic()
    for portion in retention.prune(setup.installation, overrule, only):
        if portion.workflow and portion.runs:
            gone.setdefault(portion.workflow, Counter())[portion.what] += portion.runs
        if portion.rows:
            time.sleep(max(_PAUSE, (time.monotonic() - begun) / 4))
        begun = time.monotonic()
    return [Plan(name, of[What.LOGS], of[What.EVENTS], of[What.RUNS]) for name, of in gone.items()]


def _demand_known(setup: Setup, names: Collection[str]) -> None:
    """Raise NotFound for a workflow that is neither in the site nor has runs."""
    if not names:
        return
    with setup.installation.database.read() as session:
        known = {*pruning.workflows(session), *setup.installation.site.workflows}
    for name in names:
        if name not in known:
            raise NotFound(f"There is no workflow '{name}', and no run of one.", hint=did_you_mean(name, known))
