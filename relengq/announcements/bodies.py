# SPDX-License-Identifier: GPL-3.0-or-later
"""The bodies and severities of announcements. ``relengq_messages`` has their schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from relengq.documents import Json
from relengq.models import Run, Step
from relengq.states import RunState, StepState
from relengq.workflows import ApprovalStep, WaitForStep, Workflow

BODY_LIMIT = 1024 * 1024
"""Bytes of JSON of a workflow's own message, and of the inputs or the outputs in any announcement."""
_TEXT_CHARACTERS = 10_000
INFO, WARNING, ERROR = 20, 30, 40
"""Severities, as fedora-messaging counts."""
_SEVERITY_OF: Mapping[str, int] = {"succeeded": INFO, "cancelled": WARNING}

Body = dict[str, Json]


def run_started(run: Run, workflow: Workflow, at: datetime) -> Body:
    """A run has begun."""
    return _about(run, workflow, at)


def run_finished(run: Run, workflow: Workflow, at: datetime, steps: Sequence[Step]) -> tuple[Body, int]:
    """A run is over; with the severity."""
    failed = next((step for step in steps if step.state is StepState.FAILED and not step.allow_failure), None)
    told: Body = {
        "result": str(run.state),
        "reason": _text(run.reason),
        "failed_step": {"name": failed.name, "instance": failed.instance, "message": _text(failed.reason)}
        if failed is not None and run.state is RunState.FAILED
        else None,
        "finished_at": _moment(run.finished_at or at),
        "stopped_by": run.stopped_by,
    }
    return _with_outputs({**_about(run, workflow, at), **told}, run.outputs), _SEVERITY_OF.get(str(run.state), ERROR)


def run_waiting(run: Run, workflow: Workflow, at: datetime, step: Step) -> Body:
    """A step of the run waits for a person or for a message."""
    declared = workflow.chain[step.position]
    approval = isinstance(declared, ApprovalStep)
    groups: list[Json] = list(declared.approval.groups) if isinstance(declared, ApprovalStep) else []
    return {
        **_about(run, workflow, at),
        "step": {"name": step.name, "instance": step.instance},
        "waits_for": {
            "kind": "approval" if approval else "message",
            "groups": groups,
            "topic": declared.wait_for.message if isinstance(declared, WaitForStep) else None,
            "note": _text(step.reason),
            "until": _moment(step.due_at) if step.due_at else None,
        },
    }


def step_finished(run: Run, workflow: Workflow, at: datetime, step: Step) -> tuple[Body, int]:
    """A step is over; with the severity."""
    told: Body = {
        "name": step.name,
        "instance": step.instance,
        "kind": step.kind,
        "final": step.final,
        "result": str(step.state),
        "message": _text(step.reason),
        "allowed_to_fail": step.allow_failure,
        "attempts": len(step.attempts),
        "started_at": _moment(step.started_at) if step.started_at else None,
        "finished_at": _moment(step.finished_at or at),
    }
    severity = _SEVERITY_OF.get(str(step.state), ERROR)
    body = _with_outputs({**_about(run, workflow, at), "step": told}, step.outputs)
    return body, min(severity, WARNING) if step.allow_failure else severity


def size(value: Json) -> int:
    """Bytes of the value as JSON."""
    return len(json.dumps(value))


def _about(run: Run, workflow: Workflow, at: datetime) -> Body:
    """What every announcement says of its run."""
    detail = run.trigger
    shown = {name: value for name, value in run.inputs.items() if _open(workflow, name)}
    fits = size(shown) <= BODY_LIMIT
    groups: list[Json] = list(workflow.access.launch or ())
    return {
        "workflow": run.workflow,
        "run": run.id,
        "at": _moment(at),
        "url": None,
        "trigger": {
            "kind": run.trigger_kind,
            "message_id": _told(detail, "message_id"),
            "topic": _told(detail, "topic"),
            "schedule": _told(detail, "schedule"),
            "due": _told(detail, "due_at"),
        },
        "who": run.who,
        "inputs": shown if fits else {},
        "groups": groups,
        "revision": run.revision,
        "dirty": run.dirty,
        "origin": run.origin_id,
        "created_at": _moment(run.created_at),
        "started_at": _moment(run.started_at) if run.started_at else None,
        "left_out": [] if fits else ["inputs"],
    }


def _open(workflow: Workflow, name: str) -> bool:
    """Whether the input is declared, and not as secret."""
    return name in workflow.inputs and not workflow.inputs[name].secret


def _with_outputs(body: Body, outputs: dict[str, Json] | None) -> Body:
    fits = size(outputs) <= BODY_LIMIT
    left_out = body["left_out"]
    more: list[Json] = [] if fits else ["outputs"]
    before: list[Json] = left_out if isinstance(left_out, list) else []
    return {**body, "outputs": (outputs or {}) if fits else {}, "left_out": [*before, *more]}


def _told(detail: Mapping[str, Json], key: str) -> str | None:
    value = detail.get(key)
    return str(value) if value is not None else None


def _text(text: str | None) -> str | None:
    if text is None or len(text) <= _TEXT_CHARACTERS:
        return text
    return f"{text[:_TEXT_CHARACTERS]}…"


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
