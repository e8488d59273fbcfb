# SPDX-License-Identifier: GPL-3.0-or-later
"""``status``: one run at a glance."""

from __future__ import annotations

import click

from relengq.cli.follow import follow
from relengq.cli.parameters import json_option, run_argument
from relengq.cli.screen import print_json
from relengq.cli.setup import Setup, pass_setup
from relengq.cli.view import View, advise
from relengq.runs.timeline import timeline
from relengq.states import RunState


@click.command("status")
@run_argument
@click.option(
    "-f", "--follow", "following", is_flag=True, help="Show it until it is over. Ctrl-C leaves the run running."
)
@json_option
@pass_setup
def status_command(setup: Setup, run: str, following: bool, as_json: bool) -> int:
    """Show the steps of a run, and why it waits or failed.

    RUN is a run's id, any unique beginning of it, or 'last'. Durations stand
    beside what the last succeeded runs took (the median of up to 20).

    \b
    Example:     relengq status last
    Exit codes:  with --follow: 0 the run succeeded, 1 it did not
    """
    run_id, _ = setup.find(run)
    if following:
        return 0 if follow(setup, run_id, as_json=as_json) is RunState.SUCCEEDED else 1
    database = setup.installation.database
    with database.read() as session:
        now = database.now(session)
        seen = timeline(session, run_id, now=now).seen(setup.readable)
    if as_json:
        print_json({**vars(seen), "next": advise(seen)})
    else:
        setup.screen.show(View(setup.screen, seen, now).whole())
    return 0
