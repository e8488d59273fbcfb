# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that wait for a message: which ones end them, whenever they come, whoever dies in between."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from relengq.engine import control, intake
from relengq.engine.rerun import rerun
from relengq.engine.start import Trigger
from relengq.messages import Message
from relengq.models import KeptMessage, Run, Step, Wait
from relengq.testing import Bench
from tests.support.waiting import wait_until

MakeBench = Callable[..., Bench]
CI = "org.centos.prod.ci.koji-build.test.complete"
WAITING = """
    inputs: {release: {type: string, default: f44}}
    steps:
      - {name: compose, playbook: hello.yml}
      - name: ci
        wait_for:
          {message: 'org.centos.*.ci.#', if: msg.compose == outputs.compose_id, fail_if: msg.result != 'passed',
           timeout: 6h}
      - {name: publish, playbook: hello.yml}
"""
AT_ONCE = """
    steps:
      - {name: ci, wait_for: {message: 'org.centos.*.ci.#', if: msg.ok, timeout: 1h, on_timeout: continue}}
      - {name: after, playbook: hello.yml}
"""
TAGGED = """
    on: [{message: org.x.tag}]
    steps: [{name: ci, wait_for: {message: org.x.ci}}]
"""
STARTED = """
    on: [{message: a.begin, key: '{{ msg.key }}'}]
    steps: [{name: more, wait_for: {message: 'a.*'}}, {name: after, playbook: hello.yml}]
"""


def passed(bench: Bench, compose: str = "X", result: str = "passed") -> Message:
    return bench.message(CI, compose=compose, result=result)


def count(bench: Bench, table: type[Wait] | type[KeptMessage]) -> int:
    with bench.installation.database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_message_that_came_before_the_step_counts(make_bench: MakeBench) -> None:
    bench = make_bench(waiting=WAITING)
    run_id = bench.start("waiting")
    [receipt] = bench.receive(passed(bench))
    assert (receipt.disposition, receipt.awaiting) == ("awaited", (run_id,))
    bench.play(outputs={"compose_id": "X"})
    assert bench.steps(run_id) == {"compose": "succeeded", "ci": "succeeded", "publish": "queued"}
    assert bench.run(run_id).steps[1].outputs == {"compose": "X", "result": "passed"}


def test_a_message_that_comes_after_ends_the_wait(make_bench: MakeBench) -> None:
    bench = make_bench(waiting=WAITING)
    run_id = bench.start("waiting")
    bench.play(outputs={"compose_id": "X"})
    assert bench.run(run_id).reason == "message org.centos.*.ci.#"
    bench.receive(passed(bench, "Y"))
    assert bench.steps(run_id)["ci"] == "waiting"
    bench.receive(passed(bench, "X"))
    assert bench.steps(run_id) == {"compose": "succeeded", "ci": "succeeded", "publish": "queued"}
    assert len(bench.sent) == 1


def test_a_message_fails_the_step_when_fail_if_holds(make_bench: MakeBench) -> None:
    bench = make_bench(waiting=WAITING)
    run_id = bench.start("waiting")
    message = passed(bench, "X", "failed")
    bench.receive(message)
    bench.play(outputs={"compose_id": "X"})
    run = bench.run(run_id)
    assert run.state == "failed"
    assert run.reason == f"ci: message {message.id} fails it: msg.result != 'passed'"
    assert run.steps[1].outputs == {"compose": "X", "result": "failed"}


def test_a_message_that_came_before_the_run_does_not_count(make_bench: MakeBench) -> None:
    bench = make_bench(waiting=WAITING, other=WAITING)
    bench.start("other")
    bench.receive(passed(bench))
    run_id = bench.start("waiting")
    bench.play()
    bench.play(outputs={"compose_id": "X"})
    assert bench.steps(run_id)["ci"] == "waiting"


def test_in_a_batch_what_comes_after_the_start_counts_and_what_comes_before_does_not(make_bench: MakeBench) -> None:
    bench = make_bench(started=STARTED)
    before, begin, after = bench.receive(
        bench.message("a.before"), bench.message("a.begin", key="k"), bench.message("a.after", n=1)
    )
    assert [each.disposition for each in (before, begin, after)] == ["unmatched", "started", "awaited"]
    [run_id] = begin.runs
    assert bench.steps(run_id)["more"] == "succeeded"
    assert bench.run(run_id).steps[0].outputs == {"n": 1}


def test_a_run_does_not_wait_for_the_message_that_started_it(make_bench: MakeBench) -> None:
    bench = make_bench(started=STARTED)
    other = bench.start("started")  # a run that another one's message is kept for
    message = bench.message("a.begin", key="k")
    [receipt] = bench.receive(message)
    assert (receipt.disposition, receipt.awaiting) == ("started", (other,))
    assert bench.receive(message)[0].disposition == "duplicate"
    bench.tick()
    assert bench.steps(other)["more"] == "succeeded"
    assert bench.steps(receipt.runs[0])["more"] == "waiting"
    bench.receive(bench.message("a.begin", key="k"))
    assert bench.steps(receipt.runs[0])["more"] == "succeeded", "another message with the same key counts"


def test_one_message_ends_the_waits_of_two_runs(make_bench: MakeBench) -> None:
    bench = make_bench(waiting=WAITING)
    first, second = bench.start("waiting"), bench.start("waiting")
    bench.play(outputs={"compose_id": "X"})
    bench.play(outputs={"compose_id": "X"})
    [receipt] = bench.receive(passed(bench))
    assert set(receipt.awaiting) == {first, second}
    assert [bench.steps(run_id)["publish"] for run_id in (first, second)] == ["queued", "queued"]


def test_each_instance_of_a_matrix_waits_for_its_own(make_bench: MakeBench) -> None:
    bench = make_bench(
        arches="""
        steps:
          - name: ci
            matrix: {arch: [x86_64, aarch64]}
            wait_for: {message: a.done, if: msg.arch == matrix.arch}
          - {name: after, playbook: hello.yml, when: outputs.ci.aarch64.n == 2}
        """
    )
    run_id = bench.start("arches")
    bench.receive(bench.message("a.done", arch="aarch64", n=2))
    assert bench.steps(run_id) == {"ci [aarch64]": "succeeded", "ci [x86_64]": "waiting", "after": "pending"}
    bench.receive(bench.message("a.done", arch="x86_64", n=1))
    assert bench.steps(run_id)["after"] == "queued"


def test_the_waits_of_a_rerun_begin_with_it(make_bench: MakeBench) -> None:
    bench = make_bench(waiting=WAITING)
    origin = bench.start("waiting")
    bench.play(outputs={"compose_id": "X"})
    bench.receive(passed(bench, "X", "failed"))
    again = rerun(bench.installation, origin, trigger=Trigger("person", "alice"), from_step="ci").run_id
    assert bench.steps(again)["ci"] == "waiting", "the message that failed the origin is not looked at again"
    bench.receive(passed(bench))
    assert bench.steps(again)["publish"] == "queued"
    last = rerun(bench.installation, origin, trigger=Trigger("person", "alice")).run_id
    bench.sent.clear()
    control.cancel(bench.installation, last, who="alice")
    assert count(bench, Wait) == 1


def test_a_run_on_hold_takes_its_message_and_goes_on_when_it_is_released(make_bench: MakeBench) -> None:
    bench = make_bench(waiting=WAITING)
    run_id = bench.start("waiting")
    bench.play(outputs={"compose_id": "X"})
    control.hold(bench.installation, run_id, who="alice")
    bench.receive(passed(bench))
    assert bench.steps(run_id) == {"compose": "succeeded", "ci": "succeeded", "publish": "pending"}
    assert bench.run(run_id).state == "held"
    control.release(bench.installation, run_id, who="alice")
    assert bench.steps(run_id)["publish"] == "queued"


def test_a_run_that_is_over_waits_for_nothing(make_bench: MakeBench) -> None:
    bench = make_bench(waiting=WAITING)
    run_id = bench.start("waiting")
    bench.play(outputs={"compose_id": "X"})
    assert count(bench, Wait) == 1
    control.cancel(bench.installation, run_id, who="alice")
    assert count(bench, Wait) == 0
    assert [each.disposition for each in bench.receive(passed(bench))] == ["unmatched"]


def test_a_run_that_is_skipped_waits_for_nothing(make_bench: MakeBench) -> None:
    bench = make_bench(alone="concurrency: {group: g, when_busy: skip}\n" + AT_ONCE.replace("\n    ", "\n"))
    bench.start("alone")
    assert bench.run(bench.start("alone")).state == "skipped"
    assert count(bench, Wait) == 1


def test_messages_of_no_use_are_forgotten(make_bench: MakeBench) -> None:
    bench = make_bench(waiting=WAITING)
    run_id = bench.start("waiting")
    bench.receive(passed(bench))
    _age(bench, KeptMessage, hours=1)
    bench.tick()
    assert count(bench, KeptMessage) == 0, "it is older than the only wait"
    bench.receive(passed(bench))
    _age(bench, Wait, hours=2)
    _age(bench, KeptMessage, hours=1)
    bench.tick()
    assert count(bench, KeptMessage) == 1
    control.cancel(bench.installation, run_id, who="alice")
    bench.tick()
    assert count(bench, KeptMessage) == 0


def test_a_message_that_no_run_waits_for_yet_is_kept_for_minutes_and_no_longer(make_bench: MakeBench) -> None:
    bench = make_bench(waiting=WAITING, other="steps: [{name: long, wait_for: {message: org.other, if: msg.n == 2}}]")
    bench.start("other")
    _age(bench, Wait, hours=1000)
    receipts = bench.receive(passed(bench), bench.message("org.other", n=1), bench.message("org.unknown"))
    assert [each.disposition for each in receipts] == ["unmatched", "awaited", "unmatched"]
    bench.tick()
    assert count(bench, KeptMessage) == 2, "what fits no pattern of the site is not kept at all"
    _age(bench, KeptMessage, hours=1)
    bench.tick()
    assert _topics(bench) == ["org.other"], "a wait of another topic keeps nothing"


def _topics(bench: Bench) -> list[str]:
    with bench.installation.database.read() as session:
        return list(session.scalars(select(KeptMessage.topic)))


def _age(bench: Bench, table: type[Wait] | type[KeptMessage], *, hours: int) -> None:
    column = "since" if table is Wait else "received_at"
    database = bench.installation.database
    with database.write() as session:
        moment = database.now(session) - timedelta(hours=hours)
        session.execute(update(table).values({column: moment}))


def test_a_message_that_cannot_be_judged_is_not_the_one_and_the_reason_says_so(make_bench: MakeBench) -> None:
    bench = make_bench(waiting=WAITING)
    run_id = bench.start("waiting")
    bench.play(outputs={"compose_id": "X"})
    bench.receive(bench.message(CI, "m1", other="X"))
    step = bench.run(run_id).steps[1]
    assert step.state == "waiting"
    assert (step.reason or "").startswith("message org.centos.*.ci.#; message m1 could not be judged: ")
    assert bench.run(run_id).reason == step.reason
    bench.receive(Message("m2", CI, {}, b"[1]"))
    assert "message m2 could not be judged: the body is an array" in (bench.run(run_id).steps[1].reason or "")
    bench.receive(passed(bench))
    assert bench.steps(run_id)["ci"] == "succeeded"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"compose": "X"}', "fail_if, with message m1: "),
        (b'{"compose": "X", "result": "passed", "n": 1e999}', "has a number that JSON cannot hold"),
        (json.dumps({"compose": "X", "result": "x" * (1 << 20)}).encode(), "the limit for outputs is 1048576"),
    ],
)
def test_a_message_that_cannot_become_outputs_fails_the_step(make_bench: MakeBench, raw: bytes, says: str) -> None:
    bench = make_bench(waiting=WAITING)
    run_id = bench.start("waiting")
    bench.play(outputs={"compose_id": "X"})
    bench.receive(Message("m1", CI, {}, raw))
    assert bench.run(run_id).state == "failed"
    assert says in (bench.run(run_id).reason or "")


def test_a_body_that_no_database_keeps_as_it_is_becomes_outputs(make_bench: MakeBench) -> None:
    bench = make_bench(waiting=WAITING)
    run_id = bench.start("waiting")
    bench.play(outputs={"compose_id": "X"})
    bench.receive(Message("m1", CI, {}, rb'{"compose": "X", "result": "passed", "n": "a\u0000b\ud800"}'))
    assert bench.run(run_id).steps[1].outputs == {"compose": "X", "result": "passed", "n": "a\ufffdb\ufffd"}


@pytest.mark.parametrize("clock", [True, False], ids=["the clock hands it on", "it is delivered again"])
def test_a_listener_that_dies_after_it_has_kept_a_message_loses_nothing(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, clock: bool
) -> None:
    bench = make_bench(waiting=WAITING)
    run_id = bench.start("waiting")
    bench.play(outputs={"compose_id": "X"})
    message = passed(bench)
    with monkeypatch.context() as patch:
        patch.setattr(intake, "deliver", _die)
        with pytest.raises(KeyboardInterrupt):
            bench.receive(message)
    assert bench.steps(run_id)["ci"] == "waiting"
    if clock:
        bench.tick()
    assert [receipt.disposition for receipt in bench.receive(message)] == ["duplicate"]
    assert bench.steps(run_id)["publish"] == "queued"
    assert len(bench.sent) == 1


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_time_out_does_not_overtake_a_message_that_was_kept(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(once=AT_ONCE)
    run_id = bench.start("once")
    with monkeypatch.context() as patch:
        patch.setattr(intake, "deliver", _die)
        with pytest.raises(KeyboardInterrupt):
            bench.receive(bench.message(CI, ok=True))
    _expire(bench)
    bench.tick()
    assert bench.run(run_id).steps[0].outputs == {"ok": True}


def test_a_wait_times_out_and_goes_on_when_it_may(make_bench: MakeBench) -> None:
    bench = make_bench(once=AT_ONCE)
    run_id = bench.start("once")
    bench.receive(bench.message(CI, ok=False))
    _expire(bench)
    bench.tick()
    step = bench.run(run_id).steps[0]
    assert (step.state, step.outputs) == ("succeeded", {"timed_out": True})
    assert step.reason == "nothing came in time (message org.centos.*.ci.#)"
    assert [each.disposition for each in bench.receive(bench.message(CI, ok=True))] == ["awaited"]


def _expire(bench: Bench) -> None:
    database = bench.installation.database
    with database.write() as session:
        session.execute(update(Step).values(due_at=database.now(session) - timedelta(seconds=1)))


@contextmanager
def paused(bench: Bench) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The next transaction of a process stops before its commit: sets the first event, waits for the second."""
    there, go_on = threading.Event(), threading.Event()

    def stop(_: Session) -> None:
        bench.installation.database.before_commit.clear()
        there.set()
        assert go_on.wait(60)

    bench.installation.database.before_commit.append(stop)
    yield there, go_on
    go_on.set()


def test_a_message_that_is_kept_while_its_step_begins_to_wait_counts(make_bench: MakeBench) -> None:
    worker, listener = make_bench(waiting=WAITING), make_bench()
    run_id = worker.start("waiting")
    held = worker.claim()
    assert held is not None
    with ThreadPoolExecutor(2) as pool, paused(worker) as (there, go_on):
        ending = pool.submit(worker.finish, held, outputs={"compose_id": "X"})
        assert there.wait(60), "the step waits, has seen no message, and that is not committed"
        taking = pool.submit(listener.receive, passed(listener))
        if not worker.installation.database.sqlite:  # which lets nobody write meanwhile
            _until(lambda: count(worker, KeptMessage) == 1)
        go_on.set()
        ending.result(60)
        assert taking.result(60)[0].disposition == "awaited"
    assert worker.steps(run_id)["ci"] == "succeeded"


def test_a_step_that_begins_to_wait_while_its_message_is_kept_gets_it(make_bench: MakeBench) -> None:
    worker, listener = make_bench(waiting=WAITING), make_bench()
    run_id = worker.start("waiting")
    held = worker.claim()
    assert held is not None
    with ThreadPoolExecutor(2) as pool, paused(listener) as (there, go_on):
        taking = pool.submit(listener.receive, passed(listener))
        assert there.wait(60), "the message is kept, and that is not committed"
        ending = pool.submit(worker.finish, held, outputs={"compose_id": "X"})
        if not worker.installation.database.sqlite:
            ending.result(60)
            assert worker.steps(run_id)["ci"] == "waiting"
        go_on.set()
        taking.result(60)
        ending.result(60)
    assert worker.steps(run_id)["ci"] == "succeeded"


def test_a_message_that_another_listener_takes_while_its_run_is_made_counts(make_bench: MakeBench) -> None:
    first, second = make_bench(tagged=TAGGED), make_bench()
    with ThreadPoolExecutor(2) as pool, paused(first) as (there, go_on):
        starting = pool.submit(first.receive, first.message("org.x.tag", build="z"))
        assert there.wait(60), "the run is made, and that is not committed"
        taking = pool.submit(second.receive, second.message("org.x.ci", build="z", result="passed"))
        if not first.installation.database.sqlite:  # which lets nobody write meanwhile
            assert taking.result(60)[0].disposition == "unmatched", "nobody is known to wait for it"
        go_on.set()
        [run_id] = starting.result(60)[0].runs
        taking.result(60)
    first.tick()
    assert first.run(run_id).steps[0].outputs == {"build": "z", "result": "passed"}


@pytest.mark.parametrize(
    ("sent", "counts"),
    [("2026-11-20T05:15:02+00:00", True), ("2026-11-20T05:15:01+00:00", False), (None, False)],
    ids=["sent after the trigger", "not sent after the trigger", "nobody knows when"],
)
def test_what_another_listener_took_before_the_trigger_counts_when_it_was_sent_after_it(
    make_bench: MakeBench, sent: str | None, counts: bool
) -> None:
    first, second = make_bench(tagged=TAGGED), make_bench()
    second.receive(_sent(second.message("org.x.ci", result="passed"), sent))
    [receipt] = first.receive(_sent(first.message("org.x.tag"), "2026-11-20T05:15:01+00:00"))
    first.tick()
    assert first.run(receipt.runs[0]).state == ("succeeded" if counts else "waiting")


def test_a_message_of_an_hour_ago_does_not_count_whenever_it_was_sent(make_bench: MakeBench) -> None:
    bench = make_bench(tagged=TAGGED)
    bench.receive(_sent(bench.message("org.x.ci", result="passed"), "2026-11-20T05:15:02+00:00"))
    _age(bench, KeptMessage, hours=1)
    [receipt] = bench.receive(_sent(bench.message("org.x.tag"), "2026-11-20T05:15:01+00:00"))
    assert bench.steps(receipt.runs[0]) == {"ci": "waiting"}


@pytest.mark.parametrize(("who", "disposition"), [("bus", "duplicate"), ("alice", "awaited")])
def test_what_came_before_the_run_counts_when_a_person_hands_it_in_again_and_not_when_the_broker_does(
    make_bench: MakeBench, who: str, disposition: str
) -> None:
    bench = make_bench(tagged=TAGGED)
    message = bench.message("org.x.ci", result="passed")
    bench.receive(message)
    [receipt] = bench.receive(bench.message("org.x.tag"))
    assert [each.disposition for each in bench.intake.take([message], who=who)] == [disposition]
    assert bench.steps(receipt.runs[0]) == {"ci": "waiting" if who == "bus" else "succeeded"}
    bench.tick()
    assert bench.steps(receipt.runs[0]) == {"ci": "waiting" if who == "bus" else "succeeded"}, "and so it stays"


def _sent(message: Message, moment: str | None) -> Message:
    return replace(message, headers={"sent-at": moment} if moment else {})


def test_two_listeners_with_one_message_end_a_wait_once(make_bench: MakeBench) -> None:
    first, second = make_bench(once=AT_ONCE), make_bench()
    for _ in range(5):
        run_id = first.start("once")
        message, barrier = first.message(CI, ok=True), threading.Barrier(2)

        def take(bench: Bench, message: Message = message, barrier: threading.Barrier = barrier) -> str:
            barrier.wait()
            return str(bench.receive(message)[0].disposition)

        with ThreadPoolExecutor(2) as pool:
            taken = [pool.submit(take, bench) for bench in (first, second)]
            assert sorted(each.result() for each in taken) == ["awaited", "duplicate"]
        assert first.steps(run_id) == {"ci": "succeeded", "after": "queued"}


def test_a_run_that_is_cancelled_while_its_message_comes_stays_cancelled(make_bench: MakeBench) -> None:
    person, listener = make_bench(once=AT_ONCE), make_bench()
    run_id = person.start("once")
    with ThreadPoolExecutor(2) as pool, paused(person) as (there, go_on):
        cancelling = pool.submit(control.cancel, person.installation, run_id, who="alice")
        assert there.wait(60)
        taking = pool.submit(listener.receive, listener.message(CI, ok=True))
        if not person.installation.database.sqlite:
            _until(lambda: count(person, KeptMessage) == 1)
        go_on.set()
        cancelling.result(60)
        assert taking.result(60)[0].disposition in ("awaited", "unmatched")
    with person.installation.database.read() as session:
        assert session.get_one(Run, run_id).state == "cancelled"


def _until(there: Callable[[], bool]) -> None:
    wait_until(there, 60, "the other transaction is that far")
