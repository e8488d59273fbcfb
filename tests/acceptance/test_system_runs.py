# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs as users see them: the real command line, real workers, a real clock, and the real ansible-playbook."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from relengq.celery import RUN_STEP, app
from relengq.engine.installation import Installation
from relengq.engine.start import Trigger, start
from tests.support.plays import STUBBORN
from tests.support.plays import alive as daemons_alive
from tests.support.processes import alive, words
from tests.support.systems import PATIENCE, Gates, System, private_redis, system
from tests.support.waiting import busy, wait_until

FILES = {
    "playbooks/gather.yml": """\
- name: Gather
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Name the compose
      ansible.builtin.set_stats:
        data: {compose_id: "Test-{{ release }}-1"}
""",
    "playbooks/createrepo.yml": """\
- name: Make a repository
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Note the number of packages
      ansible.builtin.set_stats:
        data: {packages: "{{ compose_arch | length }}"}
""",
    "playbooks/report.yml": """\
- name: Report
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Say how it ended
      ansible.builtin.debug:
        msg: "the result is {{ relengq.run.result }}"
""",
    "playbooks/moody.yml": """\
- name: Fail as often as it was told
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Look at the mirror
      ansible.builtin.fail:
        msg: the mirror is down at try {{ relengq.attempt }}
      when: relengq.attempt <= fails and not (relengq.inputs.gates ~ '/fixed') is exists
    - name: Hand on the try that went well
      ansible.builtin.set_stats:
        data: {tries: "{{ relengq.attempt }}"}
""",
    "playbooks/daemon.yml": """\
- name: Leave a daemon behind that ignores all polite signals
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Start it
      ansible.builtin.shell: "'{{ ansible_playbook_python }}' stubborn.py '{{ relengq.inputs.gates }}' >/dev/null 2>&1"
    - name: Wait at a gate that never opens
      ansible.builtin.command:
        argv: [./gate.sh, "{{ relengq.inputs.gates }}", daemon]
""",
    "playbooks/stubborn.py": f"# SPDX-License-Identifier: GPL-3.0-or-later\n{STUBBORN}",
    "playbooks/loud.yml": """\
- name: Write a lot
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Write it
      ansible.builtin.debug:
        msg: "{{ 'x' * 1000000 }}end-of-{{ item }}"
      loop: "{{ range(10) | list }}"
""",
    "playbooks/workflows/release.yml": """\
inputs:
  release: {type: string, pattern: 'rawhide|f[0-9]+', help: Release to compose}
  arches: {type: list, choices: [x86_64, aarch64, s390x], default: [x86_64, aarch64]}
steps:
  - {name: gather, playbook: gather.yml, vars: {release: "{{ inputs.release }}"}}
  - name: createrepo
    playbook: createrepo.yml
    matrix: {arch: "{{ inputs.arches }}"}
    vars: {compose_arch: "{{ matrix.arch }}"}
  - {name: sign, playbook: gather.yml, when: outputs.compose_id == 'Other'}
  - {name: go, approval: {groups: [root, releng-leads]}}
  - {name: publish, playbook: report.yml, when: outputs.go.approved}
finally:
  - {name: report, playbook: report.yml}
outputs: {compose_id: "{{ outputs.compose_id }}", packages: "{{ outputs.packages }}"}
""",
    "playbooks/workflows/moody.yml": """\
inputs:
  gates: {type: string}
steps:
  - {name: gather, playbook: gather.yml, vars: {release: f44}, outputs: [compose_id]}
  - {name: sync, playbook: moody.yml, vars: {fails: 9}, retry: {attempts: 2, delay: 1s}}
  - {name: publish, playbook: gated.yml, vars: {gate_name: "{{ outputs.compose_id }}"}, when: outputs.tries | int == 1}
finally:
  - {name: report, playbook: report.yml}
""",
    "playbooks/workflows/daemon.yml": """\
inputs:
  gates: {type: string}
steps:
  - {name: leave, playbook: daemon.yml}
  - {name: never, playbook: gather.yml}
finally:
  - {name: report, playbook: report.yml}
""",
    "playbooks/workflows/slow.yml": """\
inputs:
  gates: {type: string}
steps:
  - {name: leave, playbook: daemon.yml, timeout: 8s}
finally:
  - {name: report, playbook: report.yml}
""",
    "playbooks/workflows/loud.yml": "steps:\\n  - {name: write, playbook: loud.yml}\\n".replace("\\n", "\n"),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One installation for the whole module: Redis, SQLite, a worker with four places, the clock."""
    directory = tmp_path_factory.mktemp("runs")
    with private_redis(directory / "redis") as broker, system(directory, FILES, broker.url) as made:
        made.worker()
        made.clock()
        yield made


def test_a_release_goes_from_start_to_succeeded(running: System) -> None:
    shell = running.shell
    run_id = running.run("release", release="f44", arches="x86_64,s390x")
    running.wait(run_id, "waiting")
    assert running.steps(run_id) == {
        "gather": "succeeded",
        "createrepo [s390x]": "succeeded",
        "createrepo [x86_64]": "succeeded",
        "sign": "skipped",
        "go": "waiting",
        "publish": "pending",
        "report": "pending",
    }
    said = shell.run("status", run_id).stdout
    assert "approval by root or releng-leads" in said
    shell.run("approve", run_id, "--note", "smoke test looked at")
    running.wait(run_id, "succeeded")

    seen = shell.json("status", run_id)
    assert seen["outputs"]["compose_id"] == "Test-f44-1"
    assert {arch: int(count) for arch, count in seen["outputs"]["packages"].items()} == {"s390x": 5, "x86_64": 6}
    assert seen["run"]["state"] == "succeeded"
    assert [step["label"] for step in seen["steps"] if step["final"]] == ["report"]

    tries = {line["label"]: line for line in shell.json("logs", run_id)}
    assert tries["gather #1"]["stats"]["localhost"]["ok"] == 1
    assert tries["gather #1"]["return_code"] == 0
    [task] = tries["gather #1"]["tasks"]
    assert (task["task"], task["host"], task["status"]) == ("Name the compose", "localhost", "ok")
    assert "the result is succeeded" in shell.run("logs", run_id, "--step", "report").stdout
    assert "smoke test looked at" in shell.run("history", run_id).stdout
    said = "".join(each.log for each in running.processes)
    assert "warm_started" in said, "its plays came from a process that has Ansible loaded"
    assert "warm_declined" not in said


def test_output_is_followed_while_the_play_runs(running: System) -> None:
    shell, gates = running.shell, running.gates("followed")
    run_id = running.run("gated", gates=str(gates.directory))
    following = running.process("follow", sys.executable, "-m", "relengq", "logs", run_id[:9], "-f")
    live = running.process("live", sys.executable, "-m", "relengq", "status", run_id, "--follow")
    following.wait_for_log("the gate of first is", PATIENCE)
    running.reach(run_id, gates, "first start")
    assert running.state(run_id) == "running", "it was followed live, not afterwards"

    [step] = wait_until(
        lambda: [step for step in shell.json("status", run_id)["steps"] if step["task"] == "Wait until the test opens"]
    )
    assert step["state"] == "running"
    assert step["host"]
    assert run_id in {run["id"] for run in shell.json("runs", "--state", "active", "--workflow", "gated")}
    assert [run["id"] for run in shell.json("runs", "-i", f"gates={gates.directory}")] == [run_id]
    assert shell.json("runs", "--who", "nobody-at-all") == []
    assert run_id not in {run["id"] for run in shell.json("runs", "--until", "1h")}

    gates.open("first")
    running.wait(run_id, "succeeded")
    wait_until(lambda: following.returncode is not None and live.returncode is not None)
    assert (following.returncode, live.returncode) == (0, 0)
    assert "Hand on who was let through" in following.log
    assert "succeeded" in live.log
    stored = shell.run("logs", run_id).stdout
    assert "Hand on who was let through" in stored
    assert stored.strip() in following.log


def test_a_failure_is_tried_again_then_resumed_where_it_failed(running: System) -> None:
    shell, gates = running.shell, running.gates("moody")
    gates.open("Test-f44-1")
    first = running.run("moody", gates=str(gates.directory))
    running.wait(first, "failed")
    assert running.steps(first) == {
        "gather": "succeeded",
        "sync": "failed",
        "publish": "skipped",
        "report": "succeeded",
    }
    one, two = running.attempts(first, "sync")
    assert (one.state, two.state) == ("failed", "failed")
    assert one.finished_at is not None
    assert two.started_at is not None
    assert (two.started_at - one.finished_at).total_seconds() >= 1, "the delay of the retry"
    assert "the mirror is down at try 2" in shell.run("status", first).stdout
    assert "the mirror is down at try 2" in shell.run("logs", first, "--failed").stdout
    assert "the result is failed" in shell.run("logs", first, "--step", "report").stdout

    (gates.directory / "fixed").touch()
    second: str = shell.json("rerun", first, "--failed")["run"]
    running.wait(second, "succeeded")
    run = running.get(second)
    assert (run.origin_id, run.inputs) == (first, running.get(first).inputs)
    assert [step.kept_from for step in run.steps if step.name == "gather"] == [first]
    assert [line.step for line in running.attempts(second)] == ["sync", "publish", "report"]
    assert gates.ledger == ["Test-f44-1 start", "Test-f44-1 end"], "the kept output reached the later step"

    third: str = shell.json("rerun", second, "--from", "publish")["run"]
    running.wait(third, "succeeded")
    assert [line.step for line in running.attempts(third)] == ["publish", "report"]
    assert second in shell.run("status", third).stdout


def test_a_timeout_ends_the_whole_tree(running: System) -> None:
    gates = running.gates("slow")
    run_id = running.run("slow", gates=str(gates.directory))
    left = _tree(running, run_id, gates)
    running.wait(run_id, "failed")
    assert not [pid for pid in left if alive(pid)]
    assert "timeout of 8s" in (running.get(run_id).reason or "")
    assert [line.state for line in running.attempts(run_id)] == ["timed_out", "succeeded"]
    assert "the result is failed" in running.output(run_id)


def test_a_cancel_ends_the_whole_tree_and_finally_runs(running: System) -> None:
    gates = running.gates("cancelled")
    run_id = running.run("daemon", gates=str(gates.directory))
    left = _tree(running, run_id, gates)
    running.shell.run("cancel", run_id, "--note", "wrong release")
    cancelled = time.monotonic()
    wait_until(lambda: not [pid for pid in left if alive(pid)])
    assert time.monotonic() - cancelled < busy(4), "within a second or two"
    running.wait(run_id, "cancelled")
    assert running.steps(run_id) == {"leave": "cancelled", "never": "skipped", "report": "succeeded"}
    assert "the result is cancelled" in running.output(run_id)
    assert "by root" in (running.get(run_id).reason or "")
    running.shell.run("cancel", run_id, code=4)


def _tree(running: System, run_id: str, gates: Gates) -> list[int]:
    """Every process of a play that waits at the gate and has left a daemon: all from ansible-playbook down."""
    running.reach(run_id, gates, "daemon start")
    assert daemons_alive(gates.directory)
    gate, *above = gates.play("daemon")
    assert above
    tree = {gate.pid, *(each.pid for each in above)}
    for each in above:
        tree |= {child.pid for child in each.children(recursive=True)}
    return sorted(tree)


def test_ten_megabytes_and_long_lines_come_through(running: System) -> None:
    run_id = running.run("loud")
    running.wait(run_id, "succeeded")
    output = running.shell.run("logs", run_id).stdout
    assert len(output) > 10_000_000
    assert [number for number in range(10) if f"{'x' * 1000}end-of-{number}" not in output] == []
    assert max(map(len, output.splitlines())) > 1_000_000
    [attempt] = running.attempts(run_id)
    assert attempt.stats is not None
    assert not list((running.site / ".relengq" / "attempts").iterdir()), "no files of events are left"


def test_one_attempt_delivered_three_times_is_played_once(running: System) -> None:
    gates = running.gates("delivered")
    run_id = running.run("gated", gates=str(gates.directory))
    running.reach(run_id, gates, "first start")
    [attempt] = running.attempts(run_id)
    with app.connection_for_write(running.broker_url) as connection:
        for number in range(2):
            app.send_task(RUN_STEP, (attempt.id,), queue="default", connection=connection, task_id=f"again-{number}")
    worker = running.processes[0]
    wait_until(lambda: worker.log.count("attempt.not_claimed") >= 2, PATIENCE, "both deliveries were refused")
    gates.open("first")
    running.wait(run_id, "succeeded")
    assert gates.ledger == ["first start", "first end"]
    assert len(running.attempts(run_id)) == 1


def test_two_starts_with_one_key_make_one_run(running: System) -> None:
    gates = running.gates("keyed")
    gates.open("first")
    sent: list[int] = []
    installation = Installation(
        running.installation.settings, running.installation.database, lambda parcel: sent.append(parcel.attempt_id)
    )
    trigger = Trigger("message", "bus", key="one message")
    first, second = (start(installation, "gated", {"gates": str(gates.directory)}, trigger) for _ in range(2))
    assert (first.fresh, second.fresh, first.run_id) == (True, False, second.run_id)
    assert len(sent) == 1
    running.shell.run("hold", first.run_id)
    running.shell.run("cancel", first.run_id)
    assert running.state(first.run_id) == "cancelled"
    assert gates.ledger == []


def test_no_process_of_a_play_is_left(running: System) -> None:
    worker = psutil.Process(running.processes[0].pid)
    assert not [each for each in worker.children(recursive=True) if "ansible" in " ".join(words(each))]
