# SPDX-License-Identifier: GPL-3.0-or-later
"""Hand kept messages to the runs that wait for them: each run in a transaction of its own, with the run locked."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import select

from relengq.engine.advance import answer
from relengq.engine.installation import Installation
from relengq.models import Run, Step
from relengq.runs.attempts import queued_runs
from relengq.states import StepState


def deliver(installation: Installation, kept: Mapping[str, Collection[int]]) -> set[str]:
    """Let each of these runs look at these rows of kept messages. Returns the runs whose attempts are to be sent.

    The rows must have been committed. A run whose step begins to wait just now holds its lock until it has looked
    itself, so it is locked before it is asked whether it waits. Raises DatabaseUnavailable.
    """
    queued: set[str] = set()
    for run_id in sorted(_worth_locking(installation, kept)):
        with installation.database.write() as session:
            run = session.scalar(select(Run).where(Run.id == run_id).with_for_update())
            if run is None or run.state.final:
                continue
            answer(session, installation, run, installation.database.now(session), kept[run_id])
            session.flush()
            queued |= queued_runs(session)
    return queued


def _worth_locking(installation: Installation, run_ids: Collection[str]) -> set[str]:
    """The runs to lock: with SQLite those that wait, since no other transaction was under way at the commit."""
    if not installation.database.sqlite or not run_ids:
        return set(run_ids)
    with installation.database.read() as session:
        waiting = select(Step.run_id).where(
            Step.run_id.in_(run_ids), Step.kind == "wait_for", Step.state == StepState.WAITING
        )
        return set(session.scalars(waiting))
