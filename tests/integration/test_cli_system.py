# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole system from the command line: real processes, a real embedded broker, real plays."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from redis import Redis

from tests.support.commands import Shell
from tests.support.processes import Process
from tests.support.systems import private_redis
from tests.support.waiting import wait_until


@pytest.fixture
def shell(site: Path) -> Shell:
    """A person in the site's directory, without Flower."""
    (site / "relengq.toml").write_text("flower_port = 0\nstop_seconds = 5\n")
    return Shell(site)


@contextmanager
def up(shell: Shell) -> Iterator[Process]:
    """``relengq up`` in the site, ready; ended by Ctrl-C."""
    process = Process([sys.executable, "-m", "relengq", "up"], shell.site, {"NO_COLOR": "1"}, name="up")
    process.start()
    try:
        process.wait_for_log("relengq is up", 60)
        yield process
        process.signal(signal.SIGINT)
        wait_until(lambda: not process.running, 60, "relengq up to end")
    finally:
        process.stop()


def left_over(site: Path) -> list[str]:
    """Processes that work in the site's directory, or for it."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "pid"]):
        if process.pid != os.getpid() and process.info["cwd"] and process.info["cwd"].startswith(str(site)):
            found.append(" ".join(process.info["cmdline"] or []))
    return found


def test_up_once_plays_a_workflow_and_leaves_nothing_behind(shell: Shell) -> None:
    done = shell.run("up", "--once", "hello")
    assert "hello succeeded" in done.stdout
    assert "All has been stopped" in done.stdout
    run_id = done.stdout.split()[1]
    assert f"relengq status {run_id}" in done.stdout
    wait_until(lambda: not left_over(shell.site), 30, "everything to be gone")
    assert "hello" in shell.run("logs", "last").stdout
    assert "succeeded" in shell.run("runs").stdout


def test_up_once_ends_with_1_when_the_run_fails(shell: Shell) -> None:
    playbook = "- hosts: localhost\n  gather_facts: false\n  tasks: [{ansible.builtin.fail: {msg: no disk}}]\n"
    (shell.site / "playbooks/hello.yml").write_text(playbook)
    done = shell.run("up", "--once", "hello", code=1)
    assert "no disk" in done.stdout
    assert "--failed" in done.stdout
    assert "no disk" in shell.run("logs", "last", "--failed").stdout


def test_up_once_checks_inputs_before_anything_starts(shell: Shell) -> None:
    done = shell.run("up", "--once", "hello", "-i", "nonsense=1", code=2)
    assert "unknown input 'nonsense'" in done.stderr
    assert not (shell.site / ".relengq/broker.sock").exists()
    assert "-i is for the workflow" in shell.run("up", "-i", "a=b", code=2).stderr


def test_a_site_without_pools_says_so(shell: Shell) -> None:
    (shell.site / "workers/default.yml").unlink()
    assert "has no pool" in shell.run("up", code=2).stderr


def test_up_runs_what_others_start_and_stops_with_one_ctrl_c(shell: Shell) -> None:
    with up(shell) as system:
        assert "hello succeeded" in shell.run("run", "hello", "--follow").stdout
        assert "bad" not in shell.run("doctor").stdout
        assert "Another 'relengq up' runs the broker" in shell.run("up", code=4).stderr
        assert system.running
    assert system.returncode == 0, system.log
    wait_until(lambda: not left_over(shell.site), 30, "everything to be gone")


def test_a_run_that_was_started_without_a_broker_is_played_when_it_comes(shell: Shell) -> None:
    shell.run("db", "upgrade")
    told = shell.run("run", "hello")
    assert "does not answer" in told.stderr
    with up(shell):
        shell.run("status", "last", "--follow")
    assert "succeeded" in shell.run("runs").stdout


@pytest.mark.parametrize(
    ("pool", "code", "says"),
    [("defualt", 3, "There is no pool 'defualt'. Did you mean 'default'?"), ("default", 5, "has no tables yet")],
)
def test_a_worker_that_cannot_start_says_why(shell: Shell, pool: str, code: int, says: str) -> None:
    if code == 3:
        shell.run("db", "upgrade")
    assert says in shell.run("worker", pool, code=code).stderr


def test_a_worker_and_a_clock_are_celery_itself(shell: Shell) -> None:
    shell.run("db", "upgrade")
    for verb in ("beat", "flower"):
        assert "Usage: relengq" in shell.run(verb, "--help").stdout
    worker = Process([sys.executable, "-m", "relengq", "worker", "default"], shell.site, name="worker")
    worker.start()
    try:
        wait_until(lambda: "celery" in psutil.Process(worker.pid).cmdline(), 60, "the worker to become Celery")
        words = psutil.Process(worker.pid).cmdline()
        assert words[words.index("-Q") + 1] == "default"
        assert "default@%h" in words
    finally:
        worker.stop()


def test_doctor_does_not_wait_long_for_what_does_not_answer(site: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        broker = Shell(site, {"RELENGQ_BROKER_URL": f"redis://127.0.0.1:{port}/0"})
        assert "does not answer" in broker.run("doctor", code=1, timeout=30).stdout
        database = Shell(site, {"RELENGQ_DATABASE_URL": f"postgresql+psycopg://nobody@127.0.0.1:{port}/none"})
        assert "bad  database" in database.run("doctor", code=1, timeout=30).stdout


def test_doctor_names_a_broker_that_refuses(site: Path) -> None:
    shell = Shell(site, {"RELENGQ_BROKER_URL": "redis://127.0.0.1:1/0"})
    assert "Connection refused" in shell.run("doctor", code=1).stdout


def test_doctor_names_a_broker_that_answers_and_says_no(site: Path, tmp_path: Path) -> None:
    with private_redis(tmp_path / "redis") as broker:
        with Redis.from_url(broker.url) as client:
            client.config_set("maxmemory", "1mb")
        shell = Shell(site, {"RELENGQ_BROKER_URL": broker.url})
        lines = shell.run("doctor", code=1).stdout.splitlines()
    [line] = [each for each in lines if each.startswith("bad  broker: ")]
    assert "used memory > 'maxmemory'" in line


def test_up_says_at_once_that_the_file_of_the_bus_cannot_be_used(site: Path) -> None:
    said = Shell(site, {"RELENGQ_BUS_CONFIG": "missing.toml"}).run("up", code=2).stderr
    assert "There is no" in said
    assert "missing.toml" in said
    assert said.count("\n") == 1
