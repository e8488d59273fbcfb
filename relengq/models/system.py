# SPDX-License-Identifier: GPL-3.0-or-later
"""Who holds what, who is there, and what schedules have done."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Boolean, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from relengq.models.base import Base


class GroupHolder(Base):
    """The run that holds a concurrency group just now."""

    __tablename__ = "group_holders"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), unique=True)


class Worker(Base):
    """A worker process that has been heard of."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    """Celery's node name."""
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    pool: Mapped[str | None] = mapped_column(String(100))
    queues: Mapped[list[str]]
    concurrency: Mapped[int]
    version: Mapped[str] = mapped_column(String(40))
    revision: Mapped[str | None] = mapped_column(String(64))
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    stopping: Mapped[bool] = mapped_column(Boolean, default=False)


class Lease(Base):
    """A named lease, for the clock's leader."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    holder: Mapped[str] = mapped_column(String(255))
    fence: Mapped[int] = mapped_column(default=0)
    until: Mapped[datetime]


class ScheduleState(Base):
    """What the clock knows of a schedule."""

    __tablename__ = "schedules"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    timing: Mapped[str]
    """Cron or interval with zone, as it was when last seen; a change starts it afresh."""
    since: Mapped[datetime]
    """No due time before this moment is owed: its first sight, or its last edit."""
    last_due: Mapped[datetime | None]
    seen_at: Mapped[datetime]


class ScheduleFire(Base):
    """What became of one due time of one schedule. The key makes a start happen once."""

    __tablename__ = "schedule_fires"

    schedule: Mapped[str] = mapped_column(String(200), primary_key=True)
    due_at: Mapped[datetime] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(String(16))
    """started, skipped, missed or refused."""
    run_id: Mapped[str | None] = mapped_column(String(16))
    note: Mapped[str | None]
    at: Mapped[datetime]

    __table_args__ = (Index("ix_schedule_fires_due", "due_at", "schedule"),)
