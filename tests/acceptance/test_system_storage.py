# SPDX-License-Identifier: GPL-3.0-or-later
"""A database that is locked, read-only, full or away: it is said in one line, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from relengq import migrations
from relengq.database import Database
from tests.support.processes import Process
from tests.support.servers import PostgreSQLServer, RedisServer, short_directory
from tests.support.servers import running as started
from tests.support.systems import PATIENCE, RELENGQ, System, private_redis, system
from tests.support.waiting import wait_until

FILES = {
    "playbooks/noise.yml": """\
- name: Say something that does not compress
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Wait at the gate
      ansible.builtin.command:
        argv: [./gate.sh, "{{ relengq.inputs.gates }}", first]
    - name: Say it
      ansible.builtin.debug:
        msg: "line {{ item }} {{ lookup('password', '/dev/null', length=20000) }}"
      loop: "{{ range(100) | list }}"
""",
    "playbooks/workflows/noise.yml": """\
inputs:
  gates: {type: string}
steps:
  - {name: noise, playbook: noise.yml}
  - {name: after, playbook: gated.yml, vars: {gate_name: after}}
""",
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


def _complete(running: System, run_id: str) -> bool:
    """Whether the whole output of the noise is stored, in order."""
    output = running.output(run_id)
    places = [output.find(f'"line {number} ') for number in range(100)]
    return -1 not in places and places == sorted(places) and "PLAY RECAP" in output


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


@pytest.mark.postgresql
def test_a_database_server_that_goes_away_under_a_play(tmp_path: Path, broker: RedisServer) -> None:
    with short_directory() as directory:
        server = PostgreSQLServer(directory)
        server.create()
        with started(server):
            database = Database(server.url("postgres"))
            migrations.upgrade(database)
            database.close()
            with system(tmp_path, FILES, broker.url, server.url("postgres")) as running:
                _lose_the_server(running, server)


def _lose_the_server(running: System, server: PostgreSQLServer) -> None:
    worker = running.worker()
    gates = running.gates("away")
    gates.open("after")
    run_id = running.run("noise", gates=str(gates.directory))
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
        running.installation.database.close()
        server.stop()
        told = running.shell.run("runs", code=5).stderr
        assert told.count("\n") == 1
        assert "is not available" in told
        gates.open("first")
        wait_until(lambda: "first end" in gates.ledger, PATIENCE, "the play goes on")
        server.start()
        server.ready()
        running.wait(run_id, "succeeded")
        assert _complete(running, run_id)
        assert [line.state for line in running.attempts(run_id)] == ["succeeded", "succeeded"]
        assert worker.running
        wait_until(lambda: following.returncode is not None, PATIENCE)
        assert "Following goes on when it is back" in following.log
        assert '"line 99 ' in following.log
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
