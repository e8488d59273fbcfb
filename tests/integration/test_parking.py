# SPDX-License-Identifier: GPL-3.0-or-later
"""Parked messages: kept as they came, shown, replayed with the site as it is now, or dropped."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest

from relengq.engine import parking
from relengq.errors import MessageFault, NotFound, WrongState
from relengq.messages import Message
from relengq.testing import Bench

MakeBench = Callable[..., Bench]
TAG = "org.fedoraproject.prod.buildsys.tag"
TAGGED = """
    inputs: {package: {type: string, pattern: '[a-z]+'}}
    on: [{message: '#.tag', if: msg.tag == 'f44', inputs: {package: '{{ msg.name }}'}}]
    steps: [{name: one, playbook: hello.yml}]
"""


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench(tagged=TAGGED)


def park(bench: Bench, name: str = "bash5", message_id: str = "m1") -> int:
    """Receive a message that the workflow cannot use, and return the id that it is parked under."""
    bench.receive(Message(message_id, TAG, {"h": 1}, f'{{"tag": "f44", "name": "{name}"}}'.encode()))
    return listed(bench)[0].id


def listed(bench: Bench, *, everything: bool = False) -> list[parking.ParkedLine]:
    with bench.installation.database.read() as session:
        return parking.listed(session, everything=everything)


def edit(bench: Bench, before: str, after: str) -> None:
    file = bench.settings.site / "playbooks/workflows/tagged.yml"
    file.write_text(textwrap.dedent(TAGGED).replace(before, after))


def test_a_parked_message_is_kept_as_it_came(bench: Bench) -> None:
    parked_id = park(bench)
    [line] = listed(bench)
    assert (line.message_id, line.topic, line.workflow, line.resolution) == ("m1", TAG, "tagged", None)
    assert "input 'package' must match the pattern" in line.reason
    with bench.installation.database.read() as session:
        shown = parking.show(session, parked_id)
    assert (shown.message.headers, shown.message.body, shown.cut) == ({"h": 1}, {"tag": "f44", "name": "bash5"}, False)


def test_a_replay_starts_the_run_when_the_workflow_was_mended(bench: Bench) -> None:
    parked_id = park(bench)
    edit(bench, "[a-z]+", "[a-z0-9]+")
    replayed = parking.replay(bench.installation, parked_id, "alice")
    assert (replayed.fresh, replayed.line.resolution, replayed.line.resolved_by) == (True, "replayed", "alice")
    run = bench.run(replayed.line.run_id or "")
    assert (run.inputs, run.trigger_kind, run.who) == ({"package": "bash5"}, "message", "alice")
    assert run.trigger["message_id"] == "m1"
    assert bench.play() == "tagged: one #1"
    assert listed(bench) == []
    assert [line.run_id for line in listed(bench, everything=True)] == [run.id]
    with pytest.raises(WrongState, match=f"replayed by alice as run {run.id}"):
        parking.replay(bench.installation, parked_id, "bob")
    [again] = bench.receive(Message("m1", TAG, {}, b'{"tag": "f44", "name": "bash5"}'))
    assert (again.disposition, again.duplicates) == ("duplicate", (("tagged", run.id),))


def test_a_replay_that_is_still_of_no_use_stays_parked_with_the_new_reason(bench: Bench) -> None:
    parked_id = park(bench)
    edit(bench, "[a-z]+", "[0-9]+")
    replayed = parking.replay(bench.installation, parked_id, "alice")
    assert (replayed.fresh, replayed.line.resolution, replayed.line.run_id) == (False, None, None)
    assert "pattern [0-9]+" in listed(bench)[0].reason
    edit(bench, "msg.tag == 'f44'", "msg.tag == 'f45'")
    assert parking.replay(bench.installation, parked_id, "alice").line.reason == (
        "if: msg.tag == 'f45' is false: msg.tag is 'f44'"
    )
    edit(bench, "#.tag", "other")
    assert parking.replay(bench.installation, parked_id, "alice").line.reason == (
        "no trigger of the workflow 'tagged' fits its topic now"
    )


def test_a_replay_asks_the_schema_and_the_number_of_runs_again(make_bench: MakeBench) -> None:
    bench = make_bench("max_runs_active = 1", tagged=TAGGED)
    bench.start("tagged", package="other")
    parked_id = park(bench, "bash")

    def refuse(_: Message) -> None:
        raise MessageFault("the body does not fit its schema")

    reasons = [
        parking.replay(bench.installation, parked_id, "alice", validate).line.reason for validate in (refuse, None)
    ]
    assert reasons[0] == "the body does not fit its schema"
    assert "max_runs_active is 1" in reasons[1]
    bench.play()
    assert parking.replay(bench.installation, parked_id, "alice").fresh


def test_a_message_that_was_dropped_is_done_with(bench: Bench) -> None:
    parked_id = park(bench)
    assert parking.drop(bench.installation, parked_id, "alice").resolution == "dropped"
    assert listed(bench) == []
    with pytest.raises(WrongState, match="dropped by alice"):
        parking.drop(bench.installation, parked_id, "bob")
    edit(bench, "[a-z]+", "[a-z0-9]+")
    [again] = bench.receive(Message("m1", TAG, {}, b'{"tag": "f44", "name": "bash5"}'))
    assert again.disposition == "duplicate"


def test_a_body_that_is_too_large_is_cut_and_cannot_be_replayed(bench: Bench) -> None:
    raw = b'{"tag": "f44", "name": "' + b"9" * parking.BODY_KEPT + b'"}'
    bench.receive(Message("m1", TAG, {}, raw))
    [line] = listed(bench)
    assert line.reason.endswith("larger than 16 MiB and was cut, so that it cannot be replayed.")
    with bench.installation.database.read() as session:
        assert parking.show(session, line.id).cut
    edit(bench, "pattern: '[a-z]+'", "pattern: '.*', max_length: 999999")
    assert parking.replay(bench.installation, line.id, "alice").line == line


@pytest.mark.parametrize("action", [parking.replay, parking.drop])
def test_what_is_not_parked_is_not_found(bench: Bench, action: Callable[..., object]) -> None:
    with pytest.raises(NotFound, match="no parked message 7"):
        action(bench.installation, 7, "alice")
