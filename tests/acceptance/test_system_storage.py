# SPDX-License-Identifier: GPL-3.0-or-later
"""A database that is locked, read-only, full or away: it is said in one line, and nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from relengq.runs import results
from tests.support.processes import Process
from tests.support.servers import PostgreSQLServer, RedisServer, short_directory
from tests.support.servers import running as started
from tests.support.systems import PATIENCE, RELENGQ, System, private_redis, system
from tests.support.waiting import wait_until

SAYS = """\
- name: Say much once the gate is open
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Wait at the gate
      ansible.builtin.command:
        argv: [./gate.sh, "{{{{ relengq.inputs.gates }}}}", first]
    - name: Say it
      ansible.builtin.debug:
        msg: "line {{{{ item }}}} {{{{ {text} }}}}"
      loop: "{{{{ range({times}) | list }}}}"
"""
WORKFLOW = """\
inputs:
  gates: {{type: string}}
steps:
  - {{name: noise, playbook: {playbook}}}
  - {{name: after, playbook: gated.yml, vars: {{gate_name: after}}}}
"""
FILES = {
    "playbooks/noise.yml": SAYS.format(text="lookup('password', '/dev/null', length=20000)", times=100),
    "playbooks/chatty.yml": SAYS.format(text="'x' * 60000", times=200)
    + """\
    - name: One task
      ansible.builtin.include_tasks: nothing.yml
      loop: "{{ range(20) | list }}"
""",
    "playbooks/nothing.yml": "- {name: Say nothing, ansible.builtin.debug: {msg: ''}}\n",
    "playbooks/workflows/chatty.yml": WORKFLOW.format(playbook="chatty.yml"),
    "playbooks/workflows/noise.yml": WORKFLOW.format(playbook="noise.yml"),
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with private_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, Process]]:
    """A database that somebody has locked, and a person who tries to start a run: that takes its twenty seconds."""
    directory = tmp_path_factory.mktemp("locked")
    with (
        system(directory, FILES, "redis://127.0.0.1:1/0") as running,
        closing(sqlite3.connect(directory / "site" / ".relengq" / "relengq.db", isolation_level=None)) as other,
    ):
        other.execute("BEGIN EXCLUSIVE")
        yield running, running.process("run", *RELENGQ, "run", "gated", "-i", "gates=x")


def _complete(running: System, run_id: str, lines: int = 100) -> bool:
    """Whether the whole output of the noise is stored, in order and once."""
    output = running.output(run_id)
    found = [int(number) for number in re.findall(r'"line ([0-9]+) ', output)]
    return found == list(range(lines)) and output.count("PLAY RECAP") == 2


def test_a_database_that_is_locked_for_a_while(
    tmp_path: Path, broker: RedisServer, locked: tuple[System, Process]
) -> None:
    with system(tmp_path, FILES, broker.url) as running:
        worker = running.worker()
        gates = running.gates("locked")
        gates.open("after")
        run_id = running.run("noise", gates=str(gates.directory))
        running.reach(run_id, gates, "first start")
        with closing(sqlite3.connect(running.site / ".relengq" / "relengq.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            gates.open("first")
            # Longer than anybody writes, shorter than the lease: the play must go on meanwhile.
            until = time.monotonic() + 5
            wait_until(lambda: "first end" in gates.ledger and time.monotonic() > until, PATIENCE)
            waiting = running.process("run", *RELENGQ, "run", "gated", "-i", f"gates={gates.directory}")
            other.execute("COMMIT")
        running.wait(run_id, "succeeded")
        wait_until(lambda: waiting.returncode is not None, PATIENCE)
        assert waiting.returncode == 0, "who waits for the lock gets it"
        assert _complete(running, run_id)
        assert [line.state for line in running.attempts(run_id)] == ["succeeded", "succeeded"]
        assert worker.running


def test_a_database_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    with system(tmp_path, FILES, "redis://127.0.0.1:1/0") as running:
        running.installation.database.close()
        state = running.site / ".relengq"
        files = [state, *state.iterdir()]
        before = {file: file.stat().st_mode for file in files}
        for file in files:
            file.chmod(0o500 if file.is_dir() else 0o400)
        # Root may write everything, unless it lays that right down.
        humble = (
            ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", "--"] if not os.getuid() else []
        )
        try:
            done = _call(running, humble, "run", "gated", "-i", "gates=x")
        finally:
            for file, mode in before.items():
                file.chmod(mode)
        assert done.returncode == 5, done
        assert "readonly database" in done.stderr or "unable to open" in done.stderr
        assert done.stderr.count("\n") == 1
        assert running.shell.json("runs") == []


def test_a_file_that_may_not_grow_is_said(tmp_path: Path) -> None:
    with system(tmp_path, FILES, "redis://127.0.0.1:1/0") as running:
        done = _call(running, ["prlimit", "--fsize=4096", "--"], "run", "gated", "-i", "gates=x")
        assert done.returncode == 5, done
        assert done.stderr.startswith("relengq: ")
        assert done.stderr.count("\n") == 1
        assert running.shell.json("runs") == [], "the database is as it was"
        assert running.run("gated", gates="x")


def _call(running: System, prefix: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, *RELENGQ, *arguments],
        cwd=running.site,
        env={**os.environ, **running.settings_in_environment, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@contextmanager
def _small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """A file system of a few megabytes, where this user may mount one."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path, broker: RedisServer) -> None:
    with _small_disk(tmp_path / "disk", 16) as disk:
        url = f"sqlite:///{disk}/relengq.db"
        with system(tmp_path, FILES, broker.url, url) as running:
            worker = running.worker()
            gates = running.gates("full")
            gates.open("after")
            run_id = running.run("noise", gates=str(gates.directory))
            running.reach(run_id, gates, "first start")
            ballast = disk / "ballast"
            ballast.write_bytes(b"\0" * max(0, shutil.disk_usage(disk).free - 65536))
            gates.open("first")
            worker.wait_for_log("output.waiting", PATIENCE)
            assert "full" in worker.log
            ballast.unlink()
            running.wait(run_id, "succeeded")
            assert _complete(running, run_id)
            assert [line.state for line in running.attempts(run_id)] == ["succeeded", "succeeded"]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQLServer]:
    """A database server of these tests' own, to be stopped."""
    with short_directory() as directory:
        made = PostgreSQLServer(directory)
        made.create()
        with started(made):
            yield made


@contextmanager
def _on(server: PostgreSQLServer, name: str, directory: Path, broker: RedisServer, **settings: str) -> Iterator[System]:
    """An installation with a database of its own on the server."""
    server.execute(f"CREATE DATABASE {name}")
    with system(directory, FILES, broker.url, server.url(name), **settings) as running:
        yield running


def _lose(running: System, server: PostgreSQLServer) -> None:
    running.installation.database.close()
    server.stop()


def _bring_back(server: PostgreSQLServer) -> None:
    server.start()
    server.ready()


@pytest.mark.postgresql
def test_a_database_server_that_goes_away_under_a_play(
    tmp_path: Path, broker: RedisServer, server: PostgreSQLServer
) -> None:
    with _on(server, "restarted", tmp_path, broker) as running:
        _lose_the_server(running, server)


@pytest.mark.postgresql
def test_a_database_that_is_away_for_longer_than_leases_last(
    tmp_path: Path, broker: RedisServer, server: PostgreSQLServer
) -> None:
    with _on(server, "long_away", tmp_path, broker, RELENGQ_LEASE_SECONDS="6") as running:
        worker, clock = running.worker(), running.clock()
        gates = running.gates("long-away")
        run_id = running.run("gated", gates=str(gates.directory))
        running.reach(run_id, gates, "first start")
        play = gates.waiting("first")
        _lose(running, server)
        try:
            wait_until(lambda: not play.is_running(), PATIENCE, "the worker ends its play before the lease is over")
            worker.wait_for_log("lease.not_renewed", PATIENCE)
            assert gates.ledger == ["first start"]
        finally:
            _bring_back(server)
        running.reach(run_id, gates, "first start", times=2)
        gates.open("first")
        running.wait(run_id, "succeeded")
        assert [line.state for line in running.attempts(run_id)] == ["lost", "succeeded"]
        assert gates.ledger == ["first start", "first start", "first end"]
        assert running.get(run_id).steps[0].failures == 0
        assert worker.running
        assert clock.running


@pytest.mark.postgresql
def test_a_worker_is_stopped_while_the_database_is_away(
    tmp_path: Path, broker: RedisServer, server: PostgreSQLServer
) -> None:
    settings = {"RELENGQ_LEASE_SECONDS": "8", "RELENGQ_STOP_SECONDS": "2"}
    with _on(server, "stopped", tmp_path, broker, **settings) as running:
        worker = running.worker()
        running.clock()
        gates = running.gates("stopped")
        run_id = running.run("gated", gates=str(gates.directory))
        running.reach(run_id, gates, "first start")
        play = gates.waiting("first")
        _lose(running, server)
        try:
            worker.signal(signal.SIGTERM)
            wait_until(lambda: not play.is_running(), PATIENCE, "the worker ends its play before the lease is over")
            assert worker.running, "it has to tell what its play said"
        finally:
            _bring_back(server)
        wait_until(lambda: worker.returncode is not None, PATIENCE, "the worker ended")
        running.worker(name="again")
        running.reach(run_id, gates, "first start", times=2)
        gates.open("first")
        running.wait(run_id, "succeeded")
        assert [line.state for line in running.attempts(run_id)] == ["lost", "succeeded"]
        assert gates.ledger == ["first start", "first start", "first end"]
        assert running.get(run_id).steps[0].failures == 0
        assert running.output(run_id).count("TASK [Wait until the test opens]") == 2


def _spooled(worker: Process) -> int:
    """How many files without a name the worker's processes have open, in the directory of its plays."""
    links = []
    for each in psutil.Process(worker.pid).children(recursive=True):
        with suppress(OSError):
            links += [str(link.readlink()) for link in Path(f"/proc/{each.pid}/fd").iterdir()]
    return len([link for link in links if "/attempts/" in link and link.endswith("(deleted)")])


def _lose_the_server(running: System, server: PostgreSQLServer) -> None:
    worker = running.worker()
    gates = running.gates("away")
    gates.open("after")
    run_id = running.run("chatty", gates=str(gates.directory))
    running.reach(run_id, gates, "first start")
    following = Process(
        [sys.executable, "-m", "relengq", "logs", run_id, "-f"],
        running.site,
        running.settings_in_environment,
        name="tail",
    )
    following.start()
    try:
        following.wait_for_log("Wait at the gate", PATIENCE)
        _lose(running, server)
        told = running.shell.run("runs", code=5).stderr
        assert told.count("\n") == 1
        assert "is not available" in told
        gates.open("first")
        wait_until(lambda: "first end" in gates.ledger, PATIENCE, "the play goes on")
        wait_until(lambda: _spooled(worker) == 1, PATIENCE, "its output waits on the worker's disk")
        for _ in range(2):
            _bring_back(server)
            server.stop()
        _bring_back(server)
        running.wait(run_id, "succeeded")
        assert _complete(running, run_id, 200)
        with running.installation.database.read() as session:
            attempt = running.attempts(run_id)[0].id
            assert [line.task for line in results.tasks(session, [attempt])[attempt]].count("Say nothing") == 20
        assert [line.state for line in running.attempts(run_id)] == ["succeeded", "succeeded"]
        assert worker.running
        wait_until(lambda: following.returncode is not None, PATIENCE)
        assert "Following goes on when it is back" in following.log
        assert [int(each) for each in re.findall(r'"line ([0-9]+) ', following.log)] == list(range(200))
    finally:
        following.stop()


def test_a_database_that_stays_locked_is_said(locked: tuple[System, Process]) -> None:
    running, starting = locked
    assert running.shell.json("runs") == [], "reading goes on"
    wait_until(lambda: starting.returncode is not None, PATIENCE)
    assert starting.returncode == 5
    assert "database is locked" in starting.log
    assert starting.log.count("\n") == 1
    assert running.shell.json("runs") == []
