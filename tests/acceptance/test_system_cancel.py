# SPDX-License-Identifier: GPL-3.0-or-later
"""Cancel reaches a play without the broker, and Celery's own revoke and terminate are cancels."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from relengq.models import History
from tests.support.processes import ended
from tests.support.servers import RedisServer, free_port
from tests.support.systems import PATIENCE, Gates, System, private_redis, system
from tests.support.waiting import busy, wait_until

FILES = {
    "playbooks/workflows/tidy.yml": """\
inputs:
  gates: {type: string}
  queue: {type: string}
steps:
  - {name: first, playbook: gated.yml, vars: {gate_name: first}, queue: "{{ inputs.queue }}"}
  - {name: second, playbook: gated.yml, vars: {gate_name: second}, queue: "{{ inputs.queue }}"}
finally:
  - {name: report, playbook: gated.yml, vars: {gate_name: report}, queue: "{{ inputs.queue }}"}
""",
    "workers/narrow.yml": "queues: [narrow]\nconcurrency: 1\n",
}
CELERY = (sys.executable, "-m", "celery", "-A", "relengq")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with private_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, broker: RedisServer) -> Iterator[System]:
    """An installation with a clock that finds lost attempts only after ten minutes, and two workers of one slot."""
    settings = {"RELENGQ_LEASE_SECONDS": "600", "RELENGQ_RESEND_SECONDS": "2"}
    with system(tmp_path_factory.mktemp("cancel"), FILES, broker.url, **settings) as made:
        made.clock()
        for worker in (made.worker("narrow", name="a"), made.worker("narrow", name="b")):
            worker.wait_for_log("ready.", 4 * PATIENCE)
        yield made


@pytest.fixture(scope="module")
def flower(running: System) -> Iterator[str]:
    """A real Flower whose API anybody may use; gives its address."""
    port = free_port()
    process = running.process(
        "flower", *CELERY, "flower", f"--port={port}", "--address=127.0.0.1", FLOWER_UNAUTHENTICATED_API="1"
    )
    process.wait_for_log("Visit me at", 4 * PATIENCE)
    yield f"http://127.0.0.1:{port}"
    process.stop()


def _begin(made: System, name: str) -> tuple[str, Gates]:
    gates = made.gates(name)
    gates.open("report")
    return made.run("tidy", gates=str(gates.directory), queue="narrow"), gates


def _task_id(made: System, run_id: str) -> str:
    attempt = made.get(run_id).steps[0].attempts[-1]
    return f"{attempt.id}.{attempt.sends}"


def _cancels(made: System, run_id: str) -> list[tuple[str, str | None]]:
    query = select(History.who, History.note).where(History.run_id == run_id, History.action == "cancel requested")
    with made.installation.database.read() as session:
        return [(who, note) for who, note in session.execute(query)]


def _is_cancelled(made: System, run_id: str, gates: Gates, task_id: str, attempts: list[str]) -> None:
    """Once, by Celery; nothing was lost, nothing tried again, and ``finally`` was played."""
    run = made.wait(run_id, "cancelled")
    assert run.reason == "cancelled by celery"
    [(who, note)] = _cancels(made, run_id)
    assert who == "celery"
    assert f"task {task_id} was " in (note or "")
    assert [line.state for line in made.attempts(run_id, "first")] == attempts
    assert made.attempts(run_id, "second") == []
    assert [line for line in gates.ledger if not line.startswith("first start")] == ["report start", "report end"]


def _post(address: str) -> None:
    request = urllib.request.Request(address, method="POST", data=b"")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert "message" in json.load(answer)


def test_terminate_in_flower_cancels_a_run_that_is_played(running: System, flower: str) -> None:
    run_id, gates = _begin(running, "terminated")
    running.reach(run_id, gates, "first start")
    play, task_id = gates.play("first"), _task_id(running, run_id)
    _post(f"{flower}/api/task/revoke/{task_id}?terminate=true")
    told = time.monotonic()
    wait_until(lambda: ended(play), PATIENCE, "the play is gone")
    assert time.monotonic() - told < busy(1.0)
    _is_cancelled(running, run_id, gates, task_id, ["cancelled"])


def test_revoke_in_flower_cancels_a_run_that_waits_and_leaves_one_that_is_played(running: System, flower: str) -> None:
    occupied = [_begin(running, f"occupied-{number}") for number in range(2)]
    for run_id, gates in occupied:
        running.reach(run_id, gates, "first start")
    waiting, waiting_gates = _begin(running, "waiting")
    wait_until(lambda: running.get(waiting).steps[0].attempts[0].sends, PATIENCE, "it was sent")
    task_id = _task_id(running, waiting)
    played, _ = occupied[0]
    _post(f"{flower}/api/task/revoke/{_task_id(running, played)}")
    _post(f"{flower}/api/task/revoke/{task_id}")
    wait_until(lambda: running.state(waiting) == "cancelled", PATIENCE, "it is cancelled while both workers are busy")
    assert _cancels(running, waiting) == [
        ("celery", f"task {task_id} was revoked through Celery (Flower, or 'celery control')")
    ]
    for run_id, gates in occupied:
        gates.open("first", "second")
        running.wait(run_id, "succeeded")
    assert _cancels(running, played) == []
    assert waiting_gates.ledger == []


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_celery_control_terminate(running: System, signal: str) -> None:
    run_id, gates = _begin(running, f"control-{signal}")
    running.reach(run_id, gates, "first start")
    play, task_id = gates.play("first"), _task_id(running, run_id)
    command = running.process(f"control-{signal}", *CELERY, "control", "terminate", signal, task_id)
    wait_until(lambda: command.returncode is not None, PATIENCE, "celery control ends")
    assert "terminate: " in command.log
    wait_until(lambda: ended(play), PATIENCE, "the play is gone")
    _is_cancelled(running, run_id, gates, task_id, ["cancelled"])


def test_a_signal_that_the_process_survives_cancels_as_well(running: System) -> None:
    run_id, gates = _begin(running, "survived")
    running.reach(run_id, gates, "first start")
    task_id = _task_id(running, run_id)
    running.process("control-winch", *CELERY, "control", "terminate", "SIGWINCH", task_id)
    _is_cancelled(running, run_id, gates, task_id, ["cancelled"])


def test_cancel_needs_no_broker_and_two_seconds(running: System, broker: RedisServer) -> None:
    run_id, gates = _begin(running, "cancelled")
    running.reach(run_id, gates, "first start")
    play = gates.play("first")
    broker.kill()
    try:
        running.shell.run("cancel", run_id)
        told = time.monotonic()
        wait_until(lambda: ended(play), PATIENCE, "the play is gone")
        assert time.monotonic() - told < busy(2.0) / 1.5
        wait_until(lambda: running.steps(run_id)["first"] == "cancelled", PATIENCE)
    finally:
        broker.start()
        broker.ready()
    running.wait(run_id, "cancelled")
    assert gates.ledger == ["first start", "report start", "report end"]
