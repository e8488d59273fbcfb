# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker says when it cannot play: one clear sentence, each."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from relengq.errors import AttemptFault, PlaybookMissing
from relengq.execution import Stop, play
from relengq.states import AttemptState
from tests.support.plays import Collected, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.tasks("- debug: {msg: x}\n")
    return project


def failed(project: Project, **changes: object) -> str:
    outcome, _ = project.play(**changes)
    assert outcome.state is AttemptState.FAILED
    assert outcome.return_code != 0
    assert project.left() == []
    assert outcome.message
    return outcome.message


def refused(project: Project, **changes: object) -> str:
    with pytest.raises(AttemptFault) as caught:
        project.play(**changes)
    assert not project.workdir.is_dir() or project.left() == []
    return str(caught.value)


def test_no_such_playbook(project: Project) -> None:
    with pytest.raises(PlaybookMissing, match=r"The playbook 'gone\.yml' does not exist in .*/playbooks\."):
        project.play(playbook="gone.yml")


def test_no_such_content(project: Project, tmp_path: Path) -> None:
    with pytest.raises(PlaybookMissing, match="does not exist on this worker"):
        project.play(playbooks=tmp_path / "gone")


def test_no_such_inventory(project: Project) -> None:
    assert "The inventory 'prod' does not exist" in refused(project, inventory="prod")


def test_an_inventory_that_cannot_be_read(project: Project) -> None:
    project.file("broken.yml", "all: [not, an, inventory\n")
    assert "No inventory was parsed" in failed(project, inventory="broken.yml")


def test_no_vault_password(project: Project) -> None:
    (project.root / "password").write_text("right")
    secret = project.file("vars.yml", "a: 1\n")
    encrypt(secret, project.root / "password")
    project.tasks("- include_vars: vars.yml\n")
    assert "no vault secrets found" in failed(project)
    project.file("ansible.cfg", "[defaults]\nvault_password_file = gone\n")
    assert "vault password file" in failed(project)
    assert "gone" in failed(project)


def encrypt(path: Path, password: Path) -> None:
    program = Path(sys.executable).with_name("ansible-vault")
    subprocess.run([program, "encrypt", "--vault-password-file", password, path], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- hosts: localhost\n  roles: [gone]\n", "the role 'gone' was not found"),
        ("- hosts: localhost\n  tasks: [\n", "YAML"),
        ("- hosts: localhost\n  tusks: []\n", "tusks"),
        ("- hosts: localhost\n  tasks:\n    - no_such_module: {}\n", "no_such_module"),
        ("not a playbook\n", "playbook"),
    ],
)
def test_a_playbook_that_is_wrong(project: Project, content: str, words: str) -> None:
    project.file("play.yml", content)
    assert words.lower() in failed(project).lower()


def test_no_ansible_playbook(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    message = refused(project, environment={"PATH": str(tmp_path)})
    assert message.startswith("ansible-playbook is not installed on this worker")


def test_a_work_directory_that_cannot_be_written(project: Project, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refused(project, workdir=tmp_path / "file" / "work")
    assert message == f"The work directory {tmp_path}/file/work cannot be written on this worker: Not a directory."


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk(project: Project, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=1", "tmpfs", small], check=False).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        message = refused(project, workdir=small)
        assert message == f"The work directory {small} cannot be written on this worker: No space left on device."
    finally:
        subprocess.run(["umount", small], check=True)


def test_an_environment_that_the_kernel_refuses(project: Project) -> None:
    message = failed(project, environment={"HUGE": "x" * 300_000})
    assert message.startswith("ansible-playbook could not be started: ")
    assert "Argument list too long" in message


def test_a_limit_that_would_read_a_file(project: Project) -> None:
    assert "limit has an '@'" in refused(project, limit="@/etc/passwd")


def test_ansible_that_is_killed(project: Project) -> None:
    killed: list[int] = []

    def kill() -> Stop | None:
        if killed or "TASK" not in sink.text:
            return None
        for guard in psutil.Process().children():
            # Other children of this process may end at any moment.
            with suppress(psutil.NoSuchProcess):
                for reaper in guard.children():
                    for program in reaper.children():
                        program.kill()
                        killed.append(program.pid)
        return None

    sink = Collected()
    project.tasks("- pause: {seconds: 60}\n")
    outcome = play(project.order(timeout=30), sink, kill)
    assert killed
    assert outcome.state is AttemptState.FAILED
    assert outcome.message == "ansible-playbook was ended by a signal: Killed. Was the host out of memory?"
