# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding runs, and one run as a person wants to see it, on SQLite and on PostgreSQL."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, update

from relengq.engine import control
from relengq.engine.rerun import rerun
from relengq.engine.start import Trigger
from relengq.errors import NotFound, UsageFault
from relengq.models import Attempt, Run, Step, TaskResult, Worker
from relengq.runs import lookup, results
from relengq.runs.lookup import HIDDEN, Filters
from relengq.runs.timeline import Timeline, timeline, usual
from relengq.states import RunState
from relengq.testing import Bench

FLOW = """
    inputs:
      release: {type: string}
      arches: {type: list, default: [x86_64, aarch64]}
      token: {type: string, secret: true, default: ""}
    access: {logs: [qa]}
    steps:
      - {name: one, playbook: hello.yml, retry: {attempts: 3, delay: 1h}}
      - {name: build, playbook: hello.yml, matrix: {arch: "{{ inputs.arches }}"}}
      - {name: go, approval: {groups: [leads], timeout: 1d}}
"""


@pytest.fixture
def bench(site: Path, tmp_path: Path, database_url: str) -> Iterator[Bench]:
    """A bench over one workflow."""
    (site / "playbooks/workflows/flow.yml").write_text(textwrap.dedent(FLOW))
    bench = Bench(site, tmp_path / "bench", database_url)
    yield bench
    bench.close()


def found(bench: Bench, **filters: object) -> list[str]:
    with bench.installation.database.read() as session:
        return [line.id for line in lookup.runs(session, Filters(**filters))]  # type: ignore[arg-type]


def seen(bench: Bench, run_id: str) -> Timeline:
    database = bench.installation.database
    with database.read() as session:
        return timeline(session, run_id, now=database.now(session))


def find(bench: Bench, text: str) -> str:
    with bench.installation.database.read() as session:
        return lookup.find(session, text)


def waits(bench: Bench, run_id: str) -> dict[str, str]:
    return {step.label: step.waits.reason for step in seen(bench, run_id).steps if step.waits}


def add_worker(bench: Bench, *, queues: list[str], concurrency: int = 1, ago: float = 0) -> None:
    database = bench.installation.database
    with database.write() as session:
        now = database.now(session)
        session.add(
            Worker(
                name="bench@host", host="host", pid=1, queues=queues, concurrency=concurrency, version="1",
                started_at=now, seen_at=now - timedelta(seconds=ago), stopping=False,
            )
        )  # fmt: skip


def test_a_run_is_found_by_any_unique_beginning(bench: Bench) -> None:
    run_id = bench.start("hello")
    assert find(bench, run_id) == run_id
    assert find(bench, run_id[:6].upper()) == run_id
    assert find(bench, "last") == run_id


def test_what_no_run_is_named_like_is_not_found(bench: Bench) -> None:
    with pytest.raises(NotFound, match="no run yet"):
        find(bench, "last")
    bench.start("hello")
    for text in ("zzzz", "", "%", "'; drop table runs", "x" * 50):
        with pytest.raises(NotFound):
            find(bench, text)


def test_an_ambiguous_beginning_names_the_candidates(bench: Bench) -> None:
    first, second = bench.start("hello"), bench.start("hello")
    with pytest.raises(UsageFault) as fault:
        find(bench, first[:2])
    assert first in str(fault.value)
    assert second in str(fault.value)


def test_runs_come_newest_first_and_limited(bench: Bench) -> None:
    ids = [bench.start("hello") for _ in range(4)]
    assert found(bench) == sorted(ids, reverse=True)
    assert found(bench, limit=2) == sorted(ids, reverse=True)[:2]


def test_every_filter_narrows(bench: Bench) -> None:
    flow = bench.start("flow", release="f44", arches=["x86_64"])
    other = bench.start("flow", release="f45")
    hello = bench.started("hello", {}, Trigger("schedule", "schedule nightly")).run_id
    control.cancel(bench.installation, hello, who="alice")
    assert found(bench, workflow="flow") == [other, flow]
    assert found(bench, states=(RunState.CANCELLED,)) == [hello]
    assert found(bench, states=(RunState.CANCELLED, RunState.QUEUED)) == [hello, other, flow]
    assert found(bench, trigger="schedule") == [hello]
    assert found(bench, who="tester") == [other, flow]
    assert found(bench, inputs=(("release", "f44"),)) == [flow]
    assert found(bench, inputs=(("arches", "aarch64"),)) == [other]
    assert found(bench, inputs=(("release", "f44"), ("arches", "aarch64"))) == []


def test_times_are_places_among_the_ids(bench: Bench) -> None:
    run_id = bench.start("hello")
    now = datetime.now(UTC)
    assert found(bench, since=now - timedelta(hours=1)) == [run_id]
    assert found(bench, since=now + timedelta(hours=1)) == []
    assert found(bench, until=now - timedelta(hours=1)) == []
    assert found(bench, until=now + timedelta(hours=1)) == [run_id]


def test_a_secret_cannot_be_searched_for(bench: Bench) -> None:
    bench.start("flow", release="f44", token="hunter2")
    assert found(bench, inputs=(("token", "hunter2"),)) == []


def test_a_list_of_runs_takes_a_fixed_number_of_statements(bench: Bench) -> None:
    for _ in range(10):
        bench.start("hello")
    statements = []
    listener: Callable[..., None] = lambda *arguments: statements.append(arguments[2])  # noqa: E731
    event.listen(bench.installation.database.engine, "before_cursor_execute", listener)
    assert len(found(bench)) == 10
    assert len([text for text in statements if "SELECT" in text]) <= 3


def test_why_a_queued_step_waits(bench: Bench) -> None:
    run_id = bench.start("flow", release="f44")
    assert waits(bench, run_id) == {"one": "nobody serves queue default"}
    add_worker(bench, queues=["default"], ago=60)
    assert waits(bench, run_id) == {"one": "nobody serves queue default"}


def test_a_free_worker_will_take_it(bench: Bench) -> None:
    run_id = bench.start("flow", release="f44")
    add_worker(bench, queues=["default"])
    assert waits(bench, run_id) == {"one": "on its way to a worker on queue default"}


def test_no_worker_is_free(bench: Bench) -> None:
    run_id, other = bench.start("flow", release="f44"), bench.start("hello")
    add_worker(bench, queues=["default"])
    held = bench.claim()
    assert held is not None
    with bench.installation.database.write() as session:
        session.execute(update(Attempt).where(Attempt.id == held.attempt_id).values(worker="bench@host"))
    assert held.run_id == run_id
    assert waits(bench, other) == {"hello": "no free worker on queue default"}


def test_a_retry_is_due_at_a_time(bench: Bench) -> None:
    run_id = bench.start("flow", release="f44")
    bench.play(state="failed", message="no disk")
    step = seen(bench, run_id).steps[0]
    assert step.waits is not None
    assert step.waits.reason == "try 2 of 3"
    assert step.waits.at is not None
    assert timedelta(minutes=50) < step.waits.at - datetime.now(UTC) < timedelta(minutes=61)
    assert "no disk" in (step.reason or "")


def test_a_run_on_hold_and_an_approval_say_so(bench: Bench) -> None:
    run_id = bench.start("flow", release="f44")
    control.hold(bench.installation, run_id, who="alice")
    assert waits(bench, run_id) == {"one": "the run is on hold"}
    assert bench.claim() is None
    control.release(bench.installation, run_id, who="alice")
    bench.play()
    bench.play()
    bench.play()
    step = seen(bench, run_id).steps[-1]
    assert step.waits is not None
    assert step.waits.reason == "approval by leads"
    assert step.waits.at is not None


def test_usual_durations_are_medians_of_what_succeeded(bench: Bench) -> None:
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    for seconds in (10, 20, 60, 5000):
        run_id = bench.start("hello")
        bench.play(state="failed" if seconds == 5000 else "succeeded")
        with bench.installation.database.write() as session:
            times = {"started_at": begun, "finished_at": begun + timedelta(seconds=seconds)}
            session.execute(update(Run).where(Run.id == run_id).values(**times))
            session.execute(update(Step).where(Step.run_id == run_id).values(**times))
    last = bench.start("hello")
    with bench.installation.database.read() as session:
        found = usual(session, "hello", last)
    assert found.run == 20
    assert found.steps == {("hello", ""): 20}
    assert seen(bench, last).steps[0].usual == 20


def test_a_kept_step_counts_for_nothing_usual(bench: Bench) -> None:
    first = bench.start("flow", release="f44", arches=["x86_64"])
    bench.play()
    bench.play(state="failed")
    again = rerun(bench.installation, first, trigger=Trigger("person", "alice"), failed=True).run_id
    bench.play()
    control.approve(bench.installation, again, None, who="alice", note=None, accepted=True)
    later = seen(bench, bench.start("flow", release="f44"))
    assert later.usual is None
    line = seen(bench, again)
    assert line.steps[0].kept_from == first
    assert line.run.origin == first
    assert [run.id for run in seen(bench, first).reruns] == [again]
    with bench.installation.database.read() as session:
        assert set(usual(session, "flow", "z").steps) == {("build", "x86_64"), ("go", "")}


def failed_run(bench: Bench) -> str:
    run_id = bench.start("flow", release="f44")
    bench.play()
    bench.play()
    held = bench.claim()
    assert held is not None
    with bench.installation.database.write() as session:
        for seq, (host, status) in enumerate((("a", "ok"), ("b", "failed"), ("c", "unreachable")), 1):
            session.add(
                TaskResult(
                    attempt_id=held.attempt_id, seq=seq, host=host, play="Build", task="Make repodata",
                    action="command", status=status, changed=False, duration=1.5,
                    message=None if status == "ok" else "no space left on device",
                )
            )  # fmt: skip
    bench.finish(held, state="failed", message="b: Make repodata: no space left on device")
    return run_id


def test_the_failing_tasks_are_there_at_once(bench: Bench) -> None:
    run_id = failed_run(bench)
    line = seen(bench, run_id)
    failed = next(step for step in line.steps if step.state == "failed")
    assert [(failure.host, failure.task) for failure in failed.failures] == [
        ("b", "Make repodata"),
        ("c", "Make repodata"),
    ]
    assert failed.failures[0].message == "no space left on device"
    assert "no space left" in (line.run.reason or "")


def test_who_is_no_reader_sees_states_and_neither_values_nor_messages(bench: Bench) -> None:
    line = seen(bench, failed_run(bench)).hidden()
    assert line.run.readers == ("qa",)
    assert set(line.run.inputs.values()) == {HIDDEN}
    assert "no space left" not in repr(line)
    assert "f44" not in repr(line)
    assert [str(step.state) for step in line.steps] == ["succeeded", "failed", "succeeded", "skipped"]


def test_the_history_has_everything_in_order(bench: Bench) -> None:
    run_id = bench.start("hello")
    bench.play()
    with bench.installation.database.read() as session:
        events = lookup.history(session, run_id)
        assert lookup.history(session, run_id, events[2].id) == events[3:]
    assert events[0].action == "created"
    assert events[-1].action == "run succeeded"
    assert "hello" in {each.step for each in events}


def test_attempts_by_step_and_instance(bench: Bench) -> None:
    run_id = failed_run(bench)
    with bench.installation.database.read() as session:
        assert [line.label for line in results.attempts(session, run_id)] == [
            "one #1", "build [aarch64] #1", "build [x86_64] #1",
        ]  # fmt: skip
        assert len(results.attempts(session, run_id, "build")) == 2
        one = results.attempts(session, run_id, "build[x86_64]")
        assert [line.instance for line in one] == ["x86_64"]
        with pytest.raises(NotFound, match="build"):
            results.attempts(session, run_id, "biuld")


def test_task_results_by_host_and_failure(bench: Bench) -> None:
    run_id = failed_run(bench)
    with bench.installation.database.read() as session:
        ids = [line.id for line in results.attempts(session, run_id)]
        every = [task for tasks in results.tasks(session, ids).values() for task in tasks]
        failed = [task for tasks in results.tasks(session, ids, failed=True).values() for task in tasks]
        of_b = [task for tasks in results.tasks(session, ids, host="b").values() for task in tasks]
        assert results.hosts(session, ids) == {"a", "b", "c"}
    assert [task.host for task in every] == ["a", "b", "c"]
    assert [task.host for task in failed] == ["b", "c"]
    assert [task.status for task in of_b] == ["failed"]
