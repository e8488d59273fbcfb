# SPDX-License-Identifier: GPL-3.0-or-later
"""What is old goes, in small portions; what is needed stays; and a start that was made stays made."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from relengq.database import Database
from relengq.engine import control, parking, retention
from relengq.engine.rerun import rerun
from relengq.engine.retention import Retention
from relengq.engine.start import Trigger
from relengq.errors import DatabaseUnavailable, WrongState
from relengq.logs import store
from relengq.messages import Message
from relengq.models import (
    Announcement,
    Attempt,
    Base,
    Definition,
    GroupHolder,
    History,
    OutputChunk,
    ParkedMessage,
    Run,
    RunInput,
    ScheduleFire,
    SpentKey,
    Step,
    TaskResult,
    Wait,
    Worker,
)
from relengq.runs import definitions, pruning
from relengq.runs.census import Census
from relengq.runs.pruning import Portion, What
from relengq.testing import Bench
from relengq.workflows import Retention as Own
from tests.support.clocks import set_ahead

MakeBench = Callable[..., Bench]
TAG = "org.fedoraproject.prod.buildsys.tag"
FLOW = """
    inputs: {release: {type: string, default: rawhide}}
    on: [{message: org.fedoraproject.*.buildsys.tag, if: msg.tag == 'f44'}]
    steps: [{name: one, playbook: hello.yml}, {name: two, playbook: hello.yml}]
"""
SHORT = "retention_logs = '10d'\nretention_events = '20d'\nretention_runs = '30d'\nretention_keys = '40d'\n"
OF_RUNS: tuple[type[Base], ...] = (
    Run, Step, Attempt, History, RunInput, OutputChunk, TaskResult, Announcement, Wait, GroupHolder,
)  # fmt: skip


class Calendar:
    """Lets the database's clock be some days off."""

    def __init__(self) -> None:
        self.days = 0.0


@pytest.fixture
def calendar(monkeypatch: pytest.MonkeyPatch) -> Calendar:
    made = Calendar()
    set_ahead(monkeypatch, lambda: timedelta(days=made.days))
    return made


@pytest.fixture
def bench(make_bench: MakeBench, calendar: Calendar) -> Bench:
    """A bench over one workflow with short retention; its runs may be made in the past."""
    return make_bench(SHORT, flow=FLOW)


def finished(bench: Bench, *, state: str = "succeeded", workflow: str = "flow") -> str:
    """A run that is over, with some output and a task result of each attempt, and nothing left to announce."""
    run_id = bench.start(workflow)
    for _ in range(2):
        held = bench.claim()
        assert held is not None
        fill(bench, held.attempt_id, chunks=2, tasks=3)
        bench.finish(held, state=state)
        if state != "succeeded":
            break
    announced(bench, run_id)
    return run_id


def fill(bench: Bench, attempt_id: int, *, chunks: int, tasks: int) -> None:
    with bench.installation.database.write() as session:
        for seq in range(chunks):
            session.add(OutputChunk(**store.chunk(attempt_id, seq + 1, f"output {seq}\n".encode())))
        session.add_all(
            TaskResult(
                attempt_id=attempt_id, seq=seq + 1, host="h1", play="p", task=f"t{seq}", action="debug", status="ok",
                changed=False, duration=0.1,
            )
            for seq in range(tasks)
        )  # fmt: skip


def announced(bench: Bench, run_id: str) -> None:
    with bench.installation.database.write() as session:
        sent = update(Announcement).where(Announcement.run_id == run_id).values(sent_at=Announcement.created_at)
        session.execute(sent)


def prune(bench: Bench, **overrule: float) -> list[Portion]:
    return list(retention.prune(bench.installation, Own(**overrule)))  # type: ignore[arg-type]


def counts(bench: Bench, *tables: type[Base]) -> list[int]:
    with bench.installation.database.read() as session:
        return [session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


def ids(bench: Bench) -> list[str]:
    with bench.installation.database.read() as session:
        return list(session.scalars(select(Run.id).order_by(Run.id)))


def tagged(bench: Bench, message_id: str = "m1") -> Message:
    return bench.message(TAG, message_id, tag="f44")


def test_output_goes_first_then_events_then_the_run(bench: Bench, calendar: Calendar) -> None:
    calendar.days = -9
    old = finished(bench)
    finished(bench)
    calendar.days = 0
    assert sum(portion.rows for portion in prune(bench)) == 0
    assert counts(bench, OutputChunk, TaskResult) == [8, 12]
    calendar.days = 2
    prune(bench)
    assert counts(bench, OutputChunk, TaskResult) == [4, 12]
    run = bench.run(old)
    assert (run.logs_kept, run.events_pruned_at) == (10 * 86400, None)
    calendar.days = 12
    prune(bench)
    assert counts(bench, OutputChunk, TaskResult, Run) == [4, 6, 2]
    calendar.days = 22
    prune(bench)
    assert counts(bench, Run, Step, Attempt, OutputChunk, TaskResult) == [1, 2, 2, 4, 6]
    assert old not in ids(bench)


def test_nothing_of_a_run_is_left(bench: Bench, calendar: Calendar) -> None:
    calendar.days = -100
    finished(bench)
    before = counts(bench, *OF_RUNS)
    finished(bench)
    calendar.days = 0
    prune(bench)
    assert counts(bench, *OF_RUNS) == before


def test_so_many_runs_are_kept_however_young(bench: Bench) -> None:
    made = [finished(bench) for _ in range(5)]
    running = bench.start("flow")
    prune(bench, keep=2)
    assert ids(bench) == [*made[3:], running]


def test_runs_that_were_skipped_push_no_others_out(make_bench: MakeBench) -> None:
    bench = make_bench(flow="concurrency: {group: g, when_busy: skip}\nsteps: [{name: one, playbook: hello.yml}]\n")
    failed = bench.start("flow")
    bench.play(state="failed", message="no disk")
    succeeded = bench.start("flow")
    bench.play()
    running = bench.start("flow")
    skipped = [bench.start("flow") for _ in range(5)]
    prune(bench, keep=2)
    assert ids(bench) == [failed, succeeded, running, *skipped]


def test_what_is_needed_stays(bench: Bench, calendar: Calendar) -> None:
    calendar.days = -100
    origin = finished(bench, state="failed")
    again = rerun(bench.installation, origin, trigger=Trigger("person", "me"), failed=True).run_id
    bench.play(state="failed")
    announced(bench, again)
    untold = finished(bench)
    with bench.installation.database.write() as session:
        session.execute(update(Announcement).where(Announcement.run_id == untold).values(sent_at=None))
    succeeded = finished(bench)
    gone = finished(bench, state="failed")
    last = finished(bench, state="failed")
    waiting = bench.start("flow")
    held = bench.start("flow")
    control.hold(bench.installation, held, who="me")
    unfinished = rerun(bench.installation, again, trigger=Trigger("person", "me")).run_id
    calendar.days = 0
    prune(bench)
    assert set(ids(bench)) == {origin, again, untold, succeeded, last, waiting, held, unfinished}
    assert gone not in ids(bench)
    assert all(bench.run(run_id).logs_pruned_at is None for run_id in ids(bench))


def test_a_workflow_has_its_own_retention_also_when_its_file_is_broken_or_gone(
    make_bench: MakeBench, calendar: Calendar, site: Path
) -> None:
    bench = make_bench(SHORT, flow=FLOW, kept=FLOW + "    retention: {runs: 0, logs: 5d}\n")
    calendar.days = -7
    for _ in range(2):
        finished(bench, workflow="flow")
        finished(bench, workflow="kept")
    calendar.days = 0
    assert [(line.workflow, line.logs) for line in retention.plan(bench.installation)] == [("kept", 1)]
    calendar.days = 100
    file = site / "playbooks/workflows/kept.yml"
    for broken in ("steps: {", None):
        file.unlink() if broken is None else file.write_text(broken)
        assert [(line.workflow, line.runs) for line in retention.plan(bench.installation)] == [("flow", 1), ("kept", 0)]


def test_a_message_that_comes_again_does_not_start_again(bench: Bench, calendar: Calendar) -> None:
    calendar.days = -100
    [first] = bench.receive(tagged(bench))
    bench.play(state="failed")
    announced(bench, first.runs[0])
    finished(bench)
    calendar.days = 0
    prune(bench)
    assert first.runs[0] not in ids(bench)
    [receipt] = bench.receive(tagged(bench))
    assert (receipt.disposition, receipt.duplicates) == ("duplicate", (("flow", first.runs[0]),))
    calendar.days = 39
    prune(bench)
    assert bench.receive(tagged(bench))[0].disposition == "duplicate"
    calendar.days = 41
    prune(bench)
    assert bench.receive(tagged(bench))[0].disposition == "started"


def test_a_message_whose_run_was_pruned_is_neither_parked_nor_replayed(
    bench: Bench, calendar: Calendar, site: Path
) -> None:
    calendar.days = -100
    [first] = bench.receive(tagged(bench))
    bench.play(state="failed")
    announced(bench, first.runs[0])
    finished(bench)
    calendar.days = 0
    prune(bench)
    with bench.installation.database.write() as session:
        parked = parking.park(session, tagged(bench), "flow", "by a listener of long ago", datetime.now().astimezone())
    assert parked is not None
    replayed = parking.replay(bench.installation, parked, "me")
    assert (replayed.fresh, replayed.line.resolution, replayed.line.run_id) == (False, "replayed", first.runs[0])
    with bench.installation.database.write() as session:
        session.delete(session.get_one(ParkedMessage, parked))
    (site / "playbooks/workflows/flow.yml").write_text(textwrap.dedent(FLOW).replace("hello.yml", "none.yml"))
    [receipt] = bench.receive(tagged(bench))
    assert (receipt.disposition, receipt.parked) == ("duplicate", ())


def test_a_request_whose_run_was_pruned_is_refused(bench: Bench, calendar: Calendar) -> None:
    calendar.days = -100
    run_id = bench.start("flow", "request-1")
    bench.play(state="failed")
    announced(bench, run_id)
    finished(bench)
    calendar.days = 0
    prune(bench)
    with pytest.raises(WrongState, match=f"This start was made before: run {run_id}, which has been pruned"):
        bench.start("flow", "request-1")


def test_what_has_been_dealt_with_is_forgotten(bench: Bench, calendar: Calendar) -> None:
    database = bench.installation.database
    with database.write() as session:
        now = database.now(session)
        for days in (50, 45, 1):
            due = now - timedelta(days=days)
            session.add(ScheduleFire(schedule="nightly", due_at=due, outcome="started", at=due))
        session.add(ScheduleFire(schedule="yearly", due_at=now - timedelta(days=300), outcome="started", at=now))
        for number, resolved in enumerate((None, now - timedelta(days=41), now - timedelta(days=39))):
            session.add(
                ParkedMessage(
                    message_id=str(number), workflow="flow", topic=TAG, reason="?", headers={}, body=b"", encoding="",
                    parked_at=now - timedelta(days=60), resolution="dropped" if resolved else None,
                    resolved_at=resolved,
                )
            )  # fmt: skip
        for name, days in (("dead", 31), ("alive", 0)):
            session.add(
                Worker(
                    name=name, host="h", pid=1, queues=[], concurrency=1, version="1", started_at=now,
                    seen_at=now - timedelta(days=days), stopping=False,
                )
            )  # fmt: skip
        session.add(Definition(digest="unused", body={}))
    run_id = bench.start("flow")
    prune(bench)
    with database.read() as session:
        fires = session.scalars(select(ScheduleFire.due_at).order_by(ScheduleFire.due_at)).all()
        assert [round((now - due).days) for due in fires] == [300, 1], "the newest of each stays"
        assert session.scalars(select(ParkedMessage.message_id).order_by(ParkedMessage.id)).all() == ["0", "2"]
        assert session.scalars(select(Worker.name)).all() == ["alive"]
        assert session.scalars(select(Definition.digest)).all() == [bench.run(run_id).definition_digest]


def test_for_ever_is_for_ever(make_bench: MakeBench, calendar: Calendar) -> None:
    names = ("logs", "events", "runs", "keys")
    bench = make_bench("".join(f"retention_{name} = 0\n" for name in names), flow=FLOW)
    calendar.days = -3000
    for _ in range(2):
        finished(bench)
    before = counts(bench, *OF_RUNS)
    calendar.days = 0
    prune(bench)
    assert counts(bench, *OF_RUNS) == before


def test_each_transaction_is_small_and_lets_others_write(bench: Bench, calendar: Calendar) -> None:
    calendar.days = -100
    run_id = bench.start("flow")
    held = bench.claim()
    assert held is not None
    fill(bench, held.attempt_id, chunks=120, tasks=1200)
    bench.finish(held, state="failed")
    announced(bench, run_id)
    finished(bench)
    calendar.days = 0
    rows = []
    for between, portion in enumerate(retention.prune(bench.installation)):
        rows.append(portion.rows)
        with bench.installation.database.write() as session:
            session.add(Definition(digest=f"other {between}", body={}))
    assert max(rows) <= pruning.ROWS_AT_ONCE
    assert [size for size in rows if size][:3] == [50, 50, 20]
    assert run_id not in ids(bench)


def test_a_definition_that_a_run_is_being_made_of_stays(bench: Bench) -> None:
    database = bench.installation.database
    workflow = bench.installation.site.workflow("flow")
    with database.write() as session:
        session.add(Definition(digest=workflow.digest, body=workflow.body))
    if database.sqlite:
        return  # there is one writer at a time
    with database.write() as making:
        definitions.keep_definition(making, workflow)
        with pytest.raises(DatabaseUnavailable):
            delete_definitions_soon(database)


def delete_definitions_soon(database: Database) -> None:
    with database.write() as session:
        session.connection().exec_driver_sql("SET lock_timeout = '200ms'")
        pruning.delete_definitions(session)


CHILD = """
import sys
from pathlib import Path
from relengq.database import Database
from relengq.engine import retention
from relengq.engine.installation import at
from relengq.runs import pruning
pruning.ROWS_AT_ONCE, pruning.RUNS_AT_ONCE = 25, 2
made = at(Path(sys.argv[1]))
made.database = Database(sys.argv[2])
for portion in retention.prune(made):
    print(portion, flush=True)
"""


def pruner(bench: Bench) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", CHILD, str(bench.settings.site), bench.settings.database_url]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def many(bench: Bench, calendar: Calendar, count: int) -> str:
    """So many old runs, and a newest one that stays."""
    calendar.days = -100
    for _ in range(count):
        finished(bench)
    last = finished(bench)
    calendar.days = 0
    return last


def orphans(bench: Bench) -> Iterator[str]:
    """Rows that belong to a run or an attempt that is not there."""
    with bench.installation.database.read() as session:
        for table in OF_RUNS[1:]:
            columns = table.__table__.columns
            if "run_id" in columns:
                lost = columns["run_id"].not_in(select(Run.id))
            else:
                lost = columns["attempt_id"].not_in(select(Attempt.id))
            if session.scalar(select(func.count()).select_from(table).where(lost)):
                yield table.__tablename__


def test_a_kill_in_the_middle_leaves_nothing_that_is_not_found_again(bench: Bench, calendar: Calendar) -> None:
    last = many(bench, calendar, 4)
    for after in (1, 3):
        with pruner(bench) as child:
            assert child.stdout is not None
            for _ in range(after):
                assert child.stdout.readline(), "it was done before it was killed"
            child.send_signal(signal.SIGKILL)
        assert list(orphans(bench)) == []
    assert len(ids(bench)) > 1, "it was killed in the middle"
    prune(bench)
    assert ids(bench) == [last]
    assert list(orphans(bench)) == []
    assert counts(bench, SpentKey, Step, Attempt, OutputChunk) == [4, 2, 2, 4], "each start has a key of its own"


def test_several_at_once_do_no_harm(bench: Bench, calendar: Calendar) -> None:
    last = many(bench, calendar, 4)
    with pruner(bench) as one, pruner(bench) as other:
        children = (one, other)
        said = [child.communicate(timeout=240) for child in children]
    assert [(child.returncode, error) for child, (_, error) in zip(children, said, strict=True)] == [(0, ""), (0, "")]
    prune(bench)  # what one has passed by because the other was at it
    assert ids(bench) == [last]
    assert list(orphans(bench)) == []


def test_the_clock_does_a_little_in_each_tick(
    bench: Bench, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = many(bench, calendar, 3)
    monkeypatch.setattr(retention, "_A_TICK", 0.0)
    clock = Retention(bench.installation, first=0.0)
    ticks: list[int] = []
    while clock._round is not None or not ticks:
        clock.tick()
        ticks.append(len(ids(bench)))
        assert len(ticks) < 100
    assert len(ticks) > 5
    assert ids(bench) == [last]
    portions = _spied(bench, monkeypatch)
    clock.tick()
    assert portions == [], "the next round is some minutes away"


def _spied(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Sequence[object]:
    asked: list[object] = []
    monkeypatch.setattr(retention, "prune", lambda *arguments: asked.append(arguments) or iter(()))
    return asked


def test_a_database_that_goes_away_ends_the_round_and_the_next_begins_again(
    bench: Bench, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = many(bench, calendar, 2)
    real = pruning.prune

    def away(*_: object) -> Portion:
        raise DatabaseUnavailable("gone")

    clock = Retention(bench.installation, first=0.0)
    monkeypatch.setattr(pruning, "prune", away)
    with pytest.raises(DatabaseUnavailable):
        clock.tick()
    monkeypatch.setattr(pruning, "prune", real)
    assert ids(bench) != [last]
    clock._at -= 60  # there are more urgent things at first
    clock.tick()
    while clock._round is not None:
        clock.tick()
    assert ids(bench) == [last]


def test_the_plan_is_what_is_then_done(bench: Bench, calendar: Calendar) -> None:
    many(bench, calendar, 3)
    [plan] = retention.plan(bench.installation)
    done = {what: sum(portion.runs for portion in prune(bench) if portion.what is what) for what in (What.LOGS,)}
    assert (plan.logs, plan.events, plan.runs) == (3, 3, 3)
    assert done == {What.LOGS: 3}
    assert retention.plan(bench.installation) == []


def test_unfinished_runs_are_counted_seldom_but_exactly_at_the_limit(bench: Bench) -> None:
    made, database = Census(), bench.installation.database
    with database.read() as session:
        assert made.unfinished(session, 10_000) == 0
    run_id = bench.start("flow")
    with database.read() as session:
        assert made.unfinished(session, 10_000) == 0, "the count before holds for some seconds"
        made.add()
        assert made.unfinished(session, 10_000) == 1
        assert made.unfinished(session, 1) == 1
    control.cancel(bench.installation, run_id, who="me")
    with database.read() as session:
        assert made.unfinished(session, 1) == 0, "at the limit it is counted again"
