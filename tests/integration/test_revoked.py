# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker does about a task that Celery revokes or terminates."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import select, update

from relengq import revoked
from relengq.errors import DatabaseUnavailable
from relengq.models import Attempt, History
from relengq.revoked import Cancelling
from relengq.runs.attempts import Claim
from relengq.testing import Bench

MakeBench = Callable[..., Bench]
NODE = f"bench@{socket.gethostname()}"
WORKFLOW = """\
steps:
  - {name: first, playbook: hello.yml, retry: {attempts: 3}}
finally:
  - {name: report, playbook: hello.yml}
"""


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench(tidy=WORKFLOW)


@pytest.fixture
def player() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the worker's pool."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def _claimed(bench: Bench, pid: int) -> Claim:
    bench.start("tidy")
    held = bench.claim()
    assert held is not None
    with bench.installation.database.write() as session:
        session.execute(update(Attempt).where(Attempt.id == held.attempt_id).values(pid=pid))
    return held


def _told(bench: Bench, run_id: str) -> list[tuple[str, str | None]]:
    query = select(History.who, History.note).where(History.run_id == run_id, History.action == "cancel requested")
    with bench.installation.database.read() as session:
        return [(who, note) for who, note in session.execute(query)]


def _cancel(bench: Bench, attempt_id: int, *processes: int, node: str = NODE, terminate: bool = True) -> None:
    Cancelling(bench.installation, node, set(processes), terminate=terminate).run({attempt_id: f"{attempt_id}.1"})


def test_all_workers_hear_it_and_one_cancels(bench: Bench) -> None:
    run_id = bench.start("tidy")
    [parcel] = bench.sent
    for node in (NODE, "other@there", NODE):
        _cancel(bench, parcel.attempt_id, node=node, terminate=False)
    assert bench.run(run_id).state == "cancelled"
    note = f"task {parcel.attempt_id}.1 was revoked through Celery (Flower, or 'celery control')"
    assert _told(bench, run_id) == [("celery", note)]


def test_revoke_leaves_alone_what_is_played(bench: Bench) -> None:
    held = _claimed(bench, os.getpid())
    _cancel(bench, held.attempt_id, terminate=False)
    assert _told(bench, held.run_id) == []
    assert bench.steps(held.run_id)["first"] == "running"


def test_terminate_ends_the_attempt_of_a_process_that_is_gone(bench: Bench, player: subprocess.Popen[bytes]) -> None:
    held = _claimed(bench, player.pid)
    player.kill()
    player.wait()
    _cancel(bench, held.attempt_id, node="other@there")
    assert bench.steps(held.run_id) == {"first": "running", "report": "pending"}, "that worker knows only of the cancel"
    _cancel(bench, held.attempt_id, player.pid)
    assert bench.steps(held.run_id) == {"first": "cancelled", "report": "queued"}
    assert len(_told(bench, held.run_id)) == 1
    bench.play()
    run = bench.run(held.run_id)
    assert (run.state, run.reason) == ("cancelled", "cancelled by celery")
    assert [str(attempt.state) for attempt in run.steps[0].attempts] == ["cancelled"]


def test_terminate_of_what_cleans_up_cancels_the_run(bench: Bench, player: subprocess.Popen[bytes]) -> None:
    bench.start("tidy")
    bench.play()
    held = bench.claim()
    assert held is not None
    with bench.installation.database.write() as session:
        session.execute(update(Attempt).where(Attempt.id == held.attempt_id).values(pid=player.pid))
    player.kill()
    player.wait()
    _cancel(bench, held.attempt_id, player.pid)
    run = bench.run(held.run_id)
    assert bench.steps(held.run_id) == {"first": "succeeded", "report": "cancelled"}
    assert (run.state, run.reason) == ("cancelled", "cancelled by celery")


def test_a_process_that_survives_ends_its_attempt_itself(
    bench: Bench, player: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoked, "_PATIENCE_SECONDS", 0.3)
    held = _claimed(bench, player.pid)
    _cancel(bench, held.attempt_id, player.pid)
    with bench.installation.database.read() as session:
        attempt = session.get_one(Attempt, held.attempt_id)
        assert (attempt.state, attempt.stop_reason) == ("running", "cancelled")


def test_an_attempt_that_has_ended_or_is_unknown_is_left_alone(bench: Bench) -> None:
    run_id = bench.start("tidy")
    first = bench.sent[0].attempt_id
    bench.play(state="failed", message="no disk")
    _cancel(bench, first)
    _cancel(bench, 987_654)
    assert _told(bench, run_id) == []
    assert not bench.run(run_id).state.final


def test_it_waits_for_a_database_that_is_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = bench.start("tidy")
    real, failures = revoked.cancel_attempt, [1, 2]

    def away(*given: object, **named: object) -> object:
        if failures.pop() != 1:
            raise DatabaseUnavailable("gone fishing")
        return real(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(revoked, "cancel_attempt", away)
    monkeypatch.setattr(revoked, "_AWAY_SECONDS", 0.0)
    _cancel(bench, bench.sent[0].attempt_id)
    assert bench.run(run_id).state == "cancelled"


def test_only_tasks_of_our_own_are_meant(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    meant: list[dict[int, str]] = []
    monkeypatch.setattr(revoked, "current", lambda: bench.installation)
    monkeypatch.setattr(Cancelling, "run", lambda self, attempts: meant.append(attempts))
    hostile = ["1", "1.2.3", "-1.2", "9" * 30 + ".1", "1.x", "", "1.1\n", 7, None]
    revoked._cancel(NODE, hostile, set(), terminate=True)
    revoked._cancel(NODE, ["12.3", *hostile], set(), terminate=True)
    assert meant == [{12: "12.3"}]
