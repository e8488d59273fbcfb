# SPDX-License-Identifier: GPL-3.0-or-later
"""Repeat a run: the whole, from a step on, or from where it ended; the rest is kept with its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from sqlalchemy.orm import Session

from relengq.documents import Json
from relengq.engine.advance import left_out
from relengq.engine.installation import Installation
from relengq.engine.start import Repeat, Started, Trigger, commit, first_steps, order
from relengq.errors import NotFound, Refused, UsageFault, WrongState, did_you_mean
from relengq.models import Run, Step
from relengq.runs.create import NewStep
from relengq.runs.definitions import workflow_of
from relengq.states import StepState
from relengq.workflows import Workflow

Which = Literal["same", "latest"]


def rerun(
    installation: Installation,
    run_id: str,
    *,
    trigger: Trigger,
    from_step: str | None = None,
    failed: bool = False,
    revision: Which = "same",
) -> Started:
    """Start a new run that names ``run_id`` as its origin, with the same inputs.

    ``from_step`` keeps the steps before that one; ``failed`` keeps every step and matrix instance that succeeded
    before the first failure, or before the run was stopped, and where only ``finally`` failed the whole chain. ``same``
    repeats the workflow and the content that the run was bound to, ``latest`` takes the site as it is now.

    Who may see what ``latest`` makes of the run's inputs and outputs is for the workflow of now to say: the caller has
    asked whether the person may read the run. Raises NotFound, WrongState, Refused, UsageFault or SiteFault.
    """
    with installation.database.read() as session:
        origin = _origin(session, run_id)
        if not origin.state.final:
            raise WrongState(f"Run {origin.id} is still {origin.state}.", hint="Cancel it, or wait until it is over.")
        workflow = workflow_of(origin) if revision == "same" else installation.site.workflow(origin.workflow)
        steps = _steps(origin, workflow, from_step, failed)
    commit_of, dirty = _revision(installation, origin, revision)
    repeat = Repeat(origin.id, "failed" if failed else from_step, steps, commit_of, dirty)
    sealed = installation.secrets.open(origin.sealed_inputs)
    _refuse_unsealing(origin, workflow, sealed)
    return commit(installation, order(installation, workflow, {**origin.inputs, **sealed}, repeat), trigger)


def _refuse_unsealing(origin: Run, workflow: Workflow, sealed: Mapping[str, Json]) -> None:
    """Raise Refused when the workflow would have a secret value in clear."""
    for name, value in sealed.items():
        if name in workflow.inputs and not workflow.inputs[name].secret and value not in ("", []):
            same = "" if origin.dirty else ", or use --revision same"
            raise Refused(
                f"Input '{name}' of run {origin.id} is secret, and workflow {workflow.name} no longer says so: a rerun "
                "would store it in clear.",
                hint=f"Declare it with 'secret: true' again{same}.",
            )


def usual_revision(installation: Installation, run_id: str) -> Which:
    """What a rerun takes when nobody says: the same, or the latest where the same cannot be had again.

    That is so when the run was played from a site with uncommitted changes. Raises NotFound.
    """
    with installation.database.read() as session:
        return "latest" if _origin(session, run_id).dirty else "same"


def _origin(session: Session, run_id: str) -> Run:
    origin = session.get(Run, run_id)
    if origin is None:
        raise NotFound(f"There is no run {run_id}.", hint="See 'relengq runs'.")
    return origin


def _revision(installation: Installation, origin: Run, revision: Which) -> tuple[str | None, bool]:
    if revision == "same" and not origin.dirty:
        return origin.revision, False
    now = installation.revision()
    if revision == "same" and now is not None and origin.dirty:
        raise Refused(
            f"Run {origin.id} was played from a site with uncommitted changes, which cannot be had again.",
            hint="Use --revision latest.",
        )
    return (now.commit, now.dirty) if now else (None, False)


def _steps(origin: Run, workflow: Workflow, from_step: str | None, failed: bool) -> tuple[NewStep, ...]:
    fresh = first_steps(workflow)
    names = [step.name for step in fresh if not step.final]
    if failed:
        begin = _first_without_result(origin)
    elif from_step is not None:
        begin = from_step
    else:
        return fresh
    if begin in {step.name for step in fresh if step.final}:
        raise UsageFault(f"Step '{begin}' belongs to finally, which every run plays.", hint="Name a step of the chain.")
    if begin is not None and begin not in names:
        raise NotFound(f"Workflow {workflow.name} has no step '{begin}'.", hint=did_you_mean(begin, names))
    steps: list[NewStep] = []
    for step in fresh:
        rows = [row for row in origin.steps if row.name == step.name and not row.final]
        if step.final or (begin is not None and step.position > names.index(begin)):
            steps.append(step)
        elif step.name == begin:
            steps += _begun(step, rows) if failed else [step]
        else:
            steps += _kept(origin, step, rows)
    return tuple(steps)


def _first_without_result(origin: Run) -> str | None:
    """The first step of the chain that failed or was not reached; None when that is so of ``finally`` alone."""
    for row in sorted(origin.steps, key=lambda step: (step.position, step.instance)):
        if not row.final and not _has_result(origin, row):
            return row.name
    if any(row.final and (row.state is StepState.FAILED or not _has_result(origin, row)) for row in origin.steps):
        return None
    raise WrongState(
        f"Run {origin.id} has no failed step; it {origin.state}.",
        hint="Leave --failed out to repeat the whole run.",
    )


def _has_result(origin: Run, row: Step) -> bool:
    """Whether the run could go on behind this step: so a rerun may keep it."""
    if row.kept_from or row.state is StepState.SUCCEEDED:
        return True
    if row.state is StepState.SKIPPED:
        return not left_out(row, workflow_of(origin).chain[row.position])
    return row.state is StepState.FAILED and row.allow_failure


def _kept(origin: Run, step: NewStep, rows: Sequence[Step]) -> list[NewStep]:
    if not rows or not all(_has_result(origin, row) for row in rows):
        raise WrongState(
            f"Step '{step.name}' of run {origin.id} has no result to keep.",
            hint=f"Repeat from it or from a step before it: relengq rerun {origin.id} --from {step.name}",
        )
    return [NewStep(step.position, step.name, step.kind, step.final, kept=row) for row in rows]


def _begun(step: NewStep, rows: Sequence[Step]) -> list[NewStep]:
    """The step that failed: of a matrix, only the instances that did not succeed are played again."""
    if not any(row.instance for row in rows):
        return [step]
    return [
        NewStep(step.position, step.name, step.kind, step.final, kept=row)
        if row.state is StepState.SUCCEEDED
        else NewStep(step.position, step.name, step.kind, step.final, instance=row.instance, matrix=row.matrix)
        for row in rows
    ]
