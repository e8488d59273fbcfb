# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers that are killed or stopped, and brokers that go away: nothing is lost, and nothing runs twice at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from tests.support.processes import Process, alive, ended
from tests.support.servers import RedisServer
from tests.support.systems import PATIENCE, System, private_redis, system
from tests.support.waiting import wait_until

GATED_ON = """\
inputs:
  gates: {{type: string}}
  queue: {{type: string}}
steps:
  - {{name: first, playbook: gated.yml, vars: {{gate_name: first}}, queue: "{{{{ inputs.queue }}}}"{more}}}
  - {{name: second, playbook: gated.yml, vars: {{gate_name: second}}, queue: "{{{{ inputs.queue }}}}"}}
"""
POOLS = ("one", "two", "three", "four")
FILES = {
    "playbooks/workflows/chain.yml": GATED_ON.format(more=""),
    "playbooks/workflows/careful.yml": GATED_ON.format(more=", on_lost: hold"),
    "playbooks/stubborn.yml": """\
- name: Wait at a gate, and do not listen
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Wait until the test opens
      ansible.builtin.shell: trap '' TERM INT HUP; ./gate.sh {{ relengq.inputs.gates | quote }} first
""",
    "playbooks/workflows/stubborn.yml": """\
inputs:
  gates: {type: string}
steps:
  - {name: first, playbook: stubborn.yml, queue: four}
""",
    **{f"workers/{name}.yml": f"queues: [{name}]\nconcurrency: 2\n" for name in POOLS},
}
LEASE = 8
SETTINGS = {"RELENGQ_LEASE_SECONDS": str(LEASE), "RELENGQ_RESEND_SECONDS": "2", "RELENGQ_STOP_SECONDS": "3"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with private_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, broker: RedisServer) -> Iterator[System]:
    """One installation with a clock for the whole module; each test starts its own workers."""
    with system(tmp_path_factory.mktemp("losses"), FILES, broker.url, **SETTINGS) as made:
        made.clock()
        yield made


def test_whatever_is_killed_takes_its_play_with_it_and_the_step_is_played_again(running: System) -> None:
    workers = {name: running.worker(name) for name in ("one", "two", "three")}
    gates = {name: running.gates(f"killed-{name}") for name in workers}
    workflows = {"one": "chain", "two": "chain", "three": "careful"}
    runs = {name: running.run(workflows[name], gates=str(gates[name].directory), queue=name) for name in workers}
    for name, run_id in runs.items():
        running.reach(run_id, gates[name], "first start")
    plays = {name: gates[name].play("first") for name in workers}

    _pool_child(running, runs["one"]).kill()
    os.kill(workers["two"].pid, signal.SIGKILL)
    workers["three"].kill()
    for name, processes in plays.items():
        wait_until(lambda processes=processes: ended(processes), PATIENCE, f"the play of worker {name} is gone")

    replacements = [
        running.worker("two", name="two-again"),
        running.worker("three", name="three-again"),
    ]
    for name in ("one", "two"):
        running.reach(runs[name], gates[name], "first start", times=2)
    held = running.wait(runs["three"], "held")
    assert "lost with its worker" in (held.reason or "")
    assert running.shell.json("status", runs["three"])["steps"][0]["state"] == "held"
    running.shell.run("release", runs["three"], "--note", "looked: nothing was published")
    for name, run_id in runs.items():
        gates[name].open("first", "second")
        running.wait(run_id, "succeeded")
        assert [line.state for line in running.attempts(run_id, "first")] == ["lost", "succeeded"]
        assert "first twice" not in gates[name].ledger
        assert gates[name].ledger.count("first end") == 1
        assert [step.failures for step in running.get(run_id).steps] == [0, 0]
    for each in (workers["one"], *replacements):
        each.stop()


def _pool_child(running: System, run_id: str) -> psutil.Process:
    """The process of the worker's pool that plays the run's step."""
    [step] = [step for step in running.get(run_id).steps if step.state == "running"]
    return psutil.Process(step.attempts[-1].pid)


def test_a_worker_that_freezes_loses_its_play_before_another_begins(running: System) -> None:
    worker = running.worker("one")
    gates = running.gates("frozen")
    run_id = running.run("chain", gates=str(gates.directory), queue="one")
    running.reach(run_id, gates, "first start")
    play = gates.play("first")
    worker.freeze(running.installation.database)
    try:
        other = running.worker("one", name="one-again")
        running.reach(run_id, gates, "first start", times=2)
        assert ended(play), "nobody but the guard could end it"
        gates.open("first", "second")
        running.wait(run_id, "succeeded")
    finally:
        worker.thaw()
    worker.wait_for_log("attempt.taken_away", PATIENCE)
    assert [line.state for line in running.attempts(run_id, "first")] == ["lost", "succeeded"]
    assert gates.ledger == ["first start", "first start", "first end", "second start", "second end"]
    worker.stop()
    other.stop()


def test_a_stopping_worker_lets_steps_end_and_hands_the_rest_back(running: System) -> None:
    worker = running.worker("four")
    quick, slow = running.gates("quick"), running.gates("slow")
    quick_run, slow_run = (running.run("chain", gates=str(gates.directory), queue="four") for gates in (quick, slow))
    running.reach(quick_run, quick, "first start")
    running.reach(slow_run, slow, "first start")
    plays = slow.play("first")

    worker.signal(signal.SIGTERM)
    worker.wait_for_log("Warm shutdown", PATIENCE)
    quick.open("first", "second")
    other = running.worker("four", name="four-again")
    running.reach(slow_run, slow, "first start", times=2)
    assert ended(plays), "the first play ended before the second began"
    wait_until(lambda: worker.returncode is not None, PATIENCE, "the worker ended")
    assert worker.returncode == 0
    slow.open("first", "second")
    for run_id in (quick_run, slow_run):
        running.wait(run_id, "succeeded")
    assert [line.state for line in running.attempts(quick_run, "first")] == ["succeeded"]
    assert [line.state for line in running.attempts(slow_run, "first")] == ["interrupted", "succeeded"]
    assert running.get(slow_run).steps[0].failures == 0
    assert "first twice" not in slow.ledger
    other.stop()


def test_a_worker_that_is_stopped_at_once_hands_back_what_it_played(running: System) -> None:
    worker = running.worker("four")
    gates = running.gates("at-once")
    run_id = running.run("careful", gates=str(gates.directory), queue="four")
    running.reach(run_id, gates, "first start")
    plays = gates.play("first")
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGQUIT):
        worker.signal(number)
        worker.wait_for_log("shutdown", PATIENCE)
    wait_until(lambda: worker.returncode is not None, PATIENCE, "the worker ended")
    assert ended(plays)
    wait_until(lambda: running.attempts(run_id, "first")[0].state == "interrupted", PATIENCE, running.logs)
    assert running.attempts(run_id, "first")[0].message == "Its worker was stopped at once, and the play with it."
    other = running.worker("four", name="four-again")
    gates.open("first", "second")
    running.wait(run_id, "succeeded")
    assert [line.state for line in running.attempts(run_id, "first")] == ["interrupted", "succeeded"]
    assert (running.get(run_id).steps[0].failures, running.get(run_id).steps[0].losses) == (0, 0)
    assert "first twice" not in gates.ledger
    other.stop()


def test_a_worker_that_is_shut_down_by_remote_control_hands_back_too(running: System) -> None:
    """As by Flower's *Shut Down*: Celery itself would wait for its plays, however long they take."""
    worker = running.worker("four", name="shut-down")
    gates = running.gates("shut-down")
    run_id = running.run("chain", gates=str(gates.directory), queue="four")
    running.reach(run_id, gates, "first start")
    play = gates.play("first")
    running.process("control", sys.executable, "-m", "celery", "-A", "relengq", "control", "shutdown")
    wait_until(lambda: ended(play), PATIENCE, "the play is ended")
    gates.open("first", "second")
    wait_until(lambda: worker.returncode is not None, PATIENCE, "the worker ended")
    other = running.worker("four", name="four-again")
    running.wait(run_id, "succeeded")
    assert [line.state for line in running.attempts(run_id, "first")] == ["interrupted", "succeeded"]
    other.stop()


def test_a_play_that_does_not_listen_to_signals_is_handed_back_all_the_same(running: System) -> None:
    worker = running.worker("four")
    gates = running.gates("stubborn")
    run_id = running.run("stubborn", gates=str(gates.directory))
    running.reach(run_id, gates, "first start")
    plays = gates.play("first")
    worker.signal(signal.SIGTERM)
    wait_until(lambda: worker.returncode is not None, PATIENCE, "the worker ended")
    assert ended(plays)
    wait_until(lambda: running.attempts(run_id)[0].state == "interrupted", PATIENCE, running.logs)
    gates.open("first")
    other = running.worker("four", name="four-again")
    running.wait(run_id, "succeeded")
    assert [line.state for line in running.attempts(run_id)] == ["interrupted", "succeeded"]
    assert gates.ledger == ["first start", "first start", "first end"]
    other.stop()


def test_a_worker_is_stopped_while_the_broker_is_away(running: System, broker: RedisServer) -> None:
    worker = running.worker("four")
    gates = running.gates("no-broker")
    run_id = running.run("careful", gates=str(gates.directory), queue="four")
    running.reach(run_id, gates, "first start")
    broker.kill()
    try:
        worker.signal(signal.SIGTERM)
        wait_until(lambda: running.attempts(run_id, "first")[0].state == "interrupted", PATIENCE, running.logs)
        wait_until(lambda: worker.returncode is not None, PATIENCE, "the worker ended")
    finally:
        broker.start()
        broker.ready()
    other = running.worker("four", name="four-again")
    gates.open("first", "second")
    running.wait(run_id, "succeeded")
    assert [line.state for line in running.attempts(run_id, "first")] == ["interrupted", "succeeded"]
    other.stop()


def test_a_broker_that_goes_away_under_a_busy_worker(running: System, broker: RedisServer) -> None:
    worker = running.worker("one")
    busy, kept = running.gates("busy"), running.gates("kept")
    busy_run = running.run("chain", gates=str(busy.directory), queue="one")
    running.reach(busy_run, busy, "first start")

    broker.kill()
    started = running.shell.run("run", "chain", "-i", f"gates={kept.directory}", "-i", "queue=one")
    assert started.stderr.count("\n") == 1
    assert "does not answer" in started.stderr
    assert "are kept and start when it is back" in started.stderr
    kept_run: str = running.shell.json("runs", "-i", f"gates={kept.directory}")[0]["id"]
    assert running.state(kept_run) == "queued"
    busy.open("first")
    wait_until(lambda: running.steps(busy_run)["first"] == "succeeded", PATIENCE, "the step ends without a broker")

    broker.start()
    broker.ready()
    busy.open("second")
    kept.open("first", "second")
    for run_id, gates in ((busy_run, busy), (kept_run, kept)):
        running.wait(run_id, "succeeded")
        assert gates.ledger == ["first start", "first end", "second start", "second end"]
        assert [line.state for line in running.attempts(run_id)] == ["succeeded", "succeeded"]
    assert worker.running
    worker.stop()


def test_a_broker_that_forgets_everything(running: System, broker: RedisServer) -> None:
    gates = [running.gates(f"flushed-{number}") for number in range(3)]
    runs = []
    for each in gates:
        each.open("first", "second")
        runs.append(running.run("chain", gates=str(each.directory), queue="two"))
    reason = running.shell.json("status", runs[0])["steps"][0]["waits"]["reason"]
    assert reason == "nobody serves queue two"
    with redis.Redis.from_url(broker.url) as client:
        assert client.llen("two") >= 3
        client.flushall()
    worker = running.worker("two")
    for run_id, each in zip(runs, gates, strict=True):
        running.wait(run_id, "succeeded")
        assert each.ledger == ["first start", "first end", "second start", "second end"]
    worker.stop()


def test_nothing_is_left_of_any_of_these_workers(running: System, tmp_path: Path) -> None:
    site = str(running.site)
    left = [
        each.info
        for each in psutil.process_iter(["pid", "cmdline", "cwd"])
        if (each.info["cwd"] or "").startswith(site) and "ansible" in " ".join(each.info["cmdline"] or [])
    ]
    assert left == []
    private = running.site / ".relengq" / "attempts"
    assert [each.name for each in private.iterdir()] == []
    workers: list[Process] = [each for each in running.processes if each.log_file.name.startswith("worker")]
    assert not [each.pid for each in workers if alive(each.pid)]
