# SPDX-License-Identifier: GPL-3.0-or-later
"""A site in git, whose runs are bound to a commit; and Celery's own programs in a site's directory."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support.servers import free_port
from tests.support.systems import PATIENCE, System, private_redis, system
from tests.support.waiting import wait_until

SAY = """\
- name: Say which version this is
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Hand the version on
      ansible.builtin.set_stats:
        data: {{version: {version}}}
"""
FILES = {
    "playbooks/say.yml": SAY.format(version="first"),
    "playbooks/workflows/say.yml": "steps:\n  - {name: say, playbook: say.yml}\n",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    directory = tmp_path_factory.mktemp("site")
    with private_redis(directory / "redis") as broker, system(directory, FILES, broker.url) as made:
        _git(made, "init", "--quiet")
        _commit(made)
        made.worker()
        yield made


def _git(running: System, *arguments: str) -> str:
    identity = ("-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=running.site, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _commit(running: System) -> str:
    _git(running, "add", ".")
    _git(running, "commit", "--quiet", "--message", "A state of the site")
    return _git(running, "rev-parse", "HEAD")


def _version(running: System, run_id: str) -> object:
    return (running.wait(run_id, "succeeded").outputs or {}).get("version")


def test_a_run_is_bound_to_the_commit_of_its_site(running: System) -> None:
    shell = running.shell
    first = running.run("say")
    commit = _git(running, "rev-parse", "HEAD")
    assert _version(running, first) == "first"
    assert (running.get(first).revision, running.get(first).dirty) == (commit, False)

    running.write({"playbooks/say.yml": SAY.format(version="second")})
    dirty = running.run("say")
    assert _version(running, dirty) == "second", "what is not committed is played as it stands"
    assert running.get(dirty).dirty
    refused = shell.run("rerun", dirty, "--revision", "same", code=4).stderr
    assert "uncommitted changes" in refused

    newer = _commit(running)
    same: str = shell.json("rerun", first)["run"]
    latest: str = shell.json("rerun", first, "--revision", "latest")["run"]
    assert _version(running, same) == "first"
    assert _version(running, latest) == "second"
    assert (running.get(same).revision, running.get(latest).revision) == (commit, newer)
    assert running.get(same).origin_id == first


def test_a_workflow_that_changed_is_repeated_as_it_was(running: System) -> None:
    first = running.run("say")
    running.wait(first, "succeeded")
    running.write({"playbooks/workflows/say.yml": "steps:\n  - {name: speak, playbook: say.yml}\n"})
    _commit(running)
    same: str = running.shell.json("rerun", first)["run"]
    latest: str = running.shell.json("rerun", first, "--revision", "latest")["run"]
    assert running.wait(same, "succeeded").steps[0].name == "say"
    assert running.wait(latest, "succeeded").steps[0].name == "speak"


def test_a_commit_that_is_not_there_fails_the_attempt_with_that_sentence(running: System) -> None:
    run_id = running.run("say")
    running.wait(run_id, "succeeded")
    with running.installation.database.write() as session:
        from_row = type(running.get(run_id))
        session.get_one(from_row, run_id).revision = "0" * 40
    again: str = running.shell.json("rerun", run_id)["run"]
    failed = running.wait(again, "failed")
    assert "content revision 000000000000 cannot be had" in (failed.reason or "")


CELERY = (sys.executable, "-m", "celery", "-A", "relengq")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "ping"), "pong"),
        (("status",), "1 node online"),
        (("inspect", "active_queues"), "'name': 'default'"),
        (("inspect", "registered"), "relengq.run_step"),
    ],
    ids=" ".join,
)
def test_celery_works_unaided_in_a_site(running: System, arguments: tuple[str, ...], said: str) -> None:
    asking = running.process(f"celery-{arguments[-1]}", *CELERY, *arguments)
    wait_until(lambda: asking.returncode is not None, PATIENCE)
    assert said in asking.log
    assert asking.returncode == 0


def test_flower_shows_steps_under_their_names(running: System) -> None:
    port = free_port()
    flower = running.process(
        "flower", *CELERY, "flower", "--address=127.0.0.1", f"--port={port}", FLOWER_UNAUTHENTICATED_API="true"
    )
    flower.wait_for_log("Connected to", PATIENCE)

    def get(path: str) -> dict[str, dict[str, object]]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            found: dict[str, dict[str, object]] = json.load(answer)
        return found

    wait_until(lambda: get("/api/workers?refresh=1"), PATIENCE, "Flower knows the worker")
    [name] = get("/api/workers")
    assert name.startswith("default@")
    run_id = running.run("say")
    running.wait(run_id, "succeeded")
    step = running.get(run_id).steps[0].name
    tasks = wait_until(
        lambda: [task for task in get("/api/tasks").values() if task["state"] == "SUCCESS"],
        PATIENCE,
        "a task in Flower",
    )
    assert [task["name"] for task in tasks] == [f"say: {step} #1"]
    assert [task["args"] for task in tasks] == [f"({running.attempts(run_id)[0].id},)"], "ids only"
