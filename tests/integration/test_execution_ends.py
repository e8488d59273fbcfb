# SPDX-License-Identifier: GPL-3.0-or-later
"""How plays end before their time: stops, time-outs, killed workers and guards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from relengq.execution import Outcome, Stop, Warm, play
from relengq.execution.means import host
from relengq.states import AttemptState
from tests.support.plays import STUBBORN, Collected, Project, alive, never
from tests.support.processes import words
from tests.support.waiting import busy, wait_until

SOON = 1.0
"""Seconds within which everything that a play started is gone, on a quiet machine."""
SCATTER = """
- name: daemon
  command: "{{ [ansible_playbook_python, '-c', daemon, pids] | map('quote') | join(' ') }}"
- name: forgotten
  command: sleep 300
  async: 300
  poll: 0
- name: stays
  shell: "trap '' TERM HUP; exec 9> {{ pids }}/$$.pid; flock 9; sleep 300 & sleep 300"
"""


@pytest.fixture(params=["plain", "warm"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    """By the plain command, and from a server that has Ansible loaded."""
    project = Project(tmp_path, Warm(tmp_path / "warm", os.getpid()) if request.param == "warm" else None)
    (tmp_path / "pids").mkdir()
    project.tasks(SCATTER)
    return project


def scattered(project: Project) -> dict[str, str]:
    return {"daemon": STUBBORN, "pids": str(project.root / "pids")}


def marked(project: Project) -> list[int]:
    """Every process of the project's plays, wherever it is, by the work directory that it inherited or names."""
    found = []
    for process in psutil.process_iter():
        try:
            inherited = process.environ().get("ANSIBLE_LOCAL_TEMP", "")
            named = any(f"@{project.workdir}" in word for word in process.cmdline())
        except psutil.Error:
            continue
        if named or inherited.startswith(str(project.workdir)):
            found.append(process.pid)
    return found


class Clock:
    """A stop that comes when everything has been started, and remembers when that was."""

    def __init__(self, project: Project, reason: Stop | None) -> None:
        self.project = project
        self.reason = reason
        self.asked: float | None = None

    def ready(self) -> bool:
        return len(alive(self.project.root / "pids")) == 2

    def stop(self) -> Stop | None:
        if self.asked is None and self.ready():
            self.asked = time.monotonic()
        return self.reason if self.asked is not None else None


def test_a_stop_ends_all_that_the_play_started(project: Project) -> None:
    clock, sink = Clock(project, Stop.CANCELLED), Collected()
    outcome = play(project.order(variables=scattered(project)), sink, clock.stop)
    assert clock.asked is not None
    assert time.monotonic() - clock.asked < busy(SOON)
    assert outcome.state is AttemptState.CANCELLED
    assert outcome.message == "The play was cancelled in task 'stays' of play 'The play'."
    assert alive(project.root / "pids") == []
    assert marked(project) == []
    assert project.left() == []
    assert "TASK [stays]" in sink.text
    assert sink.named("daemon").status == "changed"


@pytest.mark.parametrize("reason", Stop)
def test_the_reason_of_a_stop_is_the_state_of_the_outcome(tmp_path: Path, reason: Stop) -> None:
    project, sink = Project(tmp_path), Collected()
    project.tasks("- {name: stays, pause: {seconds: 300}}\n")
    outcome = play(project.order(), sink, lambda: reason if "stays" in sink.text else None)
    assert outcome.state == reason.value
    assert "in task 'stays'" in (outcome.message or "")


def test_a_timeout_ends_the_play(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.tasks("- {name: stays, shell: \"trap '' TERM; sleep 300 & sleep 300\"}\n")
    started = time.monotonic()
    outcome, _ = project.play(timeout=4)
    assert 4 <= time.monotonic() - started < 4 + busy(SOON)
    assert outcome.state is AttemptState.TIMED_OUT
    assert (outcome.message or "").startswith("The play was killed at its timeout of 4s")
    assert marked(project) == []


SLOW_MODULE = """\
import time
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(argument_spec={"token": {"type": "str", "no_log": True}, "became": {"type": "path"}})
open(module.params["became"], "x").close()
time.sleep(300)
"""


def test_what_a_module_was_given_goes_with_a_play_that_is_stopped(project: Project) -> None:
    name, secret, begun = f"given_{uuid.uuid4().hex}", uuid.uuid4().hex, project.root / "begun"
    project.file(f"library/{name}.py", SLOW_MODULE)
    project.tasks(f"- {name}: {{token: '{{{{ token }}}}', became: '{{{{ begun }}}}'}}\n")
    seen: list[Path] = []

    def stop() -> Stop | None:
        if not begun.exists():
            return None
        everywhere = (*project.workdir.rglob(f"*{name}.py"), *Path.home().glob(f".ansible/tmp/*/*{name}.py"))
        seen.extend(path for path in everywhere if secret in path.read_text())
        return Stop.CANCELLED

    outcome = play(project.order(variables={"token": secret, "begun": str(begun)}), Collected(), stop)
    assert outcome.state is AttemptState.CANCELLED
    assert seen, "it was in a file"
    assert [path for path in seen if path.exists()] == []
    assert project.left() == []


def test_what_an_asynchronous_task_says_goes_with_the_play(project: Project) -> None:
    secret = uuid.uuid4().hex
    project.tasks(
        """
        - {name: begin, command: "echo {{ token }}", async: 60, poll: 0, register: begun}
        - async_status: {jid: "{{ begun.ansible_job_id }}"}
          register: ended
          until: ended.finished
          retries: 100
          delay: 0.1
        - {fail: , when: ended.stdout != token}
        """
    )
    outcome, _ = project.play(variables={"token": secret})
    assert outcome.state is AttemptState.SUCCEEDED, outcome.message
    results = Path.home().glob(".ansible_async/*")
    assert [path for path in results if path.is_file() and secret in path.read_text()] == []
    assert project.left() == []


def test_a_play_that_ends_by_itself_leaves_nothing_running(project: Project) -> None:
    project.tasks(SCATTER.split("- name: stays", maxsplit=1)[0])
    outcome, _ = project.play(variables=scattered(project))
    assert outcome.state is AttemptState.SUCCEEDED
    assert list((project.root / "pids").glob("*.pid"))
    assert alive(project.root / "pids") == []
    assert marked(project) == []


WORKER = """
import os, sys
from pathlib import Path
from relengq.execution import Warm, play
from tests.support.plays import Collected, Project, STUBBORN, never
root = Path(sys.argv[1])
project = Project(root, Warm(root / "warm", os.getpid()) if "warm" in sys.argv[2:] else None)
variables = {"daemon": STUBBORN, "pids": str(project.root / "pids"), "secret": "s3cret"}
play(project.order(variables=variables), Collected(), never)
"""


def test_a_worker_killed_with_sigkill_takes_everything_with_it(project: Project) -> None:
    words = [str(project.root), "warm" if project.warm else "plain"]
    worker = subprocess.Popen([sys.executable, "-c", WORKER, *words], cwd=Path(__file__).parents[2])
    wait_until(Clock(project, None).ready)
    started = time.monotonic()
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    wait_until(lambda: not alive(project.root / "pids") and not marked(project))
    assert time.monotonic() - started < busy(SOON)
    wait_until(lambda: project.left() == [], what="the private directory is removed")


def test_a_guard_killed_with_sigkill_ends_the_play_and_the_rest_is_swept(project: Project) -> None:
    killed: list[float] = []

    def kill_guard() -> Stop | None:
        if not killed and clock.ready():
            for child in psutil.Process().children():
                if any("guard/__main__.py" in word for word in words(child)):
                    child.kill()
                    killed.append(time.monotonic())
        return None

    clock = Clock(project, None)
    outcome = play(project.order(variables=scattered(project)), Collected(), kill_guard)
    assert time.monotonic() - killed[0] < busy(SOON)
    assert outcome.state is AttemptState.FAILED
    assert "was ended by a signal: Killed" in (outcome.message or "")
    assert alive(project.root / "pids") == []
    assert marked(project) == []


def test_a_sink_that_blocks_delays_no_stop(project: Project) -> None:
    blocked, gone = threading.Event(), threading.Event()

    class Blocking(Collected):
        def output(self, text: str) -> None:
            blocked.set()
            assert gone.wait(30)
            super().output(text)

    def watch() -> None:
        blocked.wait(30)
        wait_until(lambda: not marked(project))
        gone.set()

    threading.Thread(target=watch, daemon=True).start()
    outcome = play(
        project.order(variables=scattered(project)), Blocking(), lambda: Stop.CANCELLED if blocked.is_set() else None
    )
    assert outcome.state is AttemptState.CANCELLED
    assert gone.is_set()


def test_plays_side_by_side_in_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    projects = [Project(tmp_path / str(number)) for number in range(2)]
    outcomes: dict[int, Outcome] = {}

    def run(number: int) -> None:
        projects[number].tasks(f"- command: {'sleep 60' if number else 'sleep 1'}\n")
        stop = (lambda: Stop.CANCELLED if 0 in outcomes else None) if number else never
        outcomes[number] = play(projects[number].order(), Collected(), stop)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes[0].state is AttemptState.SUCCEEDED
    assert outcomes[1].state is AttemptState.CANCELLED


def test_descriptors_and_threads_do_not_pile_up(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.tasks("- debug: {msg: x}\n")
    project.play()
    before = open_now()
    for _ in range(3):
        project.play()
    assert open_now() == before


def open_now() -> tuple[int, int]:
    return psutil.Process().num_fds(), threading.active_count()


@pytest.mark.parametrize("kept_by", ["the kernel", "the guard"])
def test_a_play_that_uses_more_memory_than_its_pool_allows_fails(
    tmp_path: Path, kept_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kept_by == "the guard":
        without = replace(host(), memory_v1="", memory_v2="")
        monkeypatch.setattr("relengq.execution.door.host", lambda: without)
    project = Project(tmp_path)
    project.tasks(
        "- name: eats\n"
        "  command: \"{{ [ansible_playbook_python, '-c', eat] | map('quote') | join(' ') }}\"\n"
        "  ignore_errors: true\n"
        "- {name: goes on, pause: {seconds: 300}}\n"
    )
    eat = "import time; eaten = [bytearray(1 << 20) for _ in range(1000)]; time.sleep(300)"
    outcome, _ = project.play(variables={"eat": eat}, memory=256 << 20)
    assert outcome.state is AttemptState.FAILED
    limit = "The play was killed because it used more than the pool's memory limit of 256 MiB in task "
    assert (outcome.message or "").startswith(limit), outcome.message
    assert marked(project) == []
    assert project.left() == []
