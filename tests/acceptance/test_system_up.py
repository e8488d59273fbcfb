# SPDX-License-Identifier: GPL-3.0-or-later
"""``relengq init`` and ``relengq up`` on a bare machine: one command, one Ctrl-C, and nothing stays behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.support.commands import Shell
from tests.support.processes import Process, ended
from tests.support.servers import free_port
from tests.support.systems import GATE, GATED_PLAYBOOK, PATIENCE, RELENGQ, Gates
from tests.support.waiting import wait_until


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A person in a site that ``relengq init`` has just made, with one more workflow that waits for the test."""
    told = Shell(tmp_path).run("init", "new").stdout
    assert "relengq up" in told
    site = tmp_path / "new"
    (site / "playbooks/gated.yml").write_text(GATED_PLAYBOOK)
    (site / "playbooks/gate.sh").write_text(GATE)
    (site / "playbooks/gate.sh").chmod(0o755)
    (site / "playbooks/workflows/gated.yml").write_text(
        "inputs:\n  gates: {type: string}\nsteps:\n  - {name: first, playbook: gated.yml, vars: {gate_name: first}}\n"
    )
    settings = {"RELENGQ_FLOWER_PORT": str(free_port()), "RELENGQ_STOP_SECONDS": "1"}
    shell = Shell(site, settings)
    assert "no faults" in shell.run("check").stdout
    return shell


def _up(shell: Shell) -> Process:
    up = Process([*RELENGQ, "up"], shell.site, {"NO_COLOR": "1", **shell.environment}, name="up")
    up.start()
    try:
        up.wait_for_log("relengq is up", 2 * PATIENCE)
    except AssertionError:
        up.kill()
        raise
    return up


def _busy(shell: Shell, gates: Gates) -> str:
    """A run whose play waits for the test."""
    run_id: str = shell.json("run", "gated", "-i", f"gates={gates.directory}")["run"]
    wait_until(lambda: gates.ledger, PATIENCE)
    return run_id


def _family(up: Process) -> list[psutil.Process]:
    root = psutil.Process(up.pid)
    return [root, *root.children(recursive=True)]


def test_a_new_site_comes_up_works_and_stops_with_one_ctrl_c(shell: Shell, tmp_path: Path) -> None:
    gates = Gates(tmp_path / "gates")
    up = _up(shell)
    try:
        done = shell.run("run", "hello", "-i", "name=you", "--follow").stdout
        assert "succeeded" in done
        assert "Hello, you!" in shell.run("logs", "last").stdout
        assert f"http://127.0.0.1:{shell.environment['RELENGQ_FLOWER_PORT']}" in up.log
        busy = _busy(shell, gates)
        family = _family(up)
        assert len(family) > 8
        up.signal(signal.SIGINT)
        wait_until(lambda: ended(family), PATIENCE, "everything has stopped")
        assert up.returncode == 0
    finally:
        up.stop()
    assert not [path for path in (shell.site / ".relengq").rglob("*") if path.is_socket()]
    assert not list((shell.site / ".relengq/attempts").iterdir())
    [step] = shell.json("status", busy)["steps"]
    assert step["state"] == "queued", "what was running was handed back"
    assert "handed back" in step["reason"]

    gates.open("first")
    again = _up(shell)
    try:
        shell.run("status", busy, "--follow")
        assert gates.ledger == ["first start", "first start", "first end"]
        again.signal(signal.SIGTERM)
        wait_until(lambda: again.returncode is not None, PATIENCE)
        assert again.returncode == 0
    finally:
        again.stop()


def test_up_that_is_killed_takes_everything_with_it(shell: Shell, tmp_path: Path) -> None:
    gates = Gates(tmp_path / "gates")
    up = _up(shell)
    try:
        _busy(shell, gates)
        family = _family(up)
        os.kill(up.pid, signal.SIGKILL)
        wait_until(lambda: ended(family), PATIENCE, "nothing of it is left")
    finally:
        up.stop()
    assert not gates.ledger.count("first end")
    second = _up(shell)
    second.signal(signal.SIGINT)
    wait_until(lambda: second.returncode is not None, PATIENCE)
    second.stop()
    assert second.returncode == 0, "it comes up again over what the killed one left"
