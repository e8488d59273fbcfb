# SPDX-License-Identifier: GPL-3.0-or-later
"""What those see and may do who are not in the groups of a workflow: no value of an input, by no way around."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from relengq.access import person
from relengq.engine import control
from relengq.testing import Bench
from tests.support.calls import Caller

SHUT = """
    access: {logs: [qa]}
    inputs:
      product: {type: string}
      variants: {type: list, default: [Server, Spin]}
    concurrency: {group: "of-{{ inputs.product }}"}
    steps:
      - {name: one, playbook: hello.yml, queue: "q-{{ inputs.product }}", retry: {attempts: 2}}
      - {name: go, approval: {groups: [leads], note: "ship {{ inputs.product }}"},
         matrix: {variant: "{{ inputs.variants }}"}}
"""
OPEN = SHUT.replace("access: {logs: [qa]}", "")


@pytest.fixture
def bench(make_cli_bench: Callable[..., Bench]) -> Bench:
    """A bench over one workflow whose runs the caller may not read, and its twin that all may; nobody is an admin."""
    return make_cli_bench("admins = []\n", shut=SHUT, open=OPEN)


def write(site: Path, name: str, text: str) -> None:
    (site / f"playbooks/workflows/{name}.yml").write_text(textwrap.dedent(text))


def join(bench: Bench, *groups: str) -> None:
    """Let the caller be in groups."""
    name = person(bench.settings).name
    joined = bench.settings.model_copy(update={"groups": {group: [name] for group in groups}})
    bench.installation.settings = joined


def everything(call: Caller, run_id: str) -> str:
    """All that can be had of a run by looking."""
    printed = ""
    for arguments in (("status", run_id), ("history", run_id), ("runs",)):
        printed += call(*arguments).out + call(*arguments, "--json").out
    return printed


def test_no_view_has_a_value_of_an_input(bench: Bench, call: Caller) -> None:
    run_id = bench.start("shut", product="zeppelin")
    waiting = bench.start("shut", product="zeppelin")
    views = everything(call, run_id) + everything(call, waiting)
    bench.play(state="failed", message="zeppelin has no disk")
    views += everything(call, run_id)
    bench.tick()
    bench.play()
    views += everything(call, run_id)
    assert "go [#1]" in views
    assert "go [#2]" in views
    assert "approval by leads" in views
    assert "nobody serves its queue" in views
    call("cancel", run_id)
    views += everything(call, run_id)
    views += call("status", run_id, "--follow", code=1).out
    for value in ("zeppelin", "Server", "Spin"):
        assert value not in views


def test_following_tells_no_message_of_a_try(bench: Bench, call: Caller) -> None:
    shut, free = bench.start("shut", product="a"), bench.start("open", product="b")
    for _ in range(2):
        bench.play(state="failed", message="host1: Task: no disk")
    for _ in range(2):
        bench.tick()
        bench.play(state="timed_out", message="host1: Task: too slow")
    hidden = call("status", shut, "--follow", code=1).out
    assert "no disk" not in hidden
    assert "too slow" not in hidden
    assert "one failed" in hidden
    assert "no disk" in call("status", free, "--follow", code=1).out


def test_a_filter_on_inputs_does_not_tell_whether_a_hidden_run_fits(bench: Bench, call: Caller) -> None:
    free = bench.start("open", product="zeppelin")
    shut = bench.start("shut", product="zeppelin")
    assert [line["id"] for line in call.json_list("runs")] == [shut, free]
    assert [line["id"] for line in call.json_list("runs", "-i", "product=zeppelin")] == [free]
    assert [line["id"] for line in call.json_list("runs", "-i", "product=zeppelin", "-n", "1")] == [free]
    join(bench, "qa")
    assert [line["id"] for line in call.json_list("runs", "-i", "product=zeppelin")] == [shut, free]


def test_what_a_site_has_tightened_holds_for_older_runs(bench: Bench, call: Caller, site: Path) -> None:
    run_id = bench.start("open", product="zeppelin")
    write(site, "open", "access: {launch: [releng], logs: [qa]}" + textwrap.dedent(OPEN))
    for verb in ("cancel", "hold", "release", "rerun"):
        arguments = (verb, run_id, "--revision", "same") if verb == "rerun" else (verb, run_id)
        assert "needs group releng" in call(*arguments, code=4).err
    assert "needs group qa" in call("logs", run_id, code=4).err
    assert "zeppelin" not in everything(call, run_id)
    (site / "playbooks/workflows/open.yml").unlink()
    assert "zeppelin" in everything(call, run_id)
    call("cancel", run_id)


def test_a_rerun_is_no_way_around_what_a_site_has_loosened(bench: Bench, call: Caller, site: Path) -> None:
    """The run of an older file is asked too: who may not read it gets nothing of it as a run that they may read."""
    run_id = bench.start("shut", product="zeppelin")
    control.cancel(bench.installation, run_id, who="alice")
    write(site, "shut", OPEN)
    for arguments in (("--revision", "latest"), ("--revision", "latest", "--from", "one")):
        err = call("rerun", run_id, *arguments, code=4).err
        assert "needs group qa" in err
        assert "zeppelin" not in err
    assert len(call.json_list("runs")) == 1
    repeated = str(call.json("rerun", run_id, "--revision", "same")["run"])
    assert "zeppelin" not in everything(call, repeated), "its readers are those of the first"
    join(bench, "qa")
    latest = str(call.json("rerun", run_id, "--revision", "latest")["run"])
    join(bench)
    assert "zeppelin" in everything(call, latest), "one of its readers has opened it"


def test_who_may_start_a_workflow_now_repeats_no_run_that_was_not_theirs_to_start(
    bench: Bench, call: Caller, site: Path
) -> None:
    write(site, "open", "access: {launch: [releng]}" + textwrap.dedent(OPEN))
    run_id = bench.start("open", product="zeppelin")
    control.cancel(bench.installation, run_id, who="alice")
    write(site, "open", OPEN)
    assert "needs group releng" in call("rerun", run_id, "--revision", "latest", code=4).err
    join(bench, "releng")
    call("rerun", run_id, "--revision", "latest")


def test_up_once_asks_whether_one_may_start_it(bench: Bench, call: Caller, site: Path) -> None:
    write(site, "open", "access: {launch: [releng]}" + textwrap.dedent(OPEN))
    assert "may not start workflow open" in call("up", "--once", "open", "-i", "product=a", code=4).err


def test_an_instance_is_approved_by_its_label_or_by_its_number(bench: Bench, call: Caller) -> None:
    shut, free = bench.start("shut", product="a"), bench.start("open", product="b")
    bench.play()
    bench.play()
    join(bench, "leads")
    assert "go [Server]" in call("approve", free, code=2).err
    assert f"relengq approve {free} 'go [Spin]'" in call("status", free).out
    assert "Step go [Spin]" in call("approve", free, "go [Spin]").out
    assert bench.steps(free)["go [Spin]"] == "succeeded"
    call("reject", free)
    assert bench.run(free).state == "failed"
    told = call("approve", shut, "go", code=2).err
    assert "Server" not in told
    assert "Server" not in call("approve", shut, "go [Serve]", code=3).err
    assert "Step go [#2]" in call("approve", shut, "go [#2]").out
    assert bench.steps(shut)["go [Spin]"] == "succeeded"
    assert bench.steps(shut)["go [Server]"] == "waiting"


def test_a_run_in_line_says_who_is_before_it_now(bench: Bench, call: Caller) -> None:
    first, second, third = (bench.start("open", product="a", variants=[]) for _ in range(3))
    bench.play()
    assert bench.run(first).state == "succeeded"
    said = f"concurrency group of-a is held by run {second}"
    assert call.json("status", third)["run"]["reason"] == said  # type: ignore[index, call-overload]
    assert {line["id"]: line["reason"] for line in call.json_list("runs")}[third] == said
    assert {line["id"]: line["reason"] for line in call.json_list("runs")}[second] == "nobody serves queue q-a"


def test_only_inputs_that_are_not_the_defaults_are_listed(bench: Bench, call: Caller) -> None:
    run_id = bench.start("open", product="a")
    other = bench.start("open", product="b", variants=["Spin"])
    lines = {line["id"]: line for line in call.json_list("runs")}
    assert lines[run_id]["given"] == ["product"]
    assert lines[run_id]["inputs"] == {"product": "a", "variants": ["Server", "Spin"]}
    printed = call("runs").out
    assert "Server" not in printed
    assert "product=b variants=Spin" in printed
    assert "product=a (and 1 default)" in call("status", run_id).out
    assert "default" not in call("status", other).out


def test_no_line_ends_in_blanks_where_no_terminal_is(bench: Bench, call: Caller) -> None:
    run_id = bench.start("open", product="a")
    for arguments in (("runs",), ("status", run_id), ("history", run_id), ("workflows",)):
        assert [line for line in call(*arguments).out.splitlines() if line != line.rstrip()] == []


def test_an_argument_that_is_no_text_is_refused(bench: Bench, call: Caller) -> None:
    run_id = bench.start("open", product="a")
    assert call("cancel", run_id, "--note", "\udcff", code=2).err == "relengq: argument 4 is not UTF-8.\n"
    assert "argument 3 is not UTF-8" in call("runs", "--who", "\udcff", code=2).err
