# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to do with the message bus: waits, kept and parked messages, the outbox, and who listens."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Boolean, Float, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from relengq.documents import Json
from relengq.models.base import BIG_KEY, Base
from relengq.models.runs import Run


class Wait(Base):
    """A ``wait_for`` step of an unfinished run: messages that fit its pattern are kept from the run's beginning on."""

    __tablename__ = "waits"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    """The step's place in the chain."""
    pattern: Mapped[str] = mapped_column(String(255), index=True)
    since: Mapped[datetime]
    """When the run was made. Which messages count by that says ``relengq.engine.waits``."""

    run: Mapped[Run] = relationship()


class KeptMessage(Base):
    """A message that fits the pattern of a ``wait_for`` step. It goes when no run can ask for it any more."""

    __tablename__ = "kept_messages"

    id: Mapped[int] = mapped_column(BIG_KEY, primary_key=True, autoincrement=True)
    message_id: Mapped[str] = mapped_column(String(255), unique=True)
    topic: Mapped[str] = mapped_column(String(255))
    headers: Mapped[dict[str, Json]]
    body: Mapped[bytes]
    """As it came, compressed with Zstandard."""
    encoding: Mapped[str] = mapped_column(String(255))
    received_at: Mapped[datetime] = mapped_column(index=True)


class ParkedMessage(Base):
    """A message that should have started a workflow and could not be used, until a person replays or drops it."""

    __tablename__ = "parked_messages"

    id: Mapped[int] = mapped_column(BIG_KEY, primary_key=True, autoincrement=True)
    message_id: Mapped[str] = mapped_column(String(255))
    workflow: Mapped[str] = mapped_column(String(200))
    topic: Mapped[str] = mapped_column(String(255))
    reason: Mapped[str]
    headers: Mapped[dict[str, Json]]
    body: Mapped[bytes]
    """As it came, compressed with Zstandard."""
    encoding: Mapped[str] = mapped_column(String(255))
    parked_at: Mapped[datetime]
    resolution: Mapped[str | None] = mapped_column(String(16))
    """replayed or dropped; None while it is parked."""
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[str | None] = mapped_column(String(200))
    run_id: Mapped[str | None] = mapped_column(String(16))
    """The run that its replay started, or found."""

    __table_args__ = (
        UniqueConstraint("message_id", "workflow"),
        Index("ix_parked_messages_open", "resolution", "id"),
        Index("ix_parked_messages_resolved", "resolved_at"),
    )


class Announcement(Base):
    """The outbox: a message that was written in the transaction of what it tells, and leaves after it."""

    __tablename__ = "announcements"

    id: Mapped[int] = mapped_column(BIG_KEY, primary_key=True, autoincrement=True)
    message_id: Mapped[str] = mapped_column(String(36), unique=True)
    """The same each time it is sent, so that a repeat can be recognised."""
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    """run.started, run.finished, run.waiting, step.finished, or ``own`` for a workflow's own message."""
    topic: Mapped[str] = mapped_column(String(255))
    """Without the prefix, which the bus's configuration adds."""
    body: Mapped[dict[str, Json]]
    severity: Mapped[int]
    """As fedora-messaging counts: 10 debug, 20 info, 30 warning, 40 error."""
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    """Not to be tried before: grows after each failure."""
    sent_at: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(default=0)
    fault: Mapped[str | None]
    """Why the last try failed."""
    refused: Mapped[bool] = mapped_column(Boolean, default=False)
    """It can never be sent (it does not fit its schema); it is kept to be looked at."""

    __table_args__ = (Index("ix_announcements_unsent", "sent_at", "refused", "id"),)


class Listener(Base):
    """A host that listens to the bus, and what it has done with messages. The counts only grow.

    Each consumed message is counted under one of started, awaited, duplicate, parked and unmatched.
    """

    __tablename__ = "listeners"

    host: Mapped[str] = mapped_column(String(255), primary_key=True)
    pid: Mapped[int]
    version: Mapped[str] = mapped_column(String(40))
    queue: Mapped[str | None] = mapped_column(String(255))
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    stopped: Mapped[bool] = mapped_column(Boolean, default=False)
    trouble: Mapped[str | None]
    """Why it does not consume just now, or which bindings are missing."""
    last_message_at: Mapped[datetime | None]
    lag: Mapped[float | None] = mapped_column(Float)
    """Seconds from the last matched message's ``sent-at`` to its commit."""
    consumed: Mapped[int] = mapped_column(BIG_KEY, default=0)
    started: Mapped[int] = mapped_column(BIG_KEY, default=0)
    awaited: Mapped[int] = mapped_column(BIG_KEY, default=0)
    duplicate: Mapped[int] = mapped_column(BIG_KEY, default=0)
    parked: Mapped[int] = mapped_column(BIG_KEY, default=0)
    unmatched: Mapped[int] = mapped_column(BIG_KEY, default=0)
    runs: Mapped[int] = mapped_column(BIG_KEY, default=0)
    """Runs that messages have started; one message may start several."""

    @property
    def matched(self) -> int:
        """Messages that some workflow or wait was meant for."""
        return self.consumed - self.unmatched
