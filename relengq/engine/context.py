# SPDX-License-Identifier: GPL-3.0-or-later
"""What expressions see of a run: ``inputs``, ``outputs``, ``steps``, ``run``, ``site`` and ``matrix``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from relengq.documents import Json
from relengq.models import Run, Step
from relengq.states import StepState

Context = dict[str, Json]
OUTPUTS_LIMIT = 1024 * 1024
"""Bytes of JSON that a step may hand on; more belongs into a file."""


def build(
    run: Run,
    steps: Sequence[Step],
    *,
    site: Path,
    state_dir: Path,
    inputs: Mapping[str, Json] | None = None,
    matrix: Mapping[str, Json] | None = None,
) -> Context:
    """The context of a run as it stands. ``inputs`` are the run's own unless the real values of secrets are needed."""
    context: Context = {
        "inputs": dict(inputs if inputs is not None else run.inputs),
        "outputs": outputs(steps),
        "steps": {name: _step(list(rows)) for name, rows in _by_name(steps)},
        "run": describe(run),
        "site": {"path": str(site), "state_dir": str(state_dir)},
    }
    if matrix is not None:
        context["matrix"] = dict(matrix)
    return context


def describe(run: Run) -> dict[str, Json]:
    """The ``run`` that expressions and playbooks see."""
    return {
        "id": run.id,
        "workflow": run.workflow,
        "state": str(run.state),
        "result": run.result,
        "reason": run.reason,
        "revision": run.revision,
        "trigger": run.trigger_kind,
        "who": run.who,
        "created_at": run.created_at.isoformat(timespec="seconds"),
        "started_at": run.started_at.isoformat(timespec="seconds") if run.started_at else None,
    }


def outputs(steps: Iterable[Step]) -> dict[str, Json]:
    """Outputs by key, later steps winning, and by step. A step's name wins over an equal key.

    A step with a matrix gives each of its keys as a map from the instance's label to the value. Approvals and messages
    are found by their step's name alone.
    """
    flat: dict[str, Json] = {}
    by_step: dict[str, Json] = {}
    for name, rows in _by_name(steps):
        own: dict[str, Json] = {}
        gathered: dict[str, dict[str, Json]] = {}
        for step in rows:
            values = step.outputs or {}
            if step.instance:
                own[step.instance] = values
                if step.kind != "playbook":
                    continue
                for key, value in values.items():
                    gathered.setdefault(key, {})[step.instance] = value
            else:
                own.update(values)
                if step.kind == "playbook":
                    flat.update(values)
        flat.update(gathered)
        by_step[name] = own
    return {**flat, **by_step}


def flat_outputs(steps: Iterable[Step]) -> dict[str, Json]:
    """What a run results in when its workflow does not say: every key that its steps have set."""
    rows = list(steps)
    names = {step.name for step in rows}
    return {key: value for key, value in outputs(rows).items() if key not in names}


def _by_name(steps: Iterable[Step]) -> Iterable[tuple[str, Iterable[Step]]]:
    ordered = sorted(steps, key=lambda step: (step.position, step.instance))
    return groupby(ordered, key=lambda step: step.name)


def _step(rows: Sequence[Step]) -> dict[str, Json]:
    """One step as expressions see it; instances of a matrix are summed up."""
    failed: list[Json] = [row.instance for row in rows if row.state is StepState.FAILED]
    return {
        "state": _overall(rows),
        "failed": failed,
        "succeeded": [row.instance for row in rows if row.state is StepState.SUCCEEDED],
        "skipped": all(row.state is StepState.SKIPPED for row in rows),
        "message": next((row.reason for row in rows if row.state is StepState.FAILED), None),
    }


def _overall(rows: Sequence[Step]) -> str:
    """The state of a step as a whole: its most telling instance's."""
    order = (
        StepState.FAILED, StepState.CANCELLED, StepState.HELD, StepState.RUNNING, StepState.WAITING,
        StepState.QUEUED, StepState.PENDING, StepState.SUCCEEDED, StepState.SKIPPED,
    )  # fmt: skip
    return str(min((row.state for row in rows), key=order.index))
