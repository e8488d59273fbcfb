# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays whose worker can look after them no more: what is left on disk, and who ends what still runs."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from relengq import presence
from relengq.database import Database
from relengq.engine.installation import Installation
from relengq.execution import Outcome, play, private
from relengq.settings import Settings
from tests.support.plays import Collected, Project, never
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


def test_the_next_play_removes_what_killed_ones_left(project: Project, tmp_path: Path) -> None:
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
            # Guards first: children come in the order of their age. Some die with those before them.
            with suppress(psutil.NoSuchProcess):
                each.kill()
        worker.kill()
        assert b"hunter2" not in b"".join(file.read_bytes() for file in left.rglob("*") if file.is_file())

        project.tasks("- ansible.builtin.debug: {msg: next}")
        project.play()
        assert project.left() == []
        assert not [each.pid for each in tree if alive(each.pid)]
    finally:
        worker.stop()


def _programs(pid: int) -> set[str]:
    names = set()
    for each in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            names.add(each.name())
    return names


def test_a_directory_is_held_from_the_moment_at_which_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "play-left").mkdir()
    (tmp_path / "notes").mkdir()
    with private.private_directory(tmp_path) as held:
        assert private.clear(tmp_path) == []
        assert {each.name for each in tmp_path.iterdir()} == {held.name, "notes"}


def test_nobody_clears_while_a_directory_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    making = tempfile.mkdtemp
    clearing = threading.Thread(target=private.clear, args=(tmp_path,))

    def slow(prefix: str, dir: Path) -> str:  # noqa: A002 -- as it is called
        made = making(prefix=prefix, dir=dir)
        clearing.start()
        clearing.join(0.2)
        assert clearing.is_alive(), "it waits for the lock"
        return made

    monkeypatch.setattr(tempfile, "mkdtemp", slow)
    with private.private_directory(tmp_path) as held:
        clearing.join(30)
        assert held.is_dir()


def test_a_worker_that_starts_clears_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load(tmp_path)
    left = settings.state_dir / "attempts" / "play-left"
    left.mkdir(parents=True)
    installation = Installation(settings, Database(settings.database_url))
    monkeypatch.setattr(presence, "current", lambda: installation)
    monkeypatch.setattr(presence, "require_head", lambda database: None)
    presence._check("a worker", None, None)
    assert not left.exists()


def test_a_play_ends_when_nobody_puts_its_moment_off(project: Project) -> None:
    begun = time.monotonic()
    outcome = _play(project, until=lambda: begun + 2.0)
    assert outcome.state == "failed"
    assert (outcome.return_code or 0) < 0
    assert 2.0 < time.monotonic() - begun < 60


def test_a_play_goes_on_while_its_moment_is_put_off(project: Project) -> None:
    project.tasks("- ansible.builtin.command: sleep 3")
    outcome = _play(project, until=lambda: time.monotonic() + 2.0)
    assert outcome.state == "succeeded"


def _play(project: Project, until: Callable[[], float]) -> Outcome:
    return play(project.order(), Collected(), never, until)
