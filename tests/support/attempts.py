# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of a run with one running attempt, for tests of what hangs on an attempt."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, select

from relengq.database import Database
from relengq.models import Attempt, Definition, Run, Step
from relengq.states import AttemptState, RunState, StepState


def running_attempt(database: Database, fence: int = 1) -> int:
    """The id of a new running attempt."""
    now = datetime.now(UTC)
    with database.write() as session:
        number = session.scalar(select(func.count()).select_from(Run)) or 0
        if session.get(Definition, "d") is None:
            session.add(Definition(digest="d", body={}))
            session.flush()
        run = Run(
            id=f"r{number}", workflow="w", definition_digest="d", state=RunState.RUNNING, trigger_kind="person",
            trigger={}, who="me", inputs={}, created_at=now,
        )  # fmt: skip
        step = Step(run=run, position=0, name="s", kind="playbook", state=StepState.RUNNING)
        session.add_all([run, step])
        session.flush()
        attempt = Attempt(
            step=step, run_id=run.id, number=1, state=AttemptState.RUNNING, queue="q", label="w: s #1",
            created_at=now, due_at=now, fence=fence,
        )  # fmt: skip
        session.add(attempt)
        session.flush()
        return attempt.id
