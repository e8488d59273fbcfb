# SPDX-License-Identifier: GPL-3.0-or-later
"""What persons do with runs on the command line, over the real engine and plays that the tests make up."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from relengq.database import Database
from relengq.engine.orders import warm_directory
from relengq.errors import BrokerUnavailable
from relengq.execution.means import Host
from relengq.logs import Recorder
from relengq.models import TaskResult, Worker
from relengq.runs.attempts import Claim
from relengq.testing import Bench
from tests.support.calls import Caller
from tests.support.waiting import wait_until

FLOW = """
    inputs:
      release: {type: string, pattern: 'rawhide|f[0-9]+'}
      arches: {type: list, choices: [x86_64, aarch64], default: [x86_64, aarch64]}
      token: {type: string, secret: true, default: ""}
    concurrency: {group: "flow-{{ inputs.release }}"}
    steps:
      - {name: one, playbook: hello.yml}
      - {name: build, playbook: hello.yml, matrix: {arch: "{{ inputs.arches }}"}}
      - {name: go, approval: {timeout: 1d}}
"""
CLOSED = """
    access: {launch: [releng], logs: [qa]}
    inputs: {release: {default: f44}}
    steps:
      - {name: one, playbook: hello.yml}
      - {name: go, approval: {groups: [leads]}}
"""


@pytest.fixture
def bench(make_cli_bench: Callable[..., Bench]) -> Bench:
    """A bench over two workflows; nobody is an admin."""
    return make_cli_bench("admins = []\n", flow=FLOW, closed=CLOSED)


def test_a_list_says_why_a_run_waits(bench: Bench, call: Caller) -> None:
    bench.start("hello")
    (waiting,) = json.loads(call("runs", "--json").out)
    assert waiting["reason"] == "nobody serves queue default"
    assert "nobody serves queue default" in call("runs").out
    held = bench.claim()
    assert held is not None
    (playing,) = json.loads(call("runs", "--json").out)
    assert playing["reason"] is None, "what a worker plays waits for nothing"


def said(bench: Bench, output: str, *, tasks: tuple[tuple[str, str], ...] = ()) -> Claim:
    """Claim the next attempt and let it say something."""
    held = bench.claim()
    assert held is not None
    database: Database = bench.installation.database
    with Recorder(database, held.attempt_id, held.fence) as recorder:
        recorder.output(output)
    with database.write() as session:
        for seq, (host, status) in enumerate(tasks, 1):
            session.add(
                TaskResult(
                    attempt_id=held.attempt_id, seq=seq, host=host, play="p", task=f"Task {seq}", action="command",
                    status=status, changed=False, duration=0.5, message=f"{status} on {host}",
                )
            )  # fmt: skip
    return held


def test_run_starts_and_says_how_to_follow(bench: Bench, call: Caller) -> None:
    printed = call("run", "flow", "-i", "release=f44").out
    run_id = printed.split()[1]
    assert f"Run {run_id} of flow is queued" in printed
    assert f"relengq status {run_id} --follow" in printed
    assert bench.run(run_id).inputs["release"] == "f44"


def test_run_with_json(call: Caller) -> None:
    found = call.json("run", "flow", "-i", "release=f44")
    assert found["workflow"] == "flow"
    assert found["state"] == "queued"
    assert found["broker_away"] is None


def test_a_request_id_starts_a_run_once(call: Caller) -> None:
    first, second = (call.json("run", "hello", "--request-id", "ticket 7") for _ in range(2))
    assert first["run"] == second["run"]
    assert (first["fresh"], second["fresh"]) == (True, False)
    assert "It was started before." in call("run", "hello", "--request-id", "ticket 7").out
    assert call.json("run", "hello", "--request-id", "ticket 8")["run"] != first["run"]


def test_run_of_what_does_not_fit_starts_nothing(call: Caller) -> None:
    err = call("run", "flow", "-i", "release=fedora", "-i", "arhces=x", code=2).err
    assert "input 'release' must match" in err
    assert "arches" in err
    assert err.count("\n") == 1
    assert "release' is missing" in call("run", "flow", code=2).err
    assert "no workflow 'folw'" in call("run", "folw", code=3).err
    assert "no run yet" in call("runs").out


def test_check_says_what_would_happen_and_starts_nothing(call: Caller) -> None:
    printed = call("run", "flow", "-i", "release=f44", "-i", "token=hunter2", "--check").out
    assert "nothing was started" in printed
    assert "flow-f44" in printed
    assert "for x86_64, aarch64" in printed
    assert "hunter2" not in printed
    plan = call.json("run", "flow", "-i", "release=f44", "--check")
    assert [step["name"] for step in plan["steps"]] == ["one", "build", "go"]  # type: ignore[index, attr-defined]
    assert "no run yet" in call("runs").out
    assert "must match" in call("run", "flow", "-i", "release=1", "--check", code=2).err


def test_a_broker_that_is_away_is_a_warning(bench: Bench, call: Caller) -> None:
    def away(parcel: object) -> None:
        raise BrokerUnavailable("The broker does not answer.", hint="Runs are kept.")

    bench.installation.send = away
    told = call("run", "hello")
    run_id = told.out.split()[1]
    assert f"relengq: run {run_id} waits. The broker does not answer. Runs are kept." in told.err
    assert "nobody serves queue default" in call("status", run_id).out


def test_runs_are_listed_and_filtered(bench: Bench, call: Caller) -> None:
    flow = bench.start("flow", release="f44")
    hello = bench.start("hello")
    assert [each["id"] for each in call.json_list("runs")] == [hello, flow]
    assert [each["id"] for each in call.json_list("runs", "--workflow", "flow")] == [flow]
    assert [each["id"] for each in call.json_list("runs", "-i", "release=f44", "-s", "active")] == [flow]
    assert call.json_list("runs", "-s", "failed") == []
    table = call("runs").out
    assert "release=f44" in table
    assert max(map(len, table.splitlines())) <= 100
    assert "No run fits" in call("runs", "--who", "nobody").out
    assert "'flow'" in call("runs", "--workflow", "flwo").out


def test_status_shows_the_timeline(bench: Bench, call: Caller) -> None:
    run_id = bench.start("flow", release="f44", token="hunter2")
    bench.play()
    printed = call("status", run_id[:7]).out
    assert "release=f44" in printed
    assert "hunter2" not in printed
    for line in ("build [aarch64]", "build [x86_64]", "nobody serves queue default", "relengq worker POOL"):
        assert line in printed
    assert max(map(len, printed.splitlines())) <= 100
    found = call.json("status", "last")
    steps = found["steps"]
    assert isinstance(steps, list)
    assert [step["state"] for step in steps] == ["succeeded", "queued", "queued", "pending"]
    run = found["run"]
    assert isinstance(run, dict)
    assert run["created_at"].endswith("Z")


def test_status_of_a_failure_has_task_message_and_advice(bench: Bench, call: Caller) -> None:
    run_id = bench.start("flow", release="f44", arches=["x86_64"])
    bench.play()
    bench.finish(
        said(bench, "", tasks=(("builder", "failed"),)), state="failed", message="builder: Task 1: failed on it"
    )
    printed = call("status", run_id).out
    assert "builder: Task 1" in printed
    assert "failed on builder" in printed
    assert f"relengq logs {run_id} --failed" in printed
    assert f"relengq rerun {run_id} --failed" in printed


def test_text_from_outside_is_neither_markup_nor_control(bench: Bench, call: Caller) -> None:
    run_id = bench.start("hello")
    bench.play(state="failed", message="[bold red]x[/nothing] \x1b[2J\x1b]0;title\x07 :smile:")
    printed = call("status", run_id).out + call("runs").out + call("history", run_id).out
    assert "[bold red]x[/nothing]" in printed
    assert ":smile:" in printed
    assert "\x1b" not in printed
    assert "\x07" not in printed


def test_a_large_matrix_is_summed_up(bench: Bench, call: Caller, site: Path) -> None:
    text = f"steps: [{{name: many, playbook: hello.yml, matrix: {{n: {list(range(40))}}}}}]"
    (site / "playbooks/workflows/many.yml").write_text(text)
    run_id = bench.start("many")
    for number in range(30):
        bench.play(state="failed" if number == 7 else "succeeded")
    printed = call("status", run_id).out
    assert "many: 29 succeeded more" in printed
    assert "many [7]" in printed
    assert len(printed.splitlines()) < 40


def test_logs_of_all_steps_with_headings(bench: Bench, call: Caller) -> None:
    run_id = bench.start("flow", release="f44", arches=["x86_64"])
    bench.finish(said(bench, "first\nsecond"))
    bench.finish(said(bench, "third\n"))
    printed = call("logs", run_id).out
    assert "first\nsecond\n" in printed
    assert "==> one #1" in printed
    assert "==> build [x86_64] #1" in printed
    assert call("logs", run_id, "--step", "one").out == "first\nsecond\n"
    assert call("logs", run_id, "--step", "build[x86_64]").out == "third\n"
    assert "has no step 'onee'" in call("logs", run_id, "--step", "onee", code=3).err


def test_logs_of_what_failed(bench: Bench, call: Caller) -> None:
    run_id = bench.start("flow", release="f44")
    bench.finish(said(bench, "well\n"))
    assert "no step of run" in call("logs", run_id, "--failed").err
    held = said(bench, "broken\n", tasks=(("a", "ok"), ("b", "failed")))
    bench.finish(held, state="failed", message="b: Task 2: failed on b")
    assert call("logs", run_id, "--failed").out == "broken\n"
    by_host = call("logs", run_id, "--failed", "--host", "b").out
    assert "Task 2" in by_host
    assert "failed on b" in by_host
    assert "ok on a" in call("logs", run_id, "--host", "a").out
    assert "ran on host 'c'" in call("logs", run_id, "--host", "c", code=3).err
    tasks = [task for attempt in call.json_list("logs", run_id) for task in attempt["tasks"]]  # type: ignore[attr-defined]
    assert [task["status"] for task in tasks] == ["ok", "failed"]


def test_logs_of_a_line_without_end(bench: Bench, call: Caller) -> None:
    run_id = bench.start("hello")
    bench.finish(said(bench, "x" * 5_000_000))
    assert call("logs", run_id).out == "x" * 5_000_000 + "\n"


def test_logs_followed_to_the_end_of_a_run(bench: Bench, call: Caller) -> None:
    run_id = bench.start("hello")
    bench.finish(said(bench, "all of it\n"))
    assert "all of it\n" in call("logs", run_id, "--follow").out


def test_without_output_it_says_where_to_look(bench: Bench, call: Caller) -> None:
    run_id = bench.start("hello")
    assert f"relengq status {run_id}" in call("logs", run_id).err


def test_following_prints_a_line_for_each_change(bench: Bench, call: Caller) -> None:
    run_id = bench.start("hello")
    bench.play()
    lines = call("status", run_id, "--follow").out.splitlines()
    states = [line.split(" ", 1)[1] for line in lines[:5]]
    assert states == ["hello queued", "hello running", "run running", "hello succeeded", "run succeeded"]


def test_following_with_json_prints_the_end_alone(bench: Bench, call: Caller) -> None:
    run_id = bench.start("hello")
    bench.play()
    run = call.json("status", run_id, "--follow")["run"]
    assert isinstance(run, dict)
    assert run["state"] == "succeeded"


def test_follow_ends_with_1_when_the_run_failed(bench: Bench, call: Caller) -> None:
    run_id = bench.start("hello")
    bench.play(state="failed", message="no")
    call("status", run_id, "-f", code=1)


def test_ctrl_c_leaves_the_run_running(bench: Bench, call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = bench.start("hello")

    def pressed(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("relengq.cli.follow.time.sleep", pressed)
    monkeypatch.setattr("relengq.cli.follow.follow.__defaults__", (pressed,))
    told = call("status", run_id, "--follow", code=130)
    assert f"run {run_id} goes on" in told.err
    assert told.err.count("\n") == 1
    assert bench.run(run_id).state == "queued"


def test_cancel_hold_and_release_are_recorded(bench: Bench, call: Caller) -> None:
    run_id = bench.start("hello")
    call("hold", run_id, "--note", "mirror down")
    assert bench.run(run_id).state == "held"
    assert "on hold already" in call("hold", run_id, code=4).err
    assert f"relengq release {run_id}" in call("status", run_id).out
    call("release", run_id)
    call("cancel", run_id, "--note", "wrong one")
    assert bench.run(run_id).state == "cancelled"
    assert "is over" in call("cancel", run_id, code=4).err
    events = call.json_list("history", run_id)
    notes = {str(event["action"]): event["note"] for event in events}
    assert notes["hold"] == "mirror down"
    assert notes["cancel requested"] == "wrong one"
    assert "wrong one" in call("history", run_id).out


def test_approval_by_name_or_without(bench: Bench, call: Caller) -> None:
    run_id = bench.start("flow", release="f44", arches=["x86_64"])
    assert "does not wait for approval" in call("approve", run_id, code=4).err
    bench.play()
    bench.play()
    assert f"relengq approve {run_id} go" in call("status", run_id).out
    assert "has no step 'og'" in call("approve", run_id, "og", code=3).err
    call("approve", run_id, "go", "--note", "looked at it")
    assert bench.run(run_id).state == "succeeded"
    assert "looked at it" in call("history", run_id).out


def test_rejection_fails_the_run_with_its_note(bench: Bench, call: Caller) -> None:
    run_id = bench.start("flow", release="f44", arches=["x86_64"])
    bench.play()
    bench.play()
    call("reject", run_id, "--note", "installer crashes")
    assert bench.run(run_id).state == "failed"
    assert "installer crashes" in call("status", run_id).out


def test_rerun_names_its_origin_and_keeps_what_succeeded(bench: Bench, call: Caller) -> None:
    run_id = bench.start("flow", release="f44", arches=["x86_64"])
    bench.play()
    assert "is still" in call("rerun", run_id, "--failed", code=4).err
    bench.play(state="failed", message="no")
    again = str(call.json("rerun", run_id, "--failed")["run"])
    printed = call("status", again).out
    assert f"run {run_id}, from where it failed" in printed
    assert f"kept from run {run_id}" in printed
    assert f"repeated by  run {again}" in call("status", run_id).out
    assert "either --from or --failed" in call("rerun", run_id, "--failed", "--from", "one", code=2).err
    assert "has no step 'bild'" in call("rerun", run_id, "--from", "bild", code=3).err


def test_access_guards_starting_stopping_and_reading(bench: Bench, call: Caller) -> None:
    run_id = bench.start("closed")
    bench.play(state="failed", message="secret reason")
    for arguments in (("run", "closed"), ("cancel", run_id), ("hold", run_id), ("release", run_id), ("rerun", run_id)):
        err = call(*arguments, code=4).err
        assert "may not" in err
        assert "releng" in err
    assert "may not read logs" in call("logs", run_id, code=4).err
    printed = call("status", run_id).out + call("runs").out + call("history", run_id).out
    printed += json.dumps(call.json("status", run_id)) + json.dumps(call.json_list("runs"))
    assert "secret reason" not in printed
    assert "f44" not in printed
    assert "failed" in printed


def test_an_approval_needs_its_own_groups(bench: Bench, call: Caller) -> None:
    run_id = bench.start("closed")
    bench.play()
    err = call("approve", run_id, code=4).err
    assert f"may not approve step go of run {run_id}" in err
    assert "leads" in err
    assert bench.run(run_id).state == "waiting"


def test_schedules_say_when_and_that_no_clock_runs(call: Caller, site: Path) -> None:
    text = "often: {workflow: hello, every: 1h}\nnever: {workflow: hello, cron: '1 1 * * *', enabled: false}\n"
    (site / "beat/nightly.yml").write_text(text)
    told = call("schedules")
    assert "every 1h" in told.out
    assert "off" in told.out
    assert "no clock runs" in told.err
    assert [view["name"] for view in call.json_list("schedules")] == ["never", "often"]
    assert "never due yet" in call("schedules", "often").out
    assert "no schedule 'oftn'" in call("schedules", "oftn", code=3).err


def test_doctor_says_what_is_wrong_and_what_to_do(bench: Bench, call: Caller) -> None:
    bench.start("hello")
    printed = call("doctor", code=1).out
    for part in ("embedded broker does not run", "no clock runs", "no worker is alive", "relengq worker default"):
        assert part in printed
    report = call.json("doctor", code=1)
    assert report["well"] is False
    findings = report["findings"]
    assert isinstance(findings, list)
    assert {"level", "subject", "message", "todo"} == set(findings[0])
    assert any(each["subject"] == "queue default" and each["level"] == "bad" for each in findings)


def test_doctor_says_which_pools_have_ansible_loaded(site: Path, bench: Bench, call: Caller) -> None:
    (site / "workers/plain.yml").write_text("queues: [plain]\nansible: {warm: 'off'}\n")
    said = call("doctor", code=1).out
    assert "ok   warm Ansible: default: auto, no server runs here now; plain: off" in " ".join(said.split("\n"))


def test_doctor_says_why_a_process_with_ansible_loaded_starts_no_plays(site: Path, bench: Bench, call: Caller) -> None:
    directory = warm_directory(bench.installation, bench.installation.site.pools["default"])
    directory.mkdir(parents=True)
    (directory / "key.refusal").write_text("it printed something")
    command = [sys.executable, "-c", "input()", str(directory / "key.play")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as server:
        (directory / "key.server").write_text(f"{server.pid} 0")
        findings = call.json("doctor", code=1)["findings"]
    assert isinstance(findings, list)
    said = [(each["level"], each["message"]) for each in findings if each["subject"] == "warm Ansible"]
    assert said == [
        ("ok", "default: auto, servers that run here: 1"),
        ("warn", "a server starts no plays: default: it printed something"),
    ]


WRITER = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
os.kill(os.getpid(), getattr(signal, sys.argv[2]))
input()
"""


@pytest.mark.parametrize(
    ("sign", "said", "todo"),
    [("SIGSTOP", ", and is stopped", "'kill -CONT {}' lets it go on"), ("SIGCONT", "", "Wait for it, or end it")],
)
def test_doctor_names_who_keeps_everybody_from_writing(
    bench: Bench, call: Caller, sign: str, said: str, todo: str
) -> None:
    path = str(bench.installation.database.url.database)
    assert "database lock" not in call("doctor", code=1).out
    with subprocess.Popen([sys.executable, "-c", WRITER, path, sign], stdin=subprocess.PIPE) as writer:
        wait_until(lambda: _locked(path), what="the writer has the lock")
        findings = call.json("doctor", code=1)["findings"]
        writer.kill()
    assert isinstance(findings, list)
    [found] = [each for each in findings if each["subject"] == "database lock"]
    assert f"nobody can write: process {writer.pid} ({sys.executable} -c" in found["message"]
    assert found["message"].endswith(f"keeps the lock, for 3s at least{said}")
    assert found["todo"].startswith(todo.format(writer.pid))
    assert any(each["subject"] == "clock" for each in findings), "what needs no writing is looked at all the same"


def _locked(path: str) -> bool:
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


def test_doctor_knows_dead_workers_and_other_revisions(bench: Bench, call: Caller) -> None:
    database = bench.installation.database
    with database.write() as session:
        now = database.now(session)
        for name, ago, version in (("live@a", 0, "0.0.1"), ("dead@b", 100, "0.0.1")):
            session.add(
                Worker(
                    name=name, host=name[-1], pid=1, pool=name[:4], queues=["default"], concurrency=1, version=version,
                    started_at=now, seen_at=now - timedelta(seconds=ago), stopping=False,
                )
            )  # fmt: skip
    printed = call("doctor", code=1).out
    assert "worker dead@b: not heard of for" in printed
    assert "worker live@a: alive, 1 at once from default" in printed
    assert "runs relengq 0.0.1" in printed
    assert "pool default: has no worker" in printed


def test_doctor_without_tables_or_database(site: Path, call: Caller, tmp_path: Path) -> None:
    empty = Database(f"sqlite:///{tmp_path}/empty.db")
    call.bench.close()
    call.bench.installation.database = empty
    printed = call("doctor", code=1).out
    assert "has no tables yet" in printed
    assert "relengq db upgrade" in printed
    empty.close()
    call.bench.installation.database = Database("postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=2")
    printed = call("doctor", code=1).out
    assert "bad  database" in printed
    call.bench.installation.database.close()


def test_doctor_sees_a_secret_key_that_others_may_read(bench: Bench, call: Caller) -> None:
    bench.start("flow", release="f44", token="hunter2")
    key = bench.installation.settings.secret_key_file
    key.chmod(0o644)
    assert f"chmod 600 {key}" in call("doctor", code=1).out


def test_doctor_says_how_processes_are_guarded(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = Host("", "", "/groups", "", "/groups", "", "", "none")
    nothing = Host("not permitted", "", "", "may not be written", "", "no controller", "", "not mounted")
    monkeypatch.setattr("relengq.doctor.guarding.host", lambda: everything)
    said = call("doctor", code=1).out
    assert "a PID namespace: the kernel ends a play with all that it started" in said
    assert "the kernel keeps them, by control groups (version 2) below /groups" in said
    installation = call.bench.installation
    installation.settings = installation.settings.model_copy(update={"process_guard": "cgroup"})
    said = call("doctor", code=1).out
    assert "a control group below /groups" in said
    assert "process_guard leaves it out" in said
    monkeypatch.setattr("relengq.doctor.guarding.host", lambda: nothing)
    said = call("doctor", code=1).out
    assert "guard processes (child subreapers) end whatever a play started" in said
    assert "no control group: may not be written" in said
    assert "the guard of a play looks every second" in said
    monkeypatch.setattr("relengq.doctor.guarding.guard_works", lambda: False)
    assert "bad  process guard: prctl is refused" in call("doctor", code=1).out


def test_doctor_names_what_a_copy_of_a_commit_lacks(call: Caller, site: Path) -> None:
    git = ("git", "-C", str(site), "-c", "user.name=a", "-c", "user.email=a@example.org")
    (site / ".gitignore").write_text(".relengq/\nroles/\n__pycache__/\n")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
        subprocess.run([*git, *command], check=True)
    cache = site / "playbooks/__pycache__"
    cache.mkdir()
    (cache / "a.pyc").touch()
    assert "submodules" not in call("doctor", code=1).out
    role = site / "playbooks/roles/galaxy/tasks"
    role.mkdir(parents=True)
    (role / "main.yml").touch()
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (site / "shared").mkdir()
    subprocess.run([*git, "update-index", "--add", "--cacheinfo", f"160000,{commit},shared"], check=True)
    printed = call("doctor", code=1).out
    assert "that runs play: shared/, playbooks/roles/" in printed
