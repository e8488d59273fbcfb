# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts whose clones of the site are behind, or that have none: each run plays its own commit."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.systems import PATIENCE, System, private_redis, system
from tests.support.waiting import wait_until

IDENTITY = ("-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false")
PLAYBOOK = """\
- name: Say which version this is, before and after a gate
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Wait until the test opens
      ansible.builtin.command:
        argv: [./gate.sh, "{{{{ relengq.inputs.gates }}}}", "{version}"]
    - name: Read it only now
      ansible.builtin.include_vars: version.yml
    - name: Hand the version on
      ansible.builtin.set_stats:
        data: {{version: "{version} {{{{ version }}}}"}}
"""
WORKFLOW = """\
inputs: {gates: {type: string}}
steps: [{name: say, playbook: say.yml}]
"""


def git(where: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *IDENTITY, *arguments], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def release(made: System, version: str) -> None:
    """Push another state of the site."""
    made.write(
        {"playbooks/say.yml": PLAYBOOK.format(version=version), "playbooks/version.yml": f"version: {version}\n"}
    )
    git(made.site, "add", ".")
    git(made.site, "commit", "--quiet", "--message", version)
    git(made.site, "push", "--quiet", "origin", "HEAD:main")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A host where runs are started, and a worker on another one whose clone is never updated."""
    directory = tmp_path_factory.mktemp("hosts")
    files = {"playbooks/workflows/say.yml": WORKFLOW}
    with private_redis(directory / "redis") as broker, system(directory, files, broker.url) as made:
        git(directory, "init", "--quiet", "--bare", "--initial-branch=main", "site.git")
        git(made.site, "init", "--quiet", "--initial-branch=main")
        git(made.site, "remote", "add", "origin", f"file://{directory}/site.git")
        release(made, "zero")
        git(directory, "clone", "--quiet", f"file://{directory}/site.git", "other")
        made.worker(
            name="behind",
            RELENGQ_SITE=str(directory / "other"),
            RELENGQ_STATE_DIR=str(directory / "other-state"),
            RELENGQ_DATABASE_URL=made.installation.settings.database_url,
            RELENGQ_SECRET_KEY_FILE=str(made.installation.settings.secret_key_file),
        )
        yield made


def test_two_runs_play_their_own_commits_at_once_with_a_push_between(running: System) -> None:
    gates = running.gates("push")
    release(running, "one")
    first = running.run("say", gates=str(gates.directory))
    running.reach(first, gates, "one start")
    release(running, "two")
    second = running.run("say", gates=str(gates.directory))
    running.reach(second, gates, "two start")
    assert "one end" not in gates.ledger
    release(running, "three")
    gates.open("one", "two")
    assert (running.wait(first, "succeeded").outputs or {})["version"] == "one one"
    assert (running.wait(second, "succeeded").outputs or {})["version"] == "two two"
    other = running.site.parent / "other"
    assert (other / "playbooks/version.yml").read_text() == "version: zero\n", "the clone there is nobody's to change"


def test_a_commit_that_was_not_pushed_fails_the_attempt_with_that_sentence(running: System) -> None:
    running.write({"playbooks/version.yml": "version: unpushed\n"})
    git(running.site, "commit", "--quiet", "--all", "--message", "unpushed")
    failed = running.wait(running.run("say", gates="/nowhere"), "failed")
    commit = git(running.site, "rev-parse", "HEAD")
    assert f"content revision {commit[:12]} cannot be had from file://" in (failed.reason or "")
    assert "it was not pushed" in (failed.reason or "")


def test_a_host_with_nothing_but_the_remotes_address_serves_a_pool(running: System) -> None:
    running.processes[0].stop(15)
    directory = running.site.parent
    (directory / "bare").mkdir()
    release(running, "four")
    running.worker(
        name="bare",
        RELENGQ_SITE=str(directory / "bare"),
        RELENGQ_STATE_DIR=str(directory / "bare-state"),
        RELENGQ_CONTENT_REMOTE=f"file://{directory}/site.git",
        RELENGQ_HEALTH_FILE="health",
        RELENGQ_DATABASE_URL=running.installation.settings.database_url,
        RELENGQ_SECRET_KEY_FILE=str(running.installation.settings.secret_key_file),
    )
    gates = running.gates("bare")
    gates.open("four")
    run = running.wait(running.run("say", gates=str(gates.directory)), "succeeded")
    assert (run.outputs or {})["version"] == "four four"
    health = directory / "bare-state/health"
    before = health.stat().st_mtime_ns
    wait_until(lambda: health.stat().st_mtime_ns > before, PATIENCE, "the health file is touched again")
