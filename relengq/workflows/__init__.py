# SPDX-License-Identifier: GPL-3.0-or-later
"""Workflow files: their keys, as models. One file, ``playbooks/workflows/NAME.yml``, shows everything about one.

The models accept what a file may say by itself. Whether names in it lead somewhere is for ``relengq.site`` to check.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field
from pydantic import Tag as PydanticTag

from relengq.documents import Json
from relengq.durations import Duration, Kept, Pause
from relengq.inputs import COUNT_LIMIT, InputSpec
from relengq.workflows.values import (
    INSTANCE_LIMIT,
    TOPIC_LIMIT,
    Axis,
    BoolOrCondition,
    Condition,
    Event,
    Group,
    Inside,
    Name,
    PlaybookFile,
    Queue,
    Tag,
    Template,
    Topic,
    TopicPattern,
    Variable,
    Word,
    topic_matches,
)

__all__ = [
    "ANNOUNCED",
    "EVENTS",
    "INSTANCE_LIMIT",
    "KINDS",
    "RUN_FINISHED",
    "RUN_STARTED",
    "RUN_WAITING",
    "STEP_EVENTS",
    "STEP_FINISHED",
    "STEP_LIMIT",
    "TOPIC_LIMIT",
    "Announcement",
    "AnyStep",
    "ApprovalStep",
    "MessageTrigger",
    "PlaybookStep",
    "Retention",
    "Retry",
    "Step",
    "WaitForStep",
    "Workflow",
    "kind_of",
    "topic_matches",
]

STEP_LIMIT = 500
"""How many steps a workflow may have, and how many under ``finally``."""
KINDS = ("playbook", "approval", "wait_for")
"""The keys that say what a step is; each step has exactly one of them."""
RUN_STARTED, RUN_FINISHED, RUN_WAITING = "run.started", "run.finished", "run.waiting"
STEP_FINISHED = "step.finished"
EVENTS = (RUN_STARTED, RUN_FINISHED, RUN_WAITING, STEP_FINISHED)
"""The events that a workflow may announce."""
STEP_EVENTS = (STEP_FINISHED, RUN_WAITING)
"""Those of them that one step may announce for itself."""
ANNOUNCED = (RUN_STARTED, RUN_FINISHED)
"""The events that are announced of a workflow that does not say."""


class Part(BaseModel):
    """Any part of a workflow file: keys that it does not have are faults, and no text is taken for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class MessageTrigger(Part):
    """A bus message that starts the workflow."""

    message: TopicPattern = Field(
        description="Topic pattern as in AMQP: '*' stands for one word, '#' for any number of words."
    )
    if_: Condition | None = Field(
        None,
        alias="if",
        description="Condition over msg, topic, headers, id and sent_at. Without it, any message.",
    )
    inputs: dict[Word, Json] = Field(
        {}, description="The run's inputs: values or templates over msg, topic, headers, id and sent_at."
    )
    key: Template | None = Field(
        None,
        description="Template of what makes two messages the same, so that they start one run. Default: its id.",
    )


class Concurrency(Part):
    """How many runs of a group may be under way: one."""

    group: Template = Field(description="Name of the group: a template over inputs and run.")
    when_busy: Literal["queue", "skip", "cancel-running"] = Field(
        "queue", description="What a new run does while another one holds the group."
    )


class Access(Part):
    """Who may do what. Without a key, everybody may."""

    launch: list[Group] | None = Field(None, description="Groups whose members may start, cancel and rerun.")
    logs: list[Group] | None = Field(None, description="Groups whose members may read output and inputs.")


class Retention(Part):
    """For how long what of the workflow's runs is kept, after their end. What is not said is as the settings say."""

    logs: Kept | None = Field(None, description="The output of steps. 0: for ever.")
    events: Kept | None = Field(None, description="What each Ansible task did on each host. 0: for ever.")
    runs: Kept | None = Field(None, description="The runs themselves. 0: for ever.")
    keep: int | None = Field(
        None,
        ge=0,
        description="How many finished runs, however young the others are; skipped ones do not count. 0: all.",
    )


class Retry(Part):
    """When a failed step is tried again."""

    attempts: int = Field(1, ge=1, le=100, description="How often the step is tried in all.")
    delay: Pause = Field(0.0, description="Time between a failure and the next try.")
    backoff: float = Field(1.0, ge=1, le=10, description="What the delay is multiplied with after each try.")
    max_delay: Pause | None = Field(None, description="The longest delay that backoff leads to.")


class Announcement(Part):
    """A bus message of the workflow's own, sent when its step or the run is over."""

    topic: Topic = Field(description="Topic below the configured prefix; a template.")
    body: dict[str, Json] = Field({}, description="The message's body; its strings are templates.")
    when: Condition | None = Field(
        None, description="Condition under which it is sent. Default: the step, or the run, succeeded."
    )


def _kind_of_announcement(value: object) -> str:
    return "event" if isinstance(value, str) else "message"


def _one_or_many(schema: dict[str, Any]) -> None:
    """Let the JSON Schema of a list take a single item as well."""
    one = schema["items"]
    schema["anyOf"] = [{"type": schema.pop("type"), "items": schema.pop("items")}, one]


Announcements = Annotated[
    list[
        Annotated[
            Annotated[Event, PydanticTag("event")] | Annotated[Announcement, PydanticTag("message")],
            Discriminator(_kind_of_announcement),
        ]
    ],
    BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
    Field(json_schema_extra=_one_or_many),
]


class Approval(Part):
    """A person decides whether the run goes on."""

    groups: list[Group] = Field([], description="Groups whose members may decide. Empty: who may launch.")
    timeout: Duration | None = Field(None, description="How long to wait. Without it, for ever.")
    on_timeout: Literal["fail", "continue"] = Field("fail", description="What happens when nobody has decided.")
    note: Template | None = Field(None, description="What the person should know: a template, shown with the question.")


class WaitFor(Part):
    """A bus message that the run waits for. Its body becomes the step's outputs."""

    message: TopicPattern = Field(description="Topic pattern, as for triggers.")
    if_: Condition | None = Field(
        None,
        alias="if",
        description="Condition over msg, topic, headers, id and sent_at, and over what steps see. Without it, any.",
    )
    timeout: Duration | None = Field(None, description="How long to wait. Without it, for ever.")
    fail_if: Condition | None = Field(
        None, description="Condition under which the message that was waited for fails the step; it sees the same."
    )
    on_timeout: Literal["fail", "continue"] = Field("fail", description="What happens when none has come.")


class Step(Part):
    """One link of the chain: what every kind of step may have."""

    name: Name = Field(description="Name, unique in the workflow; outputs and logs are found by it.")
    when: Condition | None = Field(None, description="Condition; the step is skipped when it is false.")
    matrix: dict[Word, Axis] | None = Field(
        None,
        min_length=1,
        max_length=10,
        description="Lists of values; the step runs once for each combination, side by side.",
    )
    allow_failure: BoolOrCondition = Field(
        False, description="Whether the run goes on when the step fails: true, false, or a condition."
    )
    outputs: list[Word] | None = Field(
        None,
        description="Names that the step sets with set_stats. With them, a misspelt use is found by 'check'.",
    )
    announce: Announcements = Field(
        [],
        description="What to announce of the step on the bus: step.finished, run.waiting, or {topic, body, when}.",
    )

    @property
    def kind(self) -> str:
        """Which of KINDS the step is."""
        return next(kind for kind in KINDS if kind in type(self).model_fields)


class PlaybookStep(Step):
    """A step that plays an Ansible playbook on a worker."""

    playbook: PlaybookFile = Field(description="File of the playbook, relative to playbooks/.")
    vars: dict[Variable, Json] = Field({}, description="Extra variables of the playbook; their strings are templates.")
    secrets: list[Word] | None = Field(
        None,
        max_length=100,
        description="Which of the workflow's secrets it gets; ``[]``: none. Default: all of them.",
    )
    queue: Queue | None = Field(None, description="Queue whose workers play it. Default: the workflow's.")
    timeout: Duration | None = Field(None, description="After this time the attempt is stopped and has failed.")
    retry: Retry = Field(Retry(), description="Whether and when a failed attempt is repeated.")
    on_lost: Literal["retry", "hold", "fail"] = Field(
        "retry", description="What happens when the worker is lost: 'hold' for what is not safe to repeat."
    )
    lost_limit: int = Field(3, ge=0, le=100, description="How many lost attempts are repeated before the step fails.")
    inventory: Inside | None = Field(
        None,
        description="Inventory, relative to playbooks/, or a list of hosts with commas. Default: ansible.cfg's.",
    )
    limit: Template | None = Field(
        None,
        description="Hosts that are played (ansible-playbook --limit); a template. It must not be empty. Values in it"
        " are names of hosts or groups: patterns (all, and the signs * ? [ ~ ! &) are for the file's own text, defaults"
        " and choices of inputs included.",
    )
    tags: list[Tag] = Field([], description="Only tasks with one of these tags.")
    skip_tags: list[Tag] = Field([], description="No tasks with one of these tags.")
    verbosity: int = Field(0, ge=0, le=5, description="How many -v Ansible gets.")
    check: bool = Field(False, description="Whether Ansible only says what it would change (--check).")
    diff: bool = Field(False, description="Whether Ansible shows differences of files (--diff).")


class ApprovalStep(Step):
    """A step that waits for a person."""

    approval: Approval = Field(description="Who decides, and how long to wait for it.")


class WaitForStep(Step):
    """A step that waits for a bus message."""

    wait_for: WaitFor = Field(description="Which message, and how long to wait for it.")


def kind_of(value: object) -> str | None:
    """The kind of what may be a step: the one key of KINDS that it has, or None."""
    if isinstance(value, Step):
        return value.kind
    found = [kind for kind in KINDS if kind in value] if isinstance(value, dict) else []
    return found[0] if len(found) == 1 else None


AnyStep = Annotated[
    Annotated[PlaybookStep, PydanticTag("playbook")]
    | Annotated[ApprovalStep, PydanticTag("approval")]
    | Annotated[WaitForStep, PydanticTag("wait_for")],
    Discriminator(
        kind_of,
        custom_error_type="step_kind",
        custom_error_message=f"a step has exactly one of {', '.join(KINDS)}",
    ),
]


class Workflow(Part):
    """A workflow: its inputs, triggers, policies and steps."""

    name: Name = Field(description="The file's name without .yml; not a key of the file.")
    description: str = Field("", max_length=2000, description="What the workflow is for.")
    queue: Queue = Field("default", description="Queue of its steps unless a step says otherwise.")
    inputs: dict[Word, InputSpec] = Field({}, max_length=COUNT_LIMIT, description="Typed inputs, by name.")
    on: list[MessageTrigger] = Field(
        [],
        max_length=100,
        description="Messages that start it. The first entry that a message fits decides: one message, one run.",
    )
    concurrency: Concurrency | None = Field(None, description="Which runs must not be under way at once.")
    access: Access = Field(Access(), description="Who may do what with it.")
    retention: Retention = Field(Retention(), description="For how long its runs are kept.")
    secrets: list[Word] = Field(
        [],
        max_length=100,
        description="Names of secrets of the pools, which its playbooks see as ``relengq.secrets.NAME``.",
    )
    steps: list[AnyStep] = Field(min_length=1, max_length=STEP_LIMIT, description="The chain, in order.")
    finally_: list[AnyStep] = Field(
        [], alias="finally", max_length=STEP_LIMIT, description="Steps that run however the chain ended."
    )
    outputs: dict[Word, Json] = Field(
        {}, description="The run's result: templates over what steps see. Default: all outputs of the steps."
    )
    announce: Announcements = Field(
        list(ANNOUNCED),
        description="What to announce of each run on the bus: run.started, run.finished, run.waiting, step.finished, "
        "or {topic, body, when}. [] announces nothing.",
    )
    timeout: Duration | None = Field(None, description="After this time the run is stopped and has failed.")

    @cached_property
    def chain(self) -> list[Step]:
        """All steps: those of ``steps``, then those of ``finally``."""
        return [*self.steps, *self.finally_]

    def secrets_of(self, step: PlaybookStep) -> list[str]:
        """The names of the secrets that a step gets: the workflow's, unless the step wants fewer."""
        return list(dict.fromkeys(self.secrets if step.secrets is None else step.secrets))

    @cached_property
    def body(self) -> dict[str, Json]:
        """The workflow as it is kept with its runs: what its file says, and its name."""
        body: dict[str, Json] = json.loads(self.model_dump_json(by_alias=True, exclude_defaults=True))
        return {**body, "name": self.name}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the body as canonical JSON."""
        return hashlib.sha256(json.dumps(self.body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @cached_property
    def waits(self) -> dict[int, str]:
        """The topic patterns of its ``wait_for`` steps, by their places in the chain."""
        return {at: step.wait_for.message for at, step in enumerate(self.chain) if isinstance(step, WaitForStep)}
