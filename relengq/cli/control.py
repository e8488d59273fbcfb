# SPDX-License-Identifier: GPL-3.0-or-later
"""``cancel``, ``approve``, ``reject``, ``hold`` and ``release``: what persons do to runs. Each is recorded."""

from __future__ import annotations

import click

from relengq import access
from relengq.cli.parameters import note_option, run_argument
from relengq.cli.setup import Setup, pass_setup
from relengq.engine import control
from relengq.errors import NotFound, UsageFault
from relengq.models import Run
from relengq.runs.lookup import hidden_labels
from relengq.workflows import ApprovalStep, Workflow


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

    STEP is needed only when several wait: a step's name, or one instance of a
    step with a matrix, as 'relengq status' shows it.

    \b
    Example:     relengq approve last --note "smoke test looked at"
                 relengq approve 0cs "go [x86_64]"
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

    The step fails, and with it the run unless the step may fail. STEP is needed
    only when several wait, as for 'relengq approve'.

    \b
    Example:     relengq reject last --note "installer crashes"
                 relengq reject 0cs "go [x86_64]"
    Exit codes:  4 nothing waits for approval, or you may not
    """
    _decide(setup, run, step, note, accepted=False)


def _decide(setup: Setup, run: str, step: str | None, note: str | None, *, accepted: bool) -> None:
    """Settle an approval, if the person is in the groups that it names; without any, who may launch may."""
    run_id, workflow = setup.find(run)
    with setup.installation.database.read() as session:
        label, name, shown = _waiting(setup, session.get_one(Run, run_id), workflow, step)
    verb = "approve" if accepted else "reject"
    for version in setup.versions(workflow):
        declared = next((each for each in version.chain if each.name == name), None)
        groups = declared.approval.groups if isinstance(declared, ApprovalStep) else None
        needed = groups or version.access.launch
        access.require(setup.person, setup.settings, needed, f"{verb} step {shown} of run {run_id}")
    control.approve(setup.installation, run_id, label, who=setup.person.name, note=note, accepted=accepted)
    _said(f"Step {shown} of run {run_id} is {'approved' if accepted else 'rejected'}.", run_id)


def _waiting(setup: Setup, run: Run, workflow: Workflow, typed: str | None) -> tuple[str, str, str]:
    """The label and name of the step that waits, and how it is shown to the person.

    Who is none of the run's readers sees numbers in place of matrix instances, and names them by these.
    """
    if setup.may_read_logs(workflow):
        found = control.waiting_approval(run, typed)
        return found.label, found.name, found.label
    labels = hidden_labels((step.name, step.instance) for step in run.steps)
    by_shown = {shown: label for label, shown in labels.items()}
    if typed is not None and typed not in by_shown and typed not in {step.name for step in run.steps}:
        raise NotFound(f"Run {run.id} has no step '{typed}'.", hint=f"See 'relengq status {run.id}'.")
    try:
        found = control.waiting_approval(run, by_shown.get(typed or "", typed))
    except UsageFault:
        raise UsageFault(
            f"Several steps of run {run.id} wait for approval.", hint=f"Name one: see 'relengq status {run.id}'."
        ) from None
    return found.label, found.name, labels[found.label]


def _launcher(setup: Setup, run: str, verb: str) -> str:
    """The run's id, if the person may start and stop runs of its workflow."""
    run_id, workflow = setup.find(run)
    setup.may_launch(workflow, f"{verb} runs of workflow {workflow.name}")
    return run_id


def _said(done: str, run_id: str) -> None:
    click.echo(f"{done} Follow it: relengq status {run_id} --follow")
