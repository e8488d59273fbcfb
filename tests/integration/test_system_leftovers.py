# SPDX-License-Identifier: GPL-3.0-or-later
"""What a play leaves on disk when its worker and its guard are killed together, and who removes it."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from relengq.execution import private
from tests.support.plays import Project
from tests.support.processes import Process, alive
from tests.support.waiting import wait_until

WORKER = """\
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.support.plays import Project
Project(Path(sys.argv[1])).play(variables={{"token": "hunter2"}})
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.tasks("- ansible.builtin.command: sleep 300")
    return project


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories count as abandoned at once."""
    monkeypatch.setattr(private, "_YOUNG", -1.0)


def test_the_next_play_removes_what_killed_ones_left(project: Project, tmp_path: Path, old: None) -> None:
    code = WORKER.format(root=str(Path(__file__).resolve().parents[2]))
    worker = Process([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], tmp_path, name="worker")
    worker.start()
    try:
        wait_until(lambda: list(project.workdir.glob("play-*/guard.pid")), 60)
        [left] = project.workdir.iterdir()
        wait_until(lambda: "sleep" in _programs(worker.pid), 60, "the play runs")
        assert private.clear(project.workdir) == [], "its worker lives"
        tree = psutil.Process(worker.pid).children(recursive=True)
        os.kill(worker.pid, signal.SIGSTOP)
        for each in tree:
            # Guards first: children come in the order of their age.
            each.kill()
        worker.kill()
        assert "hunter2" in (left / "variables.json").read_text()

        project.tasks("- ansible.builtin.debug: {msg: next}")
        project.play()
        assert project.left() == []
        assert not [each.pid for each in tree if alive(each.pid)]
    finally:
        worker.stop()


def _programs(pid: int) -> set[str]:
    return {each.name() for each in psutil.Process(pid).children(recursive=True)}


def test_a_directory_that_was_just_made_is_left_alone(tmp_path: Path) -> None:
    fresh = tmp_path / "play-fresh"
    fresh.mkdir()
    assert private.clear(tmp_path) == []
    assert fresh.is_dir()
    assert time.time() - fresh.stat().st_ctime < 60
