# SPDX-License-Identifier: GPL-3.0-or-later
"""How large the database is, how far back output goes, and what the next prune deletes."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from relengq.database import Database
from relengq.doctor.findings import Finding, Findings, Level, size
from relengq.engine.installation import Installation
from relengq.engine.retention import plan
from relengq.models import Attempt, OutputChunk, Run

_MANY = 10_000
"""So many runs behind, the clock has not been pruning for a while, or retention was made shorter just now."""


def kept(installation: Installation) -> Findings:
    """One finding on the database's size, and one on what is due to be deleted."""
    database = installation.database
    with database.read() as session:
        held, free = _sizes(database, session)
        oldest = session.scalar(
            select(Run.finished_at)
            .join(Attempt, Attempt.run_id == Run.id)
            .join(OutputChunk, OutputChunk.attempt_id == Attempt.id)
            .order_by(OutputChunk.attempt_id)
            .limit(1)
        )
    parts = [f"the database has {size(held)}"]
    if free is not None:
        parts[0] += f", {size(free)} of it free to be used again"
    if oldest is not None:
        parts.append(f"the oldest output is of {oldest:%Y-%m-%d}")
    yield Finding(Level.OK, "storage", "; ".join(parts))
    due = plan(installation)
    logs, events, runs = (sum(getattr(each, what) for each in due) for what in ("logs", "events", "runs"))
    if max(logs, events, runs) > _MANY:
        yield Finding(
            Level.WARN, "retention", f"to be deleted: output of {logs} runs, events of {events}, and {runs} runs",
            "Is the clock alive? It deletes a little each second; 'relengq prune' does it at once.",
        )  # fmt: skip
    else:
        message = f"the next prune deletes output of {logs} runs, events of {events}, and {runs} runs"
        yield Finding(Level.OK, "retention", message)


def _sizes(database: Database, session: Session) -> tuple[int, int | None]:
    """The bytes that the database has on disk; of SQLite's file those that hold nothing as well."""
    if not database.sqlite:
        return int(session.scalar(text("SELECT pg_database_size(current_database())")) or 0), None
    free = int(session.scalar(text("PRAGMA freelist_count")) or 0) * int(session.scalar(text("PRAGMA page_size")) or 0)
    path = Path(database.url.database or "")
    return path.stat().st_size if path.exists() else 0, free
