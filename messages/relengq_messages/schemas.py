# SPDX-License-Identifier: GPL-3.0-or-later
"""The schemas of the bodies, in the dialect of JSON Schema that fedora-messaging's own schemas are in (draft 4).

They ask for every field and its type, and let pass what they do not know: a newer relengq may add fields, and whoever
has this version of the package goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

_MOMENT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"


def _is(kind: str, description: str, **more: Any) -> Schema:
    return {"type": kind, "description": description, **more}


def _text(description: str) -> Schema:
    return _is("string", description)


def _name(description: str) -> Schema:
    return _is("string", description, minLength=1)


def _maybe(schema: Schema) -> Schema:
    """The same, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def _moment(description: str) -> Schema:
    return _is("string", description, pattern=_MOMENT)


def _one_of(description: str, *values: str) -> Schema:
    return _is("string", description, enum=list(values))


def _texts(description: str) -> Schema:
    return _is("array", description, items={"type": "string"})


def _flag(description: str) -> Schema:
    return _is("boolean", description)


def _values(description: str) -> Schema:
    return _is("object", description)


def _part(description: str, properties: Mapping[str, Schema]) -> Schema:
    return _is("object", description, properties=dict(properties), required=sorted(properties))


def _body(description: str, properties: Mapping[str, Schema]) -> Schema:
    return {
        "$schema": "http://json-schema.org/draft-04/schema#",
        **_part(description, {**_OF_EVERY_MESSAGE, **properties}),
    }


_OF_EVERY_MESSAGE: dict[str, Schema] = {
    "workflow": _name("The workflow's name."),
    "run": _name("The run's id."),
    "at": _moment("When what the message tells has happened."),
    "url": _maybe(_text("Where the run can be seen; null when the installation has no console.")),
    "trigger": _part(
        "What started the run.",
        {
            "kind": _one_of("message, schedule or person.", "message", "schedule", "person"),
            "message_id": _maybe(_text("Of a message: its id.")),
            "topic": _maybe(_text("Of a message: its topic, with the prefix.")),
            "schedule": _maybe(_text("Of a schedule: its name.")),
            "due": _maybe(_text("Of a schedule: the due time, in ISO 8601.")),
        },
    ),
    "who": _text("Who started the run: a person's name, or what stands for the schedule or the bus."),
    "inputs": _values("The run's inputs. Secret ones are not among them."),
    "groups": _texts("The groups whose members may start and cancel runs of the workflow; empty when everybody may."),
    "revision": _maybe(_text("The commit of the site that the run plays; null when the site is not in git.")),
    "dirty": _flag("Whether the site had changes that were not committed."),
    "origin": _maybe(_text("The id of the run that this one repeats, if it repeats one.")),
    "created_at": _moment("When the trigger made the run."),
    "started_at": _maybe(_moment("When the run began; null when it never did.")),
    "left_out": _texts("Names of fields whose values were too large for a message, and are empty in it."),
}

RUN_STARTED_V1 = _body("A run has begun.", {})

RUN_FINISHED_V1 = _body(
    "A run is over.",
    {
        "result": _one_of("How the run ended.", "succeeded", "failed", "cancelled"),
        "reason": _maybe(_text("Why it ended as it did, in a sentence.")),
        "failed_step": _maybe(
            _part(
                "The first step whose failure made the run fail; null when there is none.",
                {
                    "name": _name("The step's name."),
                    "instance": _text("The label of its matrix instance; empty without a matrix."),
                    "message": _maybe(_text("What went wrong: the failing task's message.")),
                },
            )
        ),
        "outputs": _values("What the run results in."),
        "finished_at": _moment("When the run ended."),
        "stopped_by": _maybe(_text("Who or what cancelled it or stopped it; null when nobody did.")),
    },
)

RUN_WAITING_V1 = _body(
    "A run waits for a person or for a message.",
    {
        "step": _part(
            "The step that waits.",
            {
                "name": _name("The step's name."),
                "instance": _text("The label of its matrix instance; empty without a matrix."),
            },
        ),
        "waits_for": _part(
            "What it waits for.",
            {
                "kind": _one_of("approval or message.", "approval", "message"),
                "groups": _texts("Of an approval: the groups whose members may decide; empty: who may start a run."),
                "topic": _maybe(_text("Of a message: the pattern of its topic.")),
                "note": _maybe(_text("What it waits for, in words; of an approval with what the person should know.")),
                "until": _maybe(_moment("When the wait ends by itself; null: never.")),
            },
        ),
    },
)

STEP_FINISHED_V1 = _body(
    "A step of a run is over.",
    {
        "step": _part(
            "The step.",
            {
                "name": _name("The step's name."),
                "instance": _text("The label of its matrix instance; empty without a matrix."),
                "kind": _name("playbook, approval, wait_for, or a kind that a newer relengq has."),
                "final": _flag("Whether it is a step of finally."),
                "result": _one_of("How the step ended.", "succeeded", "failed", "cancelled"),
                "message": _maybe(_text("Why it ended as it did: the failing task's message, who approved it.")),
                "allowed_to_fail": _flag("Whether the run goes on although the step failed."),
                "attempts": _is("integer", "How often it was tried on a worker.", minimum=0),
                "started_at": _maybe(_moment("When it was first tried, or began to wait; null when it never was.")),
                "finished_at": _moment("When it ended."),
            },
        ),
        "outputs": _values("What the step has handed on."),
    },
)
