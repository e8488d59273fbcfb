# SPDX-License-Identifier: GPL-3.0-or-later
"""An attempt that was taken away: each write that its worker may still make is refused by its number."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from relengq.database import Database
from relengq.engine import execute
from relengq.errors import StaleAttempt
from relengq.execution import TaskOutcome
from relengq.logs import Recorder, store
from relengq.models import Attempt, OutputChunk, Progress, TaskResult
from relengq.presence import Presence
from relengq.runs.attempts import Claim, Ending, WorkerIdentity, renew
from relengq.states import AttemptState
from relengq.testing import Bench

MakeBench = Callable[..., Bench]


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench(one="steps:\n  - {name: only, playbook: hello.yml}\n")


def _claimed(bench: Bench) -> Claim:
    bench.start("one")
    held = bench.claim()
    assert held is not None
    return held


def _lost(bench: Bench, held: Claim) -> None:
    """Its lease runs out, and the clock takes it away."""
    database = bench.installation.database
    with database.write() as session:
        past = database.now(session) - timedelta(seconds=1)
        session.execute(update(Attempt).where(Attempt.id == held.attempt_id).values(lease_until=past))
    bench.tick()
    assert _state(bench, held) == "lost"


def _state(bench: Bench, held: Claim) -> str:
    with bench.installation.database.read() as session:
        return str(session.get_one(Attempt, held.attempt_id).state)


def _rows(bench: Bench) -> list[int]:
    models: tuple[type[OutputChunk | TaskResult | Progress], ...] = (OutputChunk, TaskResult, Progress)
    with bench.installation.database.read() as session:
        return [session.scalar(select(func.count()).select_from(model)) or 0 for model in models]


def test_the_lease_is_not_renewed(bench: Bench) -> None:
    held = _claimed(bench)
    _lost(bench, held)
    database = bench.installation.database
    with pytest.raises(StaleAttempt), database.write() as session:
        renew(session, held, now=database.now(session), lease=timedelta(seconds=30))


def test_output_results_and_progress_are_dropped(bench: Bench) -> None:
    held = _claimed(bench)
    with Recorder(bench.installation.database, held.attempt_id, held.fence) as recorder:
        _lost(bench, held)
        recorder.output("late\n")
        recorder.task(TaskOutcome(1, "h", "p", "t", "a", "ok", False, 0.1, None))
        recorder.progress("p", "t", "h")
    assert recorder.refused
    assert _rows(bench) == [0, 0, 0]


def test_an_ending_changes_nothing(bench: Bench) -> None:
    held = _claimed(bench)
    _lost(bench, held)
    again = bench.claim()
    assert again is not None
    who = WorkerIdentity("late@here", "here", 1)
    assert execute._tell(bench.installation, held, Ending(AttemptState.SUCCEEDED), who) is None
    assert (_state(bench, held), _state(bench, again)) == ("lost", "running")
    assert bench.steps(again.run_id) == {"only": "running"}


@pytest.mark.postgresql
def test_nobody_ends_an_attempt_while_output_is_written_for_it(postgresql_url: str, site: Path, tmp_path: Path) -> None:
    """The look at the fence and the write are one: PostgreSQL lets nobody in between."""
    (site / "playbooks/workflows/one.yml").write_text("steps:\n  - {name: only, playbook: hello.yml}\n")
    bench = Bench(site, tmp_path / "bench", postgresql_url)
    held = _claimed(bench)
    other = Database(postgresql_url)
    done: list[str] = []

    def end() -> None:
        with other.write() as session:
            session.execute(update(Attempt).where(Attempt.id == held.attempt_id).values(state=AttemptState.LOST))
        done.append("ended")

    ending = threading.Thread(target=end)
    with bench.installation.database.write() as session:
        store.check_fence(session, held.attempt_id, held.fence)
        ending.start()
        ending.join(0.5)
        assert ending.is_alive(), "it waits for the row"
        session.add(OutputChunk(**store.chunk(held.attempt_id, 1, b"in time\n")))
        done.append("written")
    ending.join(30)
    assert done == ["written", "ended"]
    other.close()
    bench.close()


def test_a_stopping_worker_interrupts_only_what_its_own_processes_play(bench: Bench) -> None:
    mine, others = _claimed(bench), _claimed(bench)
    node = f"bench@{socket.gethostname()}"
    with bench.installation.database.write() as session:
        session.execute(update(Attempt).where(Attempt.id == others.attempt_id).values(pid=os.getppid()))
    Presence(bench.installation, node, ["default"], 1)._interrupt()
    with bench.installation.database.read() as session:
        reasons = [session.get_one(Attempt, each.attempt_id).stop_reason for each in (mine, others)]
    assert reasons == ["interrupted", None]
