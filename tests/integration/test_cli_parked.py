# SPDX-License-Identifier: GPL-3.0-or-later
"""What persons do with messages that could not be used: see why, repair, replay, drop."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from relengq import access
from relengq.messages import Message
from relengq.runs.lookup import HIDDEN
from relengq.testing import Bench
from tests.support.calls import Caller

TOPIC = "org.fedoraproject.prod.pungi.compose.status.change"
VERIFY = """
    inputs: {compose: {type: string, pattern: 'Fedora-[0-9]+'}}
    on: [{message: org.fedoraproject.*.pungi.compose.status.change, inputs: {compose: "{{ msg.compose_id }}"}}]
    steps: [{name: one, playbook: hello.yml}]
"""
CLOSED = VERIFY + "    access: {launch: [releng], logs: [qa]}\n"


@pytest.fixture
def bench(make_cli_bench: Callable[..., Bench]) -> Bench:
    """A bench over two workflows for the same messages, of which one is not for everybody; nobody is an admin."""
    return make_cli_bench("admins = []\n", verify=VERIFY, closed=CLOSED)


def write(name: str, text: str) -> None:
    Path(f"playbooks/workflows/{name}.yml").write_text(textwrap.dedent(text))


def join(bench: Bench, *groups: str) -> None:
    """Let the caller be in groups."""
    name = access._user()
    bench.installation.settings = bench.settings.model_copy(update={"groups": {group: [name] for group in groups}})


def park(bench: Bench, *ids: str, raw: bytes = b'{"compose_id": "zeppelin"}') -> None:
    bench.receive(*(Message(each, TOPIC, {"sent-at": "2026-11-20T05:15:00+00:00"}, raw) for each in ids))


def numbers(call: Caller, workflow: str) -> list[str]:
    """Ids of what is parked for a workflow, oldest first."""
    return [str(line["id"]) for line in call.json_list("parked", "-w", workflow)][::-1]


def test_without_parked_messages_the_list_says_so(call: Caller) -> None:
    assert call("parked").out == "No message is parked.\n"
    assert call("parked", "-w", "verify").out == "No message is parked for verify.\n"
    assert "there is no workflow 'verfy': did you mean 'verify'?" in call("parked", "-w", "verfy").out
    assert call("parked", "replay", "--all").out == "No message is parked.\n"
    assert "There is no parked message 7" in call("parked", "show", "7", code=3).err
    assert "There is no parked message 7" in call("parked", "drop", "7", code=3).err


def test_the_list_is_newest_first_with_the_reason(bench: Bench, call: Caller) -> None:
    park(bench, "m1", "m2")
    first, second = call.json_list("parked", "-w", "verify")
    assert (first["message_id"], second["message_id"]) == ("m2", "m1")
    assert "must match the pattern" in str(first["reason"])
    said = " ".join(call("parked").out.split())
    assert said.startswith("ID WHEN WORKFLOW TOPIC REASON")
    assert "verify org.fedora" in said
    assert len(call.json_list("parked", "-n", "1")) == 1


def test_one_is_shown_whole_and_clean(bench: Bench, call: Caller) -> None:
    park(bench, "m1", raw=b'{"compose_id": "\\u001b[31mred", "status": "FINISHED", "list": [1, 2]}')
    (number,) = numbers(call, "verify")
    said = call("parked", "show", number).out
    assert f"Parked message {number}  parked\n" in said
    assert "sent-at: 2026-11-20T05:15:00+00:00" in said
    assert '  "status": "FINISHED",\n  "list": [\n    1,' in said
    assert "\x1b" not in said
    assert f"relengq parked replay {number}" in said
    found = call.json("parked", "show", number)
    assert found["body"] == {"compose_id": "\x1b[31mred", "status": "FINISHED", "list": [1, 2]}
    assert found["text"] is None


@pytest.mark.parametrize("raw", [b'["an", "array"]', b"\xff\xfe not text", b"[" * 5000, b'{"n": NaN}', b""])
def test_a_body_that_is_none_is_shown_as_it_came(bench: Bench, call: Caller, raw: bytes) -> None:
    park(bench, "m1", raw=raw)
    (number,) = numbers(call, "verify")
    found = call.json("parked", "show", number)
    assert (found["body"], found["text"]) == (None, raw.decode(errors="replace"))
    assert "the body is" in call("parked", "show", number).out


def test_a_replay_after_the_repair_starts_the_run_once(bench: Bench, call: Caller) -> None:
    park(bench, "m1")
    (number,) = numbers(call, "verify")
    assert "parked as before: input 'compose' must match" in call("parked", "replay", number, code=1).out
    write("verify", VERIFY.replace("Fedora-[0-9]+", "[a-z]+"))
    said = call("parked", "replay", number).out
    (run,) = call.json_list("runs")
    assert said == f"{number}: started run {run['id']} of verify\n"
    assert f"Parked message {number} was replayed" in call("parked", "replay", number, code=4).err
    assert numbers(call, "verify") == []
    (line,) = call.json_list("parked", "--all", "-w", "verify")
    assert (line["resolution"], line["run_id"], line["resolved_by"]) == ("replayed", run["id"], access._user())
    shown = call("parked", "show", number).out
    assert f"Parked message {number}  replayed as run {run['id']} by {access._user()} at " in shown
    assert "When it is repaired" not in shown


def test_all_of_a_workflow_are_replayed_in_the_order_in_which_they_came(bench: Bench, call: Caller) -> None:
    park(bench, "m1", "m2", "m3")
    write("verify", VERIFY.replace("Fedora-[0-9]+", "[a-z]+"))
    done = call.json_list("parked", "replay", "--all", "--workflow", "verify")
    assert [line["message_id"] for line in done] == ["m1", "m2", "m3"]
    assert all(line["fresh"] for line in done)
    assert [line["run_id"] for line in done] == [run["id"] for run in call.json_list("runs")][::-1]


def test_dropped_ones_are_settled_and_stay_in_the_list_of_all(bench: Bench, call: Caller) -> None:
    park(bench, "m1", "m2")
    first, second = numbers(call, "verify")
    assert call("parked", "drop", first).out == "1 parked message dropped.\n"
    assert numbers(call, "verify") == [second]
    assert "was dropped by" in call("parked", "drop", first, code=4).err
    assert call("parked", "drop", "--all", "-w", "verify").out == "1 parked message dropped.\n"
    assert call("parked", "drop", "--all", "-w", "verify").out == "No message is parked for verify.\n"
    assert [line["resolution"] for line in call.json_list("parked", "--all", "-w", "verify")] == ["dropped", "dropped"]


def test_on_a_terminal_dropping_all_is_asked_for(bench: Bench, call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    park(bench, "m1", "m2")
    asked: list[str] = []

    def refuse(text: str, **_: object) -> None:
        asked.append(text)
        raise click.Abort

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(click, "confirm", refuse)
    call("parked", "drop", "--all", "-w", "verify", code=130)
    assert asked == ["Drop 2 parked messages for verify?"]
    assert len(numbers(call, "verify")) == 2
    call("parked", "drop", "--all", "-w", "verify", "--yes")
    assert numbers(call, "verify") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay",), ("drop",), ("replay", "1", "--all"), ("drop", "--all"), ("replay", "1", "-w", "verify"),
        ("drop", "0"), ("--all", "replay", "1"), ("replay", "x"), ("nope",),
    ],
)  # fmt: skip
def test_calls_that_could_mean_anything_are_refused(bench: Bench, call: Caller, arguments: tuple[str, ...]) -> None:
    park(bench, "m1")
    call("parked", *arguments, code=2)
    assert len(numbers(call, "verify")) == 1


def test_only_readers_see_reason_and_body_and_only_launchers_settle(bench: Bench, call: Caller) -> None:
    park(bench, "m1")
    (number,) = numbers(call, "closed")
    for said in (call("parked", "-w", "closed").out, str(call.json_list("parked", "-w", "closed"))):
        assert "zeppelin" not in said
    assert call.json_list("parked", "-w", "closed")[0]["reason"] == HIDDEN
    assert "may not read logs of workflow closed" in call("parked", "show", number, code=4).err
    assert "may not replay messages for workflow closed" in call("parked", "replay", number, code=4).err
    assert "may not drop messages for workflow closed" in call("parked", "drop", number, code=4).err
    assert "may not replay messages for workflow closed" in call("parked", "replay", "--all", code=4).err
    assert len(numbers(call, "verify")) == 1, "nothing was done for the other workflow either"
    join(bench, "releng")
    assert "zeppelin" not in call("parked", "replay", number, code=1).out
    join(bench, "qa")
    assert "zeppelin" in call("parked", "show", number).out


def test_access_is_that_of_the_file_be_it_faulty_and_the_admins_when_it_is_gone(bench: Bench, call: Caller) -> None:
    park(bench, "m1")
    (number,) = numbers(call, "closed")
    join(bench, "qa")
    path = Path("playbooks/workflows/closed.yml")
    path.write_text(path.read_text().replace("steps:", "stepps:"))
    assert "zeppelin" in call("parked", "show", number).out
    join(bench)
    assert "may not read logs" in call("parked", "show", number, code=4).err
    join(bench, "qa")
    path.unlink()
    assert "nobody but admins" in call("parked", "show", number, code=4).err
    bench.installation.settings = bench.settings.model_copy(update={"admins": [access._user()]})
    assert "fits its topic now" in call("parked", "replay", number, code=1).out
    call("parked", "drop", number)
