# SPDX-License-Identifier: GPL-3.0-or-later
"""``run`` and ``rerun``: start runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import click

from relengq.cli import plan
from relengq.cli.follow import follow
from relengq.cli.given import gather
from relengq.cli.parameters import input_option, json_option, run_argument
from relengq.cli.screen import print_json, warn
from relengq.cli.setup import Setup, pass_setup
from relengq.engine.rerun import rerun, usual_revision
from relengq.engine.start import Started, start
from relengq.errors import UsageFault
from relengq.states import RunState


@click.command("run")
@click.argument("workflow")
@input_option
@click.option(
    "--inputs", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A YAML or JSON file with inputs; -i wins over it.",
)  # fmt: skip
@click.option("--check", "only_check", is_flag=True, help="Check inputs and show what would happen; start nothing.")
@click.option("-f", "--follow", "following", is_flag=True, help="Show it until it is over. Ctrl-C leaves it running.")
@click.option(
    "--request-id",
    metavar="ID",
    help="Whatever you choose: a second start of this workflow with the same id finds the run of the first.",
)
@json_option
@pass_setup
def run_command(
    setup: Setup,
    workflow: str,
    given: tuple[tuple[str, str], ...],
    file: Path | None,
    only_check: bool,
    following: bool,
    request_id: str | None,
    as_json: bool,
) -> int:
    """Start a workflow.

    Required inputs that are not given are asked for on a terminal, secret
    ones without showing them. When the broker is away the run is kept, and
    starts when it is back: a warning says so, and the exit code is still 0.
    A script that may call again after an error gives a --request-id.

    \b
    Example:     relengq run nightly-compose -i release=f44 -i arches=x86_64,aarch64
                 relengq run nightly-compose --inputs f44.yml --follow
                 relengq run deploy -i token=@token.txt
    Exit codes:  2 an input does not fit, 3 no such workflow, 4 you may not;
                 with --follow: 0 the run succeeded, 1 it did not
    """
    found = setup.installation.site
    flow = found.workflow(workflow)
    setup.may_launch(flow, f"start workflow {flow.name}")
    values = gather(flow.inputs, given, file)
    if only_check:
        planned = plan.plan(found, flow, values)
        if as_json:
            print_json(planned)
        else:
            plan.print_plan(setup.screen, planned, f"{setup.person.name} may start it")
        return 0
    started = start(setup.installation, flow.name, values, setup.trigger(request_id))
    return _tell(setup, started, flow.name, following=following, as_json=as_json)


@click.command("rerun")
@run_argument
@click.option("--from", "from_step", metavar="STEP", help="Keep the steps before this one, with their outputs.")
@click.option("--failed", is_flag=True, help="Keep what had succeeded before the run failed or was stopped.")
@click.option(
    "--revision", type=click.Choice(["same", "latest"]),
    help="The workflow and playbooks as they were, or as they are now. Default: same; latest where the run was played "
    "from uncommitted changes.",
)  # fmt: skip
@click.option("-f", "--follow", "following", is_flag=True, help="Show it until it is over. Ctrl-C leaves it running.")
@json_option
@pass_setup
def rerun_command(
    setup: Setup, run: str, from_step: str | None, failed: bool, revision: str | None, following: bool, as_json: bool
) -> int:
    """Start a run again: all of it, from a step, or from where it ended.

    It is a new run, with the same inputs, that names its origin. With the
    latest revision, it is for who may read the first run.

    \b
    Example:     relengq rerun last --failed --follow
                 relengq rerun 0cs --from createrepo --revision latest
    Exit codes:  4 it is not over yet, or you may not;
                 with --follow: 0 the new run succeeded, 1 it did not
    """
    if failed and from_step is not None:
        raise UsageFault("Give either --from or --failed.", hint="See 'relengq rerun --help'.")
    run_id, workflow = setup.find(run)
    which = cast("Literal['same', 'latest']", revision) if revision else usual_revision(setup.installation, run_id)
    setup.may_launch(workflow, f"start workflow {workflow.name}")
    if which == "latest":
        # The file of now says who may read the new run: they see the inputs of the first one, and what is kept of it.
        setup.may_read(workflow, f"repeat a run of workflow {workflow.name} for its readers of now")
    started = rerun(
        setup.installation, run_id, trigger=setup.trigger(), from_step=from_step, failed=failed, revision=which
    )
    return _tell(setup, started, workflow.name, following=following, as_json=as_json)


def _tell(setup: Setup, started: Started, workflow: str, *, following: bool, as_json: bool) -> int:
    """Say what was started, and follow it when that is wanted."""
    if started.broker_away:
        warn(f"run {started.run_id} waits. {started.broker_away}")
    if following and as_json:
        return 0 if follow(setup, started.run_id, as_json=True) is RunState.SUCCEEDED else 1
    if as_json:
        print_json({"run": started.run_id, "workflow": workflow, **_without_id(started)})
    else:
        reason = f" ({started.reason})" if started.reason else ""
        before = "" if started.fresh else " It was started before."
        setup.screen.line(f"Run {started.run_id} of {workflow} is {started.state}{reason}.{before}")
    if not following:
        if not as_json and not started.state.final:
            setup.screen.line(f"Follow it: relengq status {started.run_id} --follow")
        return 0
    return 0 if follow(setup, started.run_id) is RunState.SUCCEEDED else 1


def _without_id(started: Started) -> dict[str, object]:
    return {key: value for key, value in vars(started).items() if key != "run_id"}
