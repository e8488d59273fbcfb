# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of output, task results and progress: how they are written so that a repeated write does no harm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from sqlalchemy import Table, delete, func, select, update
from sqlalchemy.orm import Session

from relengq import compression
from relengq.database import insert
from relengq.errors import StaleAttempt
from relengq.models import Attempt, Base, OutputChunk, Progress, TaskResult
from relengq.states import AttemptState

CHUNK_BYTES = 1 << 20
"""Output bytes in one chunk at most, before compression: what a reader has in memory."""
_SMALL_BYTES = CHUNK_BYTES // 2
"""Smaller chunks are merged with their neighbours."""

Column: TypeAlias = "int | float | str | bytes | bool | datetime | None"
Row: TypeAlias = dict[str, Column]


@dataclass(frozen=True)
class Start:
    """Where a recorder begins: after what an earlier claim of the same attempt has left."""

    run_id: str
    chunks: int
    tasks: int


@dataclass
class Batch:
    """What goes into the database in one transaction."""

    chunks: list[Row] = field(default_factory=list)
    tasks: list[Row] = field(default_factory=list)
    progress: Row | None = None


def start(session: Session, attempt_id: int) -> Start:
    """Look where the attempt's rows end. Raises StaleAttempt when there is no such attempt."""
    run_id = session.scalar(select(Attempt.run_id).where(Attempt.id == attempt_id))
    if run_id is None:
        raise StaleAttempt(f"There is no attempt {attempt_id}.")
    chunks = session.scalar(select(func.max(OutputChunk.seq)).where(OutputChunk.attempt_id == attempt_id))
    tasks = session.scalar(select(func.max(TaskResult.seq)).where(TaskResult.attempt_id == attempt_id))
    return Start(run_id, chunks or 0, tasks or 0)


def check_fence(session: Session, attempt_id: int, fence: int) -> None:
    """Raise StaleAttempt when the attempt has ended for the others, or has been claimed again since.

    The row stays locked against both until the transaction ends, so nothing is written after it was looked at.
    """
    query = select(Attempt.fence, Attempt.state).where(Attempt.id == attempt_id).with_for_update(read=True)
    row = session.execute(query).one_or_none()
    if row is None or row.fence != fence or row.state is not AttemptState.RUNNING:
        raise StaleAttempt(f"Attempt {attempt_id} is no longer held under fence {fence}.")


def write(session: Session, batch: Batch) -> None:
    """Write a batch. The keys are fixed beforehand, so writing it once more changes nothing."""
    _upsert(session, OutputChunk, batch.chunks, replace=False)
    _upsert(session, TaskResult, batch.tasks, replace=True)
    _upsert(session, Progress, [batch.progress] if batch.progress else [], replace=True)


def _upsert(session: Session, model: type[Base], rows: Sequence[Row], *, replace: bool) -> None:
    if not rows:
        return
    table = model.__table__
    assert isinstance(table, Table)  # noqa: S101 -- what SQLAlchemy's types cannot say
    keys = [column.name for column in table.primary_key]
    statement = insert(session, table)
    if replace:
        others = {name: statement.excluded[name] for name in rows[0] if name not in keys}
        statement = statement.on_conflict_do_update(index_elements=keys, set_=others)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    session.execute(statement, list(rows))


def chunk(attempt_id: int, seq: int, data: bytes) -> Row:
    """A chunk's row."""
    return {"attempt_id": attempt_id, "seq": seq, "size": len(data), "data": compression.pack(data)}


def unpack(data: bytes, size: int) -> bytes:
    """A chunk's output. Raises ValueError when it is not what was written."""
    output = compression.unpack(data, CHUNK_BYTES * 2)
    if len(output) != size:
        raise ValueError(f"it has {len(output)} bytes instead of {size}")
    return output


def merge(session: Session, attempt_id: int, after: int) -> int | None:
    """Merge the first small chunks after ``after`` into one. The last chunk looked at, None at the end.

    The merged chunk takes the place of the last of them: a reader that has seen some of them finds it behind
    the last that it saw, and skips by size what it knows. A chunk that cannot be read is left alone.
    """
    query = select(OutputChunk.seq, OutputChunk.size).where(OutputChunk.attempt_id == attempt_id)
    group: list[int] = []
    total, last = 0, None
    for seq, size in session.execute(query.where(OutputChunk.seq > after).order_by(OutputChunk.seq)).all():
        if size >= _SMALL_BYTES or total + size > CHUNK_BYTES:
            last = seq if not group else group[-1]
            if group:
                break
            after = seq
            continue
        group.append(seq)
        total += size
    else:
        last = None
    if len(group) > 1:
        _replace(session, attempt_id, group)
    return last


def _replace(session: Session, attempt_id: int, group: Sequence[int]) -> None:
    mine = (OutputChunk.attempt_id == attempt_id, OutputChunk.seq.between(group[0], group[-1]))
    query = select(OutputChunk.data, OutputChunk.size).where(*mine).order_by(OutputChunk.seq)
    try:
        merged = b"".join(unpack(data, size) for data, size in session.execute(query))
    except ValueError:
        return
    row = chunk(attempt_id, group[-1], merged)
    session.execute(delete(OutputChunk).where(*mine, OutputChunk.seq < group[-1]))
    place = (OutputChunk.attempt_id == attempt_id, OutputChunk.seq == group[-1])
    session.execute(update(OutputChunk).where(*place).values(size=row["size"], data=row["data"]))
