# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of messages: each start once, whatever is delivered again, wrong, out of order, or to two at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from relengq.engine import intake
from relengq.engine.installation import Parcel
from relengq.engine.intake import Disposition, Intake, Receipt
from relengq.errors import BrokerUnavailable, DatabaseUnavailable, MessageFault, NotAllowed
from relengq.messages import Message, delivered
from relengq.models import ParkedMessage, Run
from relengq.runs import create, definitions
from relengq.runs.create import NewRun
from relengq.testing import Bench

MakeBench = Callable[..., Bench]
TAG = "org.fedoraproject.prod.buildsys.tag"
TAGGED = """
    inputs: {package: {type: string, pattern: '[a-z0-9]+'}}
    on:
      - {message: org.fedoraproject.*.buildsys.tag, if: msg.tag == 'f44', inputs: {package: '{{ msg.name }}'}}
    steps: [{name: one, playbook: hello.yml}]
"""
KEYED = """
    on: [{message: '#.ostree', key: '{{ msg.commit }}'}]
    steps: [{name: one, playbook: hello.yml}]
"""


def runs(bench: Bench) -> list[Run]:
    with bench.installation.database.read() as session:
        return list(session.scalars(select(Run).order_by(Run.id)))


def parked(bench: Bench) -> list[tuple[str, str, str]]:
    """The message, the workflow and the reason of each parked message."""
    with bench.installation.database.read() as session:
        rows = session.scalars(select(ParkedMessage).order_by(ParkedMessage.id))
        return [(row.message_id, row.workflow, row.reason) for row in rows]


def tagged(bench: Bench, name: str = "bash") -> Message:
    return bench.message(TAG, tag="f44", name=name)


def test_a_message_starts_one_run_however_often_it_is_delivered(make_bench: MakeBench) -> None:
    bench = make_bench(tagged=TAGGED)
    message = tagged(bench)
    first, second = bench.receive(message, message)
    [third] = bench.receive(message)
    assert (first.disposition, second.disposition, third.disposition) == ("started", "duplicate", "duplicate")
    [run] = runs(bench)
    assert first.runs == (run.id,)
    assert second.duplicates == third.duplicates == (("tagged", run.id),)
    assert (run.inputs, run.trigger_kind, run.who) == ({"package": "bash"}, "message", "bus")
    assert run.trigger == {"message_id": message.id, "topic": TAG}
    assert bench.play() == "tagged: one #1"
    assert not bench.sent


def test_a_batch_starts_its_runs_in_its_order(make_bench: MakeBench) -> None:
    bench = make_bench(tagged=TAGGED)
    receipts = bench.receive(*[tagged(bench, f"p{number}") for number in range(50)])
    assert [run.inputs["package"] for run in runs(bench)] == [f"p{number}" for number in range(50)]
    assert [receipt.runs[0] for receipt in receipts] == [run.id for run in runs(bench)]
    assert len(bench.sent) == 50


def test_the_first_message_of_a_process_is_taken_with_its_batch(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(tagged=TAGGED)
    monkeypatch.setattr(definitions, "_read", {})  # as in a listener that has just been started
    with capture_logs() as logs:
        receipts = bench.receive(tagged(bench, "bash"), tagged(bench, "zsh"))
    assert [receipt.disposition for receipt in receipts] == ["started", "started"]
    assert "messages.taken_one_by_one" not in [line["event"] for line in logs]


def test_a_message_that_nobody_means_is_unmatched_and_writes_nothing(make_bench: MakeBench) -> None:
    bench = make_bench(tagged=TAGGED)

    def never(_: Session) -> None:
        raise AssertionError("a transaction that writes")

    bench.installation.database.before_commit.append(never)
    assert [each.disposition for each in bench.receive(bench.message("org.other"))] == ["unmatched"]
    bench.installation.database.before_commit.clear()
    [untagged] = bench.receive(bench.message(TAG, tag="f43", name="bash"))
    assert untagged.disposition == "unmatched"
    assert (runs(bench), parked(bench)) == ([], [])


def test_one_message_starts_several_workflows_and_each_once(make_bench: MakeBench) -> None:
    bench = make_bench(tagged=TAGGED, other=TAGGED)
    message = tagged(bench)
    [receipt], [again] = bench.receive(message), bench.receive(message)
    assert (len(receipt.runs), again.runs, len(again.duplicates)) == (2, (), 2)
    assert [run.workflow for run in runs(bench)] == ["other", "tagged"]


def test_two_messages_with_one_key_are_the_same(make_bench: MakeBench) -> None:
    bench = make_bench(keyed=KEYED)
    first, second = bench.receive(*[bench.message("a.ostree", commit="c1") for _ in range(2)])
    [other] = bench.receive(bench.message("a.ostree", commit="c2"))
    assert (first.disposition, second.disposition, other.disposition) == ("started", "duplicate", "started")
    assert [run.trigger["key"] for run in runs(bench)] == ["c1", "c2"]


@pytest.mark.parametrize("commit", [None, "", " "])
def test_a_message_without_a_key_is_parked(make_bench: MakeBench, commit: str | None) -> None:
    bench = make_bench(keyed=KEYED)
    [receipt] = bench.receive(bench.message("a.ostree", commit=commit))
    assert receipt.parked == (("keyed", "its key is empty"),)


def test_a_message_whose_inputs_do_not_fit_is_parked_once(make_bench: MakeBench) -> None:
    bench = make_bench(tagged=TAGGED)
    message = tagged(bench, "BASH 5")
    [receipt], [again] = bench.receive(message), bench.receive(message)
    assert (receipt.disposition, again.disposition) == ("parked", "duplicate")
    [(message_id, workflow, reason)] = parked(bench)
    assert (message_id, workflow) == (message.id, "tagged")
    assert "package" in reason


@pytest.mark.parametrize("raw", [b"[]", b"null", b"\xff", b"{", b"[" * 5000, b'{"a":' * 200 + b"1" + b"}" * 200])
def test_a_body_that_cannot_be_read_is_parked_and_others_go_on(make_bench: MakeBench, raw: bytes) -> None:
    bench = make_bench(tagged=TAGGED)
    bad, good = bench.receive(Message("bad", TAG, {}, raw), tagged(bench))
    assert (bad.disposition, good.disposition) == ("parked", "started")


def test_a_message_that_is_not_what_its_schema_says_is_parked_where_it_would_start(make_bench: MakeBench) -> None:
    bench = make_bench(tagged=TAGGED)

    def refuse(_: Message) -> None:
        raise MessageFault("the body does not fit its schema")

    strict = Intake(bench.installation, refuse)
    wanted, unwanted = strict.take([tagged(bench), bench.message(TAG, tag="f43", name="bash")])
    assert wanted.parked == (("tagged", "the body does not fit its schema"),)
    assert unwanted.disposition == "unmatched"


def test_beyond_max_runs_active_messages_are_parked(make_bench: MakeBench) -> None:
    bench = make_bench("max_runs_active = 2", tagged=TAGGED)
    messages = [tagged(bench) for _ in range(3)]
    dispositions = [receipt.disposition for receipt in bench.receive(*messages)]
    assert dispositions == ["started", "started", "parked"]
    assert "max_runs_active is 2" in parked(bench)[0][2]
    assert [receipt.disposition for receipt in bench.receive(*messages)] == ["duplicate"] * 3


def test_a_workflow_whose_file_became_faulty_loses_no_message(make_bench: MakeBench) -> None:
    bench = make_bench(tagged=TAGGED)
    assert bench.intake.judge(tagged(bench))[0].outcome == "start"
    file = bench.settings.site / "playbooks/workflows/tagged.yml"
    file.write_text(file.read_text() + "\nmistake: 1\n")
    for process in (bench.intake, Intake(bench.installation)):
        [receipt] = process.take([tagged(bench)])
        assert receipt.disposition == "parked"
        assert "playbooks/workflows/tagged.yml has faults" in receipt.parked[0][1]


def test_what_is_unexpected_parks_the_one_that_is_to_blame(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(tagged=TAGGED)
    working = create.create

    def faulty(session: Session, new: NewRun, *, now: datetime, sure: bool = False) -> tuple[Run, bool]:
        made = working(session, new, now=now, sure=sure)
        if new.inputs["package"] == "bad":
            raise RuntimeError("a mistake of ours")
        return made

    monkeypatch.setattr("relengq.engine.start.create", faulty)
    receipts = bench.receive(*[tagged(bench, name) for name in ("p1", "bad", "p2")])
    assert [receipt.disposition for receipt in receipts] == ["started", "parked", "started"]
    assert parked(bench)[0][2] == "a bug in relengq, RuntimeError; its log has the traceback"
    assert [run.inputs["package"] for run in runs(bench)] == ["p1", "p2"]
    assert len(bench.sent) == 2


def test_a_broker_that_is_away_delays_nothing(make_bench: MakeBench) -> None:
    bench = make_bench(tagged=TAGGED)
    asked: list[Parcel] = []

    def away(parcel: Parcel) -> None:
        asked.append(parcel)
        raise BrokerUnavailable("The broker does not answer.")

    bench.installation.send, working = away, bench.installation.send
    assert bench.receive(tagged(bench))[0].disposition == "started"
    assert bench.receive(tagged(bench))[0].disposition == "started"
    assert len(asked) == 1, "it is not waited for again"
    bench.installation.send = working
    bench.tick()
    assert len(bench.sent) == 2


def test_a_listener_that_dies_before_it_has_sent_leaves_that_to_the_clock(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(tagged=TAGGED)
    message = tagged(bench)
    with monkeypatch.context() as patch:
        patch.setattr(intake, "send_due", _die)
        with pytest.raises(KeyboardInterrupt):
            bench.receive(message)
    assert bench.receive(message)[0].disposition == "duplicate"
    assert not bench.sent
    bench.tick()
    assert len(bench.sent) == 1


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_transaction_that_fails_does_nothing_and_is_done_again(make_bench: MakeBench) -> None:
    bench = make_bench(tagged=TAGGED)
    message = tagged(bench)

    def away(_: Session) -> None:
        raise DatabaseUnavailable("The database is away.")

    bench.installation.database.before_commit.append(away)
    with pytest.raises(DatabaseUnavailable):
        bench.receive(message)
    bench.installation.database.before_commit.clear()
    assert runs(bench) == []
    assert bench.receive(message)[0].disposition == "started"


def test_what_a_listener_counts_is_in_the_transaction(make_bench: MakeBench) -> None:
    bench = make_bench(tagged=TAGGED)
    counted: list[str] = []

    def count(session: Session, receipts: Sequence[Receipt]) -> None:
        assert session.in_transaction()
        counted.extend(receipt.disposition for receipt in receipts)

    bench.intake.take([bench.message("org.other"), tagged(bench)], also=count)
    assert counted == ["unmatched", "started"]


def test_who_may_not_start_a_workflow_starts_nothing(make_bench: MakeBench) -> None:
    bench = make_bench(tagged=TAGGED)

    def may(_: object) -> None:
        raise NotAllowed("You may not.")

    with pytest.raises(NotAllowed):
        bench.intake.take([tagged(bench)], may=may)
    assert runs(bench) == []


def test_two_listeners_with_the_same_messages_start_each_run_once(make_bench: MakeBench) -> None:
    first, second = make_bench(tagged=TAGGED, keyed=KEYED), make_bench()
    for turn in range(3):
        messages = [tagged(first, f"p{turn}{number}") for number in range(10)]
        messages += [first.message("a.ostree", commit=f"c{turn}{number}") for number in range(10)]
        barrier = threading.Barrier(2)

        def take(
            bench: Bench, messages: list[Message], barrier: threading.Barrier = barrier
        ) -> dict[str, list[Receipt]]:
            barrier.wait()
            return {receipt.message_id: [receipt] for receipt in bench.receive(*messages)}

        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(take, first, messages)
            two = pool.submit(take, second, messages[::-1])
            receipts = [one.result(), two.result()]
        for message in messages:
            both = sorted(each[message.id][0].disposition for each in receipts)
            assert both == ["duplicate", "started"]
    assert len(runs(first)) == 60
    assert len(first.sent) + len(second.sent) >= 60


@pytest.mark.parametrize(
    ("when_busy", "states"),
    [
        ("queue", ["queued", "queued", "queued"]),
        ("skip", ["queued", "skipped", "skipped"]),
        ("cancel-running", ["cancelled", "cancelled", "queued"]),
    ],
)
def test_runs_of_one_batch_share_a_group_in_the_order_of_their_messages(
    make_bench: MakeBench, when_busy: str, states: list[str]
) -> None:
    bench = make_bench(
        alone=f"""
        concurrency: {{group: g, when_busy: {when_busy}}}
        on: [{{message: a}}]
        steps: [{{name: one, playbook: hello.yml}}, {{name: ci, wait_for: {{message: b}}}}]
        """
    )
    receipts = bench.receive(*[bench.message("a") for _ in range(3)])
    assert [receipt.disposition for receipt in receipts] == ["started"] * 3
    assert [run.state for run in runs(bench)] == states
    assert [run.id for run in runs(bench)] == [receipt.runs[0] for receipt in receipts]
    if when_busy == "queue":
        bench.play()
        bench.receive(bench.message("b"))
        assert bench.play() == "alone: one #1", "the second run has got the group"


def test_a_key_with_a_secret_is_kept_as_a_digest(make_bench: MakeBench) -> None:
    workflow = """
        inputs: {token: {secret: true}}
        on:
          - {message: org.test.tag, inputs: {token: "{{ msg.token }}"}, key: "of {{ msg.token }}"}
        steps:
          - {name: one, playbook: hello.yml}
    """
    bench = make_bench(secretive=workflow)
    taken = bench.intake.take([delivered("org.test.tag", each, {}, b'{"token": "hunter2"}') for each in ("a", "b")])
    assert [each.disposition for each in taken] == [Disposition.STARTED, Disposition.DUPLICATE]
    run = bench.run(taken[0].runs[0])
    assert "hunter2" not in f"{run.trigger_key} {run.trigger} {run.inputs}"
    assert str(run.trigger["key"]).startswith("sha256:")
