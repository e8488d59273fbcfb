# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs, their steps and attempts, and all that is kept of them. Only ``runs`` writes their state columns."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Boolean, Float, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from relengq.documents import Json
from relengq.models.base import BIG_KEY, Base
from relengq.states import AttemptState, RunState, StepState


class Definition(Base):
    """A workflow as it stood when runs of it started: a run is never changed by an edit of its file."""

    __tablename__ = "definitions"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of the body as canonical JSON."""
    body: Mapped[dict[str, Json]]


def _partial(name: str, *columns: str, where: str) -> Index:
    """An index of those rows alone for which the condition holds; a query that is to use it says the same."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class Run(Base):
    """One execution of a workflow."""

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    workflow: Mapped[str] = mapped_column(String(200))
    definition_digest: Mapped[str] = mapped_column(ForeignKey("definitions.digest"), index=True)
    state: Mapped[RunState]
    reason: Mapped[str | None]
    """Why it waits, or why it ended as it did."""
    result: Mapped[str | None] = mapped_column(String(16))
    """succeeded, failed or cancelled as soon as the main steps have settled it, before ``finally`` has run."""
    trigger_kind: Mapped[str] = mapped_column(String(16))
    """message, schedule or person."""
    trigger_key: Mapped[str | None] = mapped_column(String(255))
    """What makes a start unique; two starts with one key are one run."""
    trigger: Mapped[dict[str, Json]]
    """What started it: who, schedule and due time, message id and topic."""
    who: Mapped[str] = mapped_column(String(200))
    inputs: Mapped[dict[str, Json]]
    """Checked inputs; secret ones are masked here."""
    sealed_inputs: Mapped[bytes | None]
    """The secret inputs, encrypted with the installation's key."""
    outputs: Mapped[dict[str, Json] | None]
    revision: Mapped[str | None] = mapped_column(String(64))
    """The commit of the site, or None when the site is not in git."""
    dirty: Mapped[bool] = mapped_column(Boolean, default=False)
    """Whether the site had uncommitted changes: the run then plays the working tree, on its host alone."""
    host: Mapped[str | None] = mapped_column(String(255))
    """The host on which it was started."""
    origin_id: Mapped[str | None] = mapped_column(String(16), index=True)
    """The run that this one repeats."""
    origin_from: Mapped[str | None] = mapped_column(String(200))
    """From where it repeats it: a step's name, ``failed``, or None for the whole."""
    group_name: Mapped[str | None] = mapped_column(String(255))
    deadline: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    held: Mapped[bool] = mapped_column(Boolean, default=False)
    """A person put it on hold: what runs goes on, nothing new begins."""
    stop_as: Mapped[str | None] = mapped_column(String(16))
    """Set to make the run stop: the result (cancelled or failed) it gets when nothing of it runs any more."""
    stopped_by: Mapped[str | None] = mapped_column(String(200))
    logs_pruned_at: Mapped[datetime | None]
    """When the output of its attempts was deleted for its age."""
    logs_kept: Mapped[float | None] = mapped_column(Float)
    """For how many seconds after its end it was to be kept."""
    events_pruned_at: Mapped[datetime | None]
    """When what tasks did on hosts was deleted for its age."""
    events_kept: Mapped[float | None] = mapped_column(Float)
    """For how many seconds after its end it was to be kept."""

    definition: Mapped[Definition] = relationship()
    steps: Mapped[list[Step]] = relationship(
        back_populates="run", order_by="(Step.position, Step.instance)", cascade="all, delete-orphan"
    )

    __table_args__ = (
        UniqueConstraint("trigger_key"),
        Index("ix_runs_workflow", "workflow", "id"),
        Index("ix_runs_state", "state", "id"),
        Index("ix_runs_group", "group_name", "state"),
        Index("ix_runs_who", "who", "id"),
        Index("ix_runs_trigger", "trigger_kind", "id"),
        Index("ix_runs_result", "workflow", "state", "id"),
        # What the clock asks for every second must not cost more for what is finished, or waits for something else.
        _partial("ix_runs_deadline", "deadline", where="finished_at IS NULL"),
        _partial("ix_runs_in_line", "group_name", "id", where="started_at IS NULL AND finished_at IS NULL"),
        _partial("ix_runs_logs", "workflow", "id", where="logs_pruned_at IS NULL"),
        _partial("ix_runs_events", "workflow", "id", where="events_pruned_at IS NULL"),
    )


class SpentKey(Base):
    """The trigger key of a run that was pruned: for a while yet, the same start is not made again."""

    __tablename__ = "spent_keys"

    trigger_key: Mapped[str] = mapped_column(String(255), primary_key=True)
    run_id: Mapped[str] = mapped_column(String(16))
    pruned_at: Mapped[datetime] = mapped_column(index=True)


class RunInput(Base):
    """A run's input as text, for ``runs --input key=value``; a list has one row an element."""

    __tablename__ = "run_inputs"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[str] = mapped_column(String(200))

    run: Mapped[Run] = relationship()

    __table_args__ = (Index("ix_run_inputs_value", "name", "value", "run_id"),)


class Step(Base):
    """One step of a run, or one instance of it when it has a matrix."""

    __tablename__ = "steps"

    id: Mapped[int] = mapped_column(BIG_KEY, primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    position: Mapped[int]
    """Place in the chain, from 0; the steps of ``finally`` follow those of ``steps``."""
    instance: Mapped[str] = mapped_column(String(200), default="")
    """Label of the matrix instance (``x86_64``), empty without a matrix."""
    name: Mapped[str] = mapped_column(String(100))
    kind: Mapped[str] = mapped_column(String(16))
    final: Mapped[bool] = mapped_column(Boolean, default=False)
    """Whether it is a step of ``finally``."""
    matrix: Mapped[dict[str, Json] | None]
    state: Mapped[StepState]
    reason: Mapped[str | None]
    """Why it waits, or why it ended as it did: the failing task's message."""
    allow_failure: Mapped[bool] = mapped_column(Boolean, default=False)
    queue: Mapped[str | None] = mapped_column(String(200))
    outputs: Mapped[dict[str, Json] | None]
    failures: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None]
    """When a waiting step times out."""
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    kept_from: Mapped[str | None] = mapped_column(String(16))
    """The run whose result this step keeps instead of repeating it."""

    run: Mapped[Run] = relationship(back_populates="steps")
    attempts: Mapped[list[Attempt]] = relationship(
        back_populates="step", order_by="Attempt.number", cascade="all, delete-orphan"
    )

    __table_args__ = (
        UniqueConstraint("run_id", "position", "instance"),
        Index("ix_steps_state", "state", "due_at"),
    )

    @property
    def label(self) -> str:
        """The name that a person reads: ``createrepo [x86_64]``."""
        return f"{self.name} [{self.instance}]" if self.instance else self.name


class Attempt(Base):
    """One try of one step on one worker."""

    __tablename__ = "attempts"

    id: Mapped[int] = mapped_column(BIG_KEY, primary_key=True, autoincrement=True)
    step_id: Mapped[int] = mapped_column(ForeignKey("steps.id", ondelete="CASCADE"))
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    """From 1 within its step."""
    state: Mapped[AttemptState]
    queue: Mapped[str] = mapped_column(String(200))
    label: Mapped[str] = mapped_column(String(500))
    """What Flower shows: ``nightly-compose: createrepo [x86_64] #1``."""
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    """Not to be enqueued before: a retry's delay."""
    sent_at: Mapped[datetime | None]
    """When it was last handed to the broker; None: still to be sent."""
    sends: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)
    """Goes up with each claim; every write of an attempt names the fence that it holds."""
    claim_token: Mapped[str | None] = mapped_column(String(32))
    """Drawn by who claimed it: a claim whose commit was not heard of is recognised by it."""
    lease_until: Mapped[datetime | None]
    stop_reason: Mapped[str | None] = mapped_column(String(16))
    """Set by others to make the worker stop the play: cancelled."""
    host: Mapped[str | None] = mapped_column(String(255))
    worker: Mapped[str | None] = mapped_column(String(255))
    """Celery's node name."""
    pid: Mapped[int | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    return_code: Mapped[int | None]
    stats: Mapped[dict[str, Json] | None]
    """Ansible's recap by host: ``{host: {ok: 3, changed: 1, failures: 0, …}}``."""
    outputs: Mapped[dict[str, Json] | None]
    message: Mapped[str | None]

    step: Mapped[Step] = relationship(back_populates="attempts")

    __table_args__ = (
        UniqueConstraint("step_id", "number"),
        Index("ix_attempts_unsent", "state", "sent_at", "id"),
        Index("ix_attempts_queue", "queue", "state"),
    )


class Progress(Base):
    """Where a running attempt is just now. Written often, by its worker alone."""

    __tablename__ = "progress"

    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True)
    play: Mapped[str | None]
    task: Mapped[str | None]
    host: Mapped[str | None]
    tasks_done: Mapped[int] = mapped_column(default=0)


class TaskResult(Base):
    """What one Ansible task did on one host."""

    __tablename__ = "task_results"

    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    host: Mapped[str]
    play: Mapped[str]
    task: Mapped[str]
    action: Mapped[str]
    status: Mapped[str] = mapped_column(String(16))
    """ok, changed, failed, unreachable, skipped, ignored or rescued."""
    changed: Mapped[bool]
    started_at: Mapped[datetime | None]
    duration: Mapped[float] = mapped_column(Float)
    """In seconds."""
    message: Mapped[str | None]
    """The message or stderr of a failure."""
    item: Mapped[str | None]


class OutputChunk(Base):
    """A piece of an attempt's output, compressed with Zstandard."""

    __tablename__ = "output_chunks"

    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    """Order within the attempt; gaps are fine: small chunks are merged into large ones at the end."""
    size: Mapped[int]
    """Bytes of UTF-8 before compression."""
    data: Mapped[bytes]


class History(Base):
    """Who or what did what to a run, in order."""

    __tablename__ = "history"

    id: Mapped[int] = mapped_column(BIG_KEY, primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    step_id: Mapped[int | None]
    attempt_id: Mapped[int | None]
    at: Mapped[datetime]
    who: Mapped[str] = mapped_column(String(200))
    """A person's name, or ``relengq``, ``clock``, ``worker HOST``."""
    action: Mapped[str] = mapped_column(String(40))
    before: Mapped[str | None] = mapped_column(String(16))
    after: Mapped[str | None] = mapped_column(String(16))
    note: Mapped[str | None]

    run: Mapped[Run] = relationship()
    step: Mapped[Step | None] = relationship(primaryjoin="foreign(History.step_id) == Step.id")
