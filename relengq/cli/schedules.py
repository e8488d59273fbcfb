# SPDX-License-Identifier: GPL-3.0-or-later
"""``schedules``: what the clock starts, and what became of it."""

from __future__ import annotations

import click
from rich.text import Text

from relengq.cli.parameters import json_option
from relengq.cli.screen import bold, dim, print_json, state, warn
from relengq.cli.setup import Setup, pass_setup
from relengq.engine import calendar
from relengq.engine.calendar import Fired, ScheduleView
from relengq.engine.leadership import CLOCK, leader
from relengq.errors import NotFound, did_you_mean


@click.command("schedules")
@click.argument("name", required=False)
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="With NAME: so many due times."
)
@json_option
@pass_setup
def schedules_command(setup: Setup, name: str | None, limit: int, as_json: bool) -> None:
    """Show schedules: last, next, and what happened.

    With NAME: what became of the newest due times of that schedule.

    \b
    Example:     relengq schedules
                 relengq schedules nightly-rawhide
    Exit codes:  3 no schedule of that name
    """
    if name is not None:
        _print_fires(setup, name, limit, as_json=as_json)
        return
    views = calendar.overview(setup.installation, setup.installation.now())
    if as_json:
        print_json(views)
    else:
        rows = [_row(setup, view) for view in views]
        empty = f"There is no schedule in {setup.settings.site}/beat."
        setup.screen.table(("SCHEDULE", "WORKFLOW", "WHEN", "NEXT", "LAST", "WHAT HAPPENED"), rows, empty=empty)
    if any(view.schedule.enabled for view in views) and leader(setup.installation, CLOCK) is None:
        warn("no clock runs, so nothing starts; start one: relengq beat, or relengq up.")


def _row(setup: Setup, view: ScheduleView) -> tuple[str | Text, ...]:
    schedule, moment = view.schedule, setup.screen.moment
    zone = "" if schedule.every is not None else f" {schedule.timezone}"
    following: str | Text = moment(view.next_due) if schedule.enabled else dim("off")
    if view.overdue is not None:
        following = Text(f"overdue since {moment(view.overdue)}", style="bold red")
    last = moment(view.last.due_at) if view.last else ""
    return bold(view.name), schedule.workflow, f"{schedule.when}{zone}", following, last, _happened(view)


def _happened(view: ScheduleView) -> Text:
    if view.last is None:
        return dim("nothing yet")
    if view.last.run_id is None:
        return Text.assemble(state(view.last.outcome), f": {view.last.note}" if view.last.note else "")
    outcome = state(view.last_run_state) if view.last_run_state else Text(view.last.outcome)
    return Text.assemble("run ", view.last.run_id, " ", outcome)


def _print_fires(setup: Setup, name: str, limit: int, *, as_json: bool) -> None:
    known = setup.installation.site.schedules
    found = calendar.fires(setup.installation, name, limit)
    if not found and name not in known:
        raise NotFound(f"There is no schedule '{name}'.", hint=did_you_mean(name, known))
    if as_json:
        print_json(found)
        return
    rows = [_fire_row(setup, fired) for fired in found]
    setup.screen.table(("DUE", "WHAT HAPPENED", "RUN", "NOTE"), rows, empty=f"Schedule {name} was never due yet.")


def _fire_row(setup: Setup, fired: Fired) -> tuple[str | Text, ...]:
    return setup.screen.moment(fired.due_at), state(fired.outcome), fired.run_id or "", fired.note or ""
