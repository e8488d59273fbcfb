# SPDX-License-Identifier: GPL-3.0-or-later
"""``cancel``, ``approve``, ``reject``, ``hold`` and ``release``: what persons do to runs. Each is recorded."""

from __future__ import annotations

import click

from relengq import access
from relengq.cli.parameters import note_option, run_argument
from relengq.cli.setup import Setup, pass_setup
from relengq.engine import control
from relengq.models import Run
from relengq.workflows import ApprovalStep


@click.command("cancel")
@run_argument
@note_option
@pass_setup
def cancel_command(setup: Setup, run: str, note: str | None) -> None:
    """Cancel a run.

    What is queued is withdrawn, what runs is killed with all that it started;
    the steps of 'finally' still run. Cancel it again to stop those as well.

    \b
    Example:     relengq cancel 0cs --note "wrong release"
    Exit codes:  4 it is over already, or you may not
    """
    run_id = _launcher(setup, run, "cancel")
    control.cancel(setup.installation, run_id, who=setup.person.name, note=note)
    _said(f"Run {run_id} is being cancelled.", run_id)


@click.command("hold")
@run_argument
@note_option
@pass_setup
def hold_command(setup: Setup, run: str, note: str | None) -> None:
    """Let nothing new of a run begin.

    What is running goes on. 'relengq release' lets the run go on.

    \b
    Example:     relengq hold last --note "mirror is down"
    Exit codes:  4 it is over, or held already, or you may not
    """
    run_id = _launcher(setup, run, "hold")
    control.hold(setup.installation, run_id, who=setup.person.name, note=note)
    click.echo(f"Run {run_id} is on hold. Let it go on: relengq release {run_id}")


@click.command("release")
@run_argument
@click.option(
    "--fail", is_flag=True, help="Fail the steps that were lost with their worker instead of playing them again."
)
@note_option
@pass_setup
def release_command(setup: Setup, run: str, fail: bool, note: str | None) -> None:
    """Let a held run go on.

    Steps that are held because their worker was lost (on_lost: hold) are
    played again; look first whether that is safe.

    \b
    Example:     relengq release last --fail --note "it was half published"
    Exit codes:  4 it is not on hold, or you may not
    """
    run_id = _launcher(setup, run, "release")
    control.release(setup.installation, run_id, who=setup.person.name, note=note, fail=fail)
    _said(f"Run {run_id} goes on.", run_id)


@click.command("approve")
@run_argument
@click.argument("step", required=False)
@note_option
@pass_setup
def approve_command(setup: Setup, run: str, step: str | None, note: str | None) -> None:
    """Approve the step that a run waits for.

    STEP is needed only when several wait.

    \b
    Example:     relengq approve last --note "smoke test looked at"
    Exit codes:  4 nothing waits for approval, or you may not
    """
    _decide(setup, run, step, note, accepted=True)


@click.command("reject")
@run_argument
@click.argument("step", required=False)
@note_option
@pass_setup
def reject_command(setup: Setup, run: str, step: str | None, note: str | None) -> None:
    """Reject the step that a run waits for.

    The step fails, and with it the run unless the step may fail.

    \b
    Example:     relengq reject last --note "installer crashes"
    Exit codes:  4 nothing waits for approval, or you may not
    """
    _decide(setup, run, step, note, accepted=False)


def _decide(setup: Setup, run: str, step: str | None, note: str | None, *, accepted: bool) -> None:
    """Settle an approval, if the person is in the groups that it names; without any, who may launch may."""
    run_id, workflow = setup.find(run)
    with setup.installation.database.read() as session:
        found = control.waiting_approval(session.get_one(Run, run_id), step)
        name, position = found.name, found.position
    declared = workflow.chain[position]
    groups = declared.approval.groups if isinstance(declared, ApprovalStep) else None
    verb = "approve" if accepted else "reject"
    needed = groups or workflow.access.launch
    access.require(setup.person, setup.settings, needed, f"{verb} step {name} of run {run_id}")
    control.approve(setup.installation, run_id, name, who=setup.person.name, note=note, accepted=accepted)
    _said(f"Step {name} of run {run_id} is {'approved' if accepted else 'rejected'}.", run_id)


def _launcher(setup: Setup, run: str, verb: str) -> str:
    """The run's id, if the person may start and stop runs of its workflow."""
    run_id, workflow = setup.find(run)
    setup.may_launch(workflow, f"{verb} runs of workflow {workflow.name}")
    return run_id


def _said(done: str, run_id: str) -> None:
    click.echo(f"{done} Follow it: relengq status {run_id} --follow")
