# SPDX-License-Identifier: GPL-3.0-or-later
"""What messages from files start on the command line: told before, done once, and only for who may."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from relengq import access
from relengq.cli.judged import nearest
from relengq.documents import Json
from relengq.testing import Bench
from tests.support.calls import Caller
from tests.support.commands import Shell

TAG, COMPOSE = "org.fedoraproject.prod.buildsys.tag", "org.fedoraproject.prod.pungi.compose.status.change"
CI = "org.centos.prod.ci.koji-build.test.complete"
IMAGE = """
    inputs:
      release: {type: string, pattern: 'f[0-9]+'}
      token: {secret: true}
    on:
      - message: org.fedoraproject.*.buildsys.tag
        if:
          - msg.tag is match('f[0-9]+-updates$')
          - msg.instance == 'primary'
        inputs: {release: "{{ msg.release }}", token: hunter2}
        key: "{{ msg.release }} {{ msg.build_id }}"
    steps:
      - {name: one, playbook: hello.yml}
"""
ANY = """
    on:
      - {message: org.fedoraproject.prod.buildsys.tag, if: msg.user != 'bodhi'}
    steps:
      - {name: one, playbook: hello.yml}
"""
CLOSED = """
    access: {launch: [releng]}
    on:
      - {message: org.fedoraproject.prod.pungi.compose.status.change, if: msg.status == 'FINISHED'}
    steps:
      - {name: ci, wait_for: {message: 'org.centos.*.ci.*.test.complete', if: msg.passed}}
"""


@pytest.fixture
def bench(make_cli_bench: Callable[..., Bench]) -> Bench:
    """A bench over three workflows that messages start; the caller is in releng."""
    someone = access._user()
    return make_cli_bench(f'admins = []\n[groups]\nreleng = ["{someone}"]\n', image=IMAGE, any=ANY, closed=CLOSED)


def leave(bench: Bench) -> None:
    """Let the caller be in releng no more."""
    bench.installation.settings = bench.settings.model_copy(update={"groups": {}})


def message(message_id: str, topic: str, **body: Json) -> dict[str, Json]:
    return {"id": message_id, "topic": topic, "headers": {"sent-at": "2026-11-20T05:15:00+00:00"}, "body": body}


def tag(message_id: str, **body: Json) -> dict[str, Json]:
    usual: dict[str, Json] = {
        "tag": "f44-updates", "instance": "primary", "user": "bodhi", "release": "f44", "build_id": 7,
    }  # fmt: skip
    return message(message_id, TAG, **{**usual, **body})


def file(*messages: Json, name: str = "messages.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(each) + "\n" for each in messages))
    return name


def nothing_was_done(call: Caller) -> bool:
    return call.json_list("runs") == [] and call.json_list("parked", "--all") == []


def test_a_dry_run_says_for_each_workflow_what_would_happen_and_does_nothing(call: Caller) -> None:
    said = call("trigger", file(tag("m1")), "--dry-run").out
    assert f"{TAG}  m1  sent 2026-11-20" in said
    assert "image  would start  release=f44  token=" in said
    assert "hunter2" not in said
    assert "any    no: if: msg.user != 'bodhi' is false: msg.user is 'bodhi'" in said
    said = call("trigger", file(tag("m2", tag="f44-build-side-12345")), "--dry-run").out
    assert "is false: msg.tag is 'f44-build-side-12345'" in said
    assert nothing_was_done(call)


def test_a_dry_run_needs_no_site_that_has_run_before(site: Path) -> None:
    (site / "playbooks/workflows/image.yml").write_text(textwrap.dedent(IMAGE))
    (site / "tag.json").write_text(json.dumps(tag("m1")))
    said = Shell(site).run("trigger", "tag.json", "--dry-run").stdout
    assert "image  would start  release=f44" in said
    assert not (site / ".relengq").exists()
    assert "relengq db upgrade" in Shell(site).run("trigger", "tag.json", code=5).stderr


def test_a_message_that_could_not_be_used_is_told_with_the_reason(call: Caller) -> None:
    said = call("trigger", file(tag("m1", release="rawhide")), "--dry-run", code=1).out
    assert "image  would be parked: input 'release' must match the pattern f[0-9]+, not 'rawhide'" in said
    file({**tag("m2"), "body": ["not", "an object"]})
    assert (
        "would be parked: the body is an array, not an object"
        in call("trigger", "messages.jsonl", "--dry-run", code=1).out
    )
    assert nothing_was_done(call)


def test_a_topic_that_nothing_is_meant_for_is_told_with_what_is_near(call: Caller) -> None:
    staging = COMPOSE.replace(".prod.", ".stg.")
    said = call("trigger", file(message("m1", staging), message("m2", CI), message("m3", "a.b")), "--dry-run").out
    assert f"nothing is meant for this topic; it differs from {COMPOSE} in how it begins" in said
    assert "no run waits for it now; some would, for org.centos.*.ci.*.test.complete" in said
    assert "\n  nothing is meant for this topic\n" in said


@pytest.mark.parametrize(
    ("topic", "pattern", "near"),
    [
        ("org.fedoraproject.stg.buildsys.tag", "org.fedoraproject.prod.buildsys.tag", True),
        ("buildsys.tag", "org.fedoraproject.*.buildsys.tag", True),
        ("org.fedoraproject.prod.buildsys.tag", "org.fedoraproject.*.buildsys.#", True),
        ("org.fedoraproject.stg.buildsys.untag", "org.fedoraproject.prod.buildsys.tag", False),
        ("org.fedoraproject.stg.buildsys.tag", "org.fedoraproject.prod.#", False),
        ("a.b", "a.*", True),
    ],
)
def test_what_is_near(topic: str, pattern: str, near: bool) -> None:
    assert nearest(topic, [pattern]) == (pattern if near else None)


def test_messages_start_runs_once_whatever_is_called_again(bench: Bench, call: Caller) -> None:
    name = file(tag("m1"), tag("m2", user="kevin"), tag("m3", build_id=8), tag("m1"))
    said = call("trigger", name).out
    runs = call.json_list("runs")
    assert sorted(str(run["workflow"]) for run in runs) == ["any", "image", "image"]
    (first,) = [
        run for run in runs if run["workflow"] == "image" and bench.run(str(run["id"])).trigger["message_id"] == "m1"
    ]
    assert f"image  started run {first['id']}  release=f44" in said
    assert said.count(f"already started as run {first['id']}") == 2
    assert "4 messages: parked 0, started 3, awaited 0, duplicate 1, unmatched 0. 3 runs started." in said
    assert first["trigger"] == "message"
    assert first["who"] == access._user()
    assert f"already started as run {first['id']}" in call("trigger", name, "--dry-run").out
    assert "duplicate 4, unmatched 0. 0 runs started." in call("trigger", name).out
    assert len(call.json_list("runs")) == 3
    shown = " ".join(call("status", str(first["id"])).out.split())
    assert f"message m1 on {TAG} key f44 7" in shown


def test_a_dry_run_knows_which_messages_of_a_recording_do_the_same(call: Caller) -> None:
    found = call.json("trigger", file(tag("m1"), tag("m2")), "--dry-run")
    assert found["counts"] == {
        "messages": 2, "parked": 0, "started": 1, "awaited": 0, "duplicate": 1, "unmatched": 0, "runs": 1,
    }  # fmt: skip
    assert found["dry_run"] is True


def test_what_cannot_be_used_is_parked_and_the_rest_goes_on(call: Caller) -> None:
    said = call("trigger", file(tag("m1", release="rawhide"), tag("m2")), code=1).out
    assert "image  parked: input 'release' must match" in said
    assert "started run" in said
    assert "See what was parked, and why: relengq parked" in said
    (parked,) = call.json_list("parked")
    assert (parked["message_id"], parked["workflow"]) == ("m1", "image")
    again = call("trigger", file(tag("m1", release="rawhide"))).out
    assert "already: it was parked before" in again
    assert "already: it was parked before" in call("trigger", "messages.jsonl", "--dry-run").out


def test_a_run_that_waits_gets_its_message(bench: Bench, call: Caller) -> None:
    call("trigger", file(message("m1", COMPOSE, status="FINISHED")))
    (run,) = call.json_list("runs")
    result = file(message("m2", CI, passed=True), name="result.json")
    told = f"for run {run['id']} of closed, which waits for messages on this topic"
    assert told in call("trigger", result, "--dry-run").out
    assert bench.run(str(run["id"])).state == "waiting"
    assert told in call("trigger", result).out
    assert bench.run(str(run["id"])).state == "succeeded"
    assert "nothing" not in call("trigger", result).out


def test_one_workflow_alone_can_be_started(call: Caller) -> None:
    name = file(tag("m1", user="kevin"))
    assert call.json("trigger", name, "-w", "any")["counts"]["runs"] == 1  # type: ignore[index, call-overload]
    assert [run["workflow"] for run in call.json_list("runs")] == ["any"]
    assert "Did you mean 'image'" in call("trigger", name, "-w", "imgae", code=3).err


def test_who_may_not_launch_one_of_the_workflows_starts_nothing_at_all(bench: Bench, call: Caller) -> None:
    leave(bench)
    name = file(tag("m1"), message("m2", COMPOSE, status="FINISHED"))
    assert "may not start workflow closed: it needs group releng" in call("trigger", name, code=4).err
    assert nothing_was_done(call)
    assert "would start" in call("trigger", name, "--dry-run").out
    call("trigger", file(tag("m1"), message("m2", COMPOSE, status="DOOMED")))
    assert len(call.json_list("runs")) == 1


def test_who_may_not_launch_a_run_that_waits_ends_no_wait_of_it(bench: Bench, call: Caller) -> None:
    call("trigger", file(message("m1", COMPOSE, status="FINISHED")))
    (run,) = call.json_list("runs")
    leave(bench)
    assert "may not start workflow closed" in call("trigger", file(message("m2", CI, passed=True)), code=4).err
    assert bench.run(str(run["id"])).state == "waiting"


def test_a_fault_in_the_last_file_is_found_before_anything_is_done(call: Caller) -> None:
    name, bad = file(tag("m1")), file(tag("m2"), {"topic": "a.b"}, name="bad.jsonl")
    err = call("trigger", name, bad, code=2).err
    assert err == "relengq: bad.jsonl, line 2: this is no message: it has no 'body'. It has: topic.\n"
    assert "does not exist" in call("trigger", "none.json", code=2).err
    assert "There is no message in empty.json." in call("trigger", file(name="empty.json"), code=2).err
    assert "Missing argument" in call("trigger", code=2).err
    assert nothing_was_done(call)


def test_a_workflow_with_faults_is_told_and_not_parked_for(bench: Bench, call: Caller) -> None:
    path = bench.settings.site / "playbooks/workflows/any.yml"
    path.write_text(textwrap.dedent(ANY).replace("steps:", "stepps:"))
    name = file(tag("m1", user="kevin"))
    assert (
        "any    would be parked: playbooks/workflows/any.yml has faults"
        in call("trigger", name, "--dry-run", code=1).out
    )
    assert "any.yml" in call("trigger", name, code=2).err
    assert nothing_was_done(call)


def test_standard_input_is_read_too(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = io.BytesIO(json.dumps({"raw_messages": [tag("m1"), tag("m2", build_id=9)]}).encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(recorded))
    assert "2 runs started" in call("trigger", "-").out


def test_a_whole_recording_is_replayed_in_its_order_and_told_in_short(call: Caller) -> None:
    noise = [message(f"n{number}", f"org.fedoraproject.prod.noise{number % 12}", x=1) for number in range(480)]
    mine = [tag(f"m{number}", build_id=number) for number in range(20)]
    recording = [each for at, each in enumerate(mine) for each in (*noise[at * 24 : at * 24 + 24], each)]
    name = file(*recording)
    said = call("trigger", name).out
    assert "500 messages: parked 0, started 20, awaited 0, duplicate 0, unmatched 480. 20 runs started." in said
    assert "40 on org.fedoraproject.prod.noise0: nothing is started" in said
    assert "… and 2 more topics" in said
    assert len(said.splitlines()) < 80
    runs = call.json_list("runs", "-n", "100")
    started = [line.split("started run ")[1].split()[0] for line in said.splitlines() if "started run " in line]
    assert started == sorted(str(run["id"]) for run in runs)
    assert len(call("trigger", name, "--dry-run", "--all").out.splitlines()) > 1000


def test_json_has_all_that_is_known(call: Caller) -> None:
    found = call.json("trigger", file(tag("m1"), message("m2", "a.b")))
    assert found["counts"]["unmatched"] == 1  # type: ignore[index, call-overload]
    one, other = found["messages"]  # type: ignore[misc, attr-defined]
    assert one["outcome"] == "started"
    assert one["sent_at"] == "2026-11-20T05:15:00.000Z"
    image = next(each for each in one["workflows"] if each["workflow"] == "image")
    assert image["run"]
    assert image["inputs"]["release"] == "f44"
    assert image["key"] == "key:f44 7"
    assert image["pattern"] == "org.fedoraproject.*.buildsys.tag"
    assert (other["outcome"], other["workflows"], other["waiting"]) == ("unmatched", [], [])
