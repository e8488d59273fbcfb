# SPDX-License-Identifier: GPL-3.0-or-later
"""What is announced, and when: the outbox on real databases, with plays that the tests make up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import jsonschema
import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs

from relengq.announcements import bodies
from relengq.announcements.outbox import FAILED
from relengq.documents import Json
from relengq.engine import clock, control
from relengq.engine.advance import Advance
from relengq.engine.rerun import rerun
from relengq.engine.start import Trigger
from relengq.models import Announcement, Attempt, Run, Step
from relengq.runs import definitions, lookup
from relengq.runs.moves import move_run
from relengq.states import RunState
from relengq.testing import Bench
from relengq_messages import RunFinishedV1, RunStartedV1, RunWaitingV1, StepFinishedV1
from relengq_messages.messages import RelengqMessage

MakeBench = Callable[..., Bench]
CLASSES: dict[str, type[RelengqMessage]] = {
    each.topic: each for each in (RunStartedV1, RunFinishedV1, RunWaitingV1, StepFinishedV1)
}


@pytest.fixture
def make_bench(make_bench: MakeBench) -> Iterator[MakeBench]:
    """Makes a bench over workflows given as text; at the end, all that it has announced must fit its schema."""
    made: list[Bench] = []

    def make(settings: str = "", **workflows: str) -> Bench:
        made.append(make_bench(settings, **workflows))
        return made[-1]

    yield make
    for bench in made:
        check_all(bench)


def check_all(bench: Bench) -> None:
    """Every announcement that the test made fits its schema, knows no other fields, and has its severity."""
    with bench.installation.database.read() as session:
        for row in session.scalars(select(Announcement).where(Announcement.kind != "own")):
            kind = CLASSES[row.topic]
            message = kind(body=row.body)
            message.validate()
            assert row.severity == message.severity
            assert_known(row.body, kind.body_schema)
            assert message.summary
            assert str(message)
            assert message.app_name == "relengq"


def assert_known(body: Json, schema: dict[str, Json]) -> None:
    """The schema describes each field of the body; values that sites make up are free."""
    properties = schema.get("properties")
    if isinstance(body, dict) and isinstance(properties, dict):
        assert set(body) == set(properties)
        for name, value in body.items():
            assert_known(value, properties[name])  # type: ignore[arg-type]


def told(bench: Bench, run_id: str) -> list[str]:
    """What was announced, in short: topics without version and our name, with results."""
    found = []
    for topic, body in bench.announced(run_id):
        step = body.get("step")
        result = body.get("result") or (step.get("result") if isinstance(step, dict) else None)
        name = topic.removeprefix("relengq.").removesuffix(".v1")
        found.append(f"{name} {result}" if result else name)
    return found


def failures(bench: Bench, run_id: str) -> list[str | None]:
    with bench.installation.database.read() as session:
        return [event.note for event in lookup.history(session, run_id) if event.action == FAILED]


TWO = "steps: [{name: one, playbook: hello.yml}, {name: two, playbook: hello.yml}]"


def test_the_start_and_the_end_of_a_run_are_announced_unless_its_workflow_says_otherwise(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(
        two=f"""
        inputs:
          release: {{}}
          token: {{secret: true}}
        access: {{launch: [releng]}}
        {TWO}
        """,
        silent=f"announce: []\n{TWO}",
    )
    trigger = Trigger("message", "bus", "id:5a", {"message_id": "5a", "topic": "org.x.tag"})
    run_id = bench.started("two", {"release": "f44", "token": "hunter2"}, trigger).run_id
    assert told(bench, run_id) == []  # it is only queued
    bench.play(outputs={"compose_id": "X-1"})
    assert told(bench, run_id) == ["run.started"]
    bench.play()
    (_, started), (_, finished) = bench.announced(run_id)
    assert started["inputs"] == {"release": "f44"}
    assert "hunter2" not in json.dumps([started, finished])
    assert (started["who"], started["groups"]) == ("bus", ["releng"])
    assert started["trigger"] == {
        "kind": "message", "message_id": "5a", "topic": "org.x.tag", "schedule": None, "due": None,
    }  # fmt: skip
    assert (finished["result"], finished["outputs"], finished["failed_step"]) == (
        "succeeded",
        {"compose_id": "X-1"},
        None,
    )
    silent = bench.start("silent")
    bench.play()
    bench.play()
    assert (bench.run(silent).state, bench.announced(silent)) == ("succeeded", [])


def test_every_end_is_announced_whatever_ended_it(make_bench: MakeBench) -> None:
    bench = make_bench(
        two=TWO,
        short=f"timeout: 1h\n{TWO}",
        wrong="inputs: {x: {default: a}}\nsteps: [{name: one, playbook: hello.yml, when: inputs.x > 1}]",
        newest=f"concurrency: {{group: g, when_busy: cancel-running}}\n{TWO}",
        skip=f"concurrency: {{group: s, when_busy: skip}}\n{TWO}",
        fragile="steps: [{name: one, playbook: hello.yml, on_lost: fail}]",
    )
    failed = bench.start("two")
    bench.play(state="failed", message="localhost: Make it: no disk")
    body = bench.announced(failed)[-1][1]
    assert told(bench, failed) == ["run.started", "run.finished failed"]
    assert body["failed_step"] == {"name": "one", "instance": "", "message": "localhost: Make it: no disk"}

    cancelled = bench.start("two")
    held = bench.claim()
    control.cancel(bench.installation, cancelled, who="alice")
    assert told(bench, cancelled) == ["run.started"]
    assert held
    bench.finish(held, state="cancelled")
    assert told(bench, cancelled) == ["run.started", "run.finished cancelled"]
    assert bench.announced(cancelled)[-1][1]["stopped_by"] == "alice"
    unborn = bench.start("two")
    control.cancel(bench.installation, unborn, who="alice")
    assert told(bench, unborn) == ["run.finished cancelled"]
    bench.sent.clear()

    again = rerun(bench.installation, failed, trigger=Trigger("person", "bob")).run_id
    bench.play()
    bench.play()
    assert told(bench, again) == ["run.started", "run.finished succeeded"]
    assert bench.announced(again)[-1][1]["origin"] == failed

    assert told(bench, bench.start("wrong")) == ["run.finished failed"]
    bench.sent.clear()
    long = bench.start("short")
    held = bench.claim()
    past = bench.installation.now() - timedelta(seconds=1)
    with bench.installation.database.write() as session:
        session.execute(update(Run).where(Run.id == long).values(deadline=past))
    bench.tick()
    assert held
    bench.finish(held, state="cancelled")
    assert told(bench, long) == ["run.started", "run.finished failed"]
    lost = bench.start("fragile")
    bench.claim()
    with bench.installation.database.write() as session:
        session.execute(update(Attempt).where(Attempt.run_id == lost).values(lease_until=past))
    bench.tick()
    assert told(bench, lost) == ["run.started", "run.finished failed"]

    first = bench.start("newest")
    second = bench.start("newest")
    assert told(bench, first) == ["run.finished cancelled"]
    assert told(bench, second) == []
    bench.start("skip")
    assert told(bench, bench.start("skip")) == []  # it was never to be


def test_a_run_that_a_bug_breaks_off_is_announced_as_failed(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(two=TWO)
    run_id = bench.start("two")
    held = bench.claim()
    assert held
    monkeypatch.setattr(Advance, "go", lambda _: 1 / 0)
    bench.finish(held)
    assert told(bench, run_id) == ["run.started", "run.finished failed"]
    assert "a bug in relengq" in str(bench.announced(run_id)[-1][1]["reason"])


def test_what_was_rolled_back_is_not_announced(make_bench: MakeBench) -> None:
    bench = make_bench(two=TWO)
    run_id = bench.start("two")
    database = bench.installation.database

    def move(*, stand: bool, fault: bool = False) -> None:
        with database.write() as session:
            run = session.get_one(Run, run_id)
            inner = session.begin_nested()
            move_run(session, run, RunState.RUNNING, now=database.now(session))
            inner.commit() if stand else inner.rollback()
            if fault:
                raise ZeroDivisionError

    move(stand=False)
    assert told(bench, run_id) == []
    with pytest.raises(ZeroDivisionError):
        move(stand=True, fault=True)
    assert told(bench, run_id) == []
    move(stand=True)
    assert told(bench, run_id) == ["run.started"]


def test_waits_and_steps_are_announced_where_a_workflow_asks_for_it(make_bench: MakeBench) -> None:
    bench = make_bench(
        gate="""
        announce: [run.started, run.finished, run.waiting]
        steps:
          - {name: go, approval: {groups: [leads], note: 'Ship {{ run.workflow }}?', timeout: 1h}}
          - name: build
            playbook: hello.yml
            matrix: {arch: [s390x, x86_64]}
            allow_failure: true
            announce: step.finished
          - {name: ci, wait_for: {message: 'org.*.test.complete'}, announce: [run.waiting, step.finished]}
        """,
        quiet="announce: []\nsteps: [{name: go, approval: {}, announce: [run.waiting]}, {name: then, approval: {}}]",
    )
    run_id = bench.start("gate")
    assert told(bench, run_id) == ["run.started", "run.waiting"]  # the start first, though the step moved first
    waiting = bench.announced(run_id)[1][1]
    assert waiting["step"] == {"name": "go", "instance": ""}
    waits = waiting["waits_for"]
    assert isinstance(waits, dict)
    assert (waits["kind"], waits["groups"], waits["topic"]) == ("approval", ["leads"], None)
    assert waits["until"] is not None
    bench.decide(run_id)
    bench.play(outputs={"log": "a"})
    bench.play(state="failed", message="no disk")
    built = [body["step"] for _, body in bench.announced(run_id)[2:4]]
    assert [(step["instance"], step["result"], step["attempts"]) for step in built] == [  # type: ignore[index, call-overload]
        ("s390x", "succeeded", 1),
        ("x86_64", "failed", 1),
    ]
    assert told(bench, run_id)[4:] == ["run.waiting"]  # once, though the step asks for it as well
    ci = bench.announced(run_id)[4][1]["waits_for"]
    assert isinstance(ci, dict)
    assert (ci["kind"], ci["topic"], ci["until"]) == ("message", "org.*.test.complete", None)
    control.cancel(bench.installation, run_id, who="alice")
    assert told(bench, run_id)[5:] == ["step.finished cancelled", "run.finished cancelled"]
    quiet = bench.start("quiet")
    bench.decide(quiet)
    assert told(bench, quiet) == ["run.waiting"]


OWN = """
inputs: {release: {}, token: {secret: true, default: ''}}
announce:
  - topic: compose.{{ inputs.release }}.status
    body: {status: '{{ run.result }}', id: '{{ outputs.compose_id }}'}
  - {topic: compose.sorry, body: {why: '{{ run.reason }}'}, when: run.state == 'failed'}
steps:
  - name: make
    playbook: hello.yml
    matrix: {arch: '{{ ["a", "b"] }}'}
    announce:
      - {topic: 'made.{{ matrix.arch }}', body: {step: '{{ step }}', log: '{{ outputs.make[step.instance].log }}'}}
      - {topic: broken, body: {arch: '{{ matrix.arch }}', why: '{{ step.message }}'}, when: step.state != 'succeeded'}
"""


def test_a_workflow_says_what_it_likes_when_a_step_or_the_run_is_over(make_bench: MakeBench) -> None:
    bench = make_bench(own=OWN)
    good = bench.start("own", release="f44")
    bench.play(outputs={"log": "l1", "compose_id": "X-1"})
    bench.play(outputs={"log": "l2"})
    one, two, all_ = bench.announced(good)
    assert one == (
        "made.a",
        {"step": {"name": "make", "instance": "a", "state": "succeeded", "message": None}, "log": "l1"},
    )
    assert two[0] == "made.b"
    assert all_ == (
        "compose.f44.status",
        {"status": "succeeded", "id": {"a": "X-1"}},
    )
    bad = bench.start("own", release="f44", token="hunter2")
    bench.play(outputs={"log": "l1"})
    bench.play(state="failed", message="no disk")
    assert bench.announced(bad)[1:] == [
        ("broken", {"arch": "b", "why": "no disk"}),
        ("compose.sorry", {"why": "make [b]: no disk"}),
    ]
    assert failures(bench, good) == failures(bench, bad) == []


BROKEN = {
    "{topic: a, body: {x: '{{ outputs.nothing }}'}}": "a: the expression",
    "{topic: 'a.{{ inputs.word }}'}": "'a.*' is no topic",
    "{topic: 'a.{{ outputs.empty }}.b'}": "'a..b' is no topic",
    "{topic: \"{{ 'long.' * 50 }}x\"}": "is longer than 255 bytes with the bus's prefix",
    "{topic: a, body: {x: '{{ outputs.large }}', y: '{{ outputs.large }}'}}": "bytes; the limit is 1048576",
    "{topic: a, when: outputs.empty.x}": "cannot be evaluated",
}
"""What cannot be sent, and what is said of it."""


def test_an_announcement_that_cannot_be_made_is_told_in_the_history_and_harms_nothing_else(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    (tmp_path / "bus.toml").write_text('topic_prefix = "org.fedoraproject.stg"\n')
    bench = make_bench(
        f'bus_config = "{tmp_path}/bus.toml"\n',
        own=f"inputs: {{word: {{default: '*'}}}}\nannounce: [{', '.join(BROKEN)}, run.finished]\n"
        "steps: [{name: one, playbook: hello.yml}]",
    )
    run_id = bench.start("own")
    bench.play(outputs={"empty": "", "large": "x" * 600_000})
    assert bench.run(run_id).state == "succeeded"
    assert told(bench, run_id) == ["run.finished succeeded"]
    for note, fault in zip(failures(bench, run_id), BROKEN.values(), strict=True):
        assert note
        assert fault in note
    with bench.installation.database.read() as session:
        events = [event for event in lookup.history(session, run_id) if event.action == FAILED]
    assert all(event.hidden({}).note != event.note for event in events)


def test_values_that_are_too_large_are_left_out_and_said_to_be(make_bench: MakeBench) -> None:
    bench = make_bench(two=TWO)
    run_id = bench.start("two")
    bench.play(outputs={"first": "x" * 600_000})
    bench.play(outputs={"second": "x" * 600_000})
    finished = bench.announced(run_id)[-1][1]
    assert (finished["outputs"], finished["left_out"]) == ({}, ["outputs"])
    assert bodies.size(finished) < bodies.BODY_LIMIT


def test_a_wait_that_the_clock_ends_is_announced(make_bench: MakeBench) -> None:
    bench = make_bench(gate="steps: [{name: go, approval: {timeout: 1h}, announce: step.finished}]")
    run_id = bench.start("gate")
    past = bench.installation.now() - timedelta(seconds=1)
    with bench.installation.database.write() as session:
        session.execute(update(Step).where(Step.run_id == run_id).values(due_at=past))
    clock.Clock(bench.installation).tick()
    assert told(bench, run_id) == ["run.started", "step.finished failed", "run.finished failed"]


def test_a_body_that_does_not_fit_its_schema_is_found(make_bench: MakeBench) -> None:
    bench = make_bench(two=TWO)
    run_id = bench.start("two")
    bench.play()
    (_, body), *_ = bench.announced(run_id)
    for missing in body:
        with pytest.raises(jsonschema.ValidationError):
            RunStartedV1(body={key: value for key, value in body.items() if key != missing}).validate()
    RunStartedV1(body={**body, "added_later": 1}).validate()


def test_a_run_whose_workflow_is_of_another_version_ends_and_stops_no_clock(make_bench: MakeBench) -> None:
    bench = make_bench(gate="steps: [{name: go, approval: {timeout: 1h}}]", two=TWO)
    strange, other = bench.start("gate"), bench.start("two")
    with bench.installation.database.write() as session:
        run = session.get_one(Run, strange)
        run.definition.body = {**run.definition.body, "of_a_later_version": True}
        session.execute(update(Step).where(Step.run_id == strange).values(due_at=run.created_at))
        session.execute(update(Attempt).where(Attempt.run_id == other).values(sent_at=None))
    bench.sent.clear()
    definitions._read.clear()
    later = make_bench()
    with capture_logs():
        later.tick()
    assert later.run(strange).state == "failed"
    assert len(later.sent) == 1, "and the clock has sent what was to be sent"
    assert {str(note).partition(": ")[2] for note in failures(later, strange)} == {
        "this version of relengq does not understand the run's workflow"
    }
