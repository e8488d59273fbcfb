# SPDX-License-Identifier: GPL-3.0-or-later
"""Something that the database refuses although it answers: all else that a clock does goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NoReturn

import pytest
from celery import Celery
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from relengq import database as database_module
from relengq.beat import Scheduler
from relengq.engine import calendar, clock, retention, tries, waits
from relengq.engine.clock import Clock
from relengq.engine.installation import Installation
from relengq.engine.tries import Tries
from relengq.errors import DatabaseUnavailable
from relengq.models import Attempt, Run, ScheduleState
from relengq.testing import Bench

MakeBench = Callable[..., Bench]
PLAY = "steps: [{name: one, playbook: hello.yml}]\n"


def refused(*_: object, **__: object) -> NoReturn:
    raise DatabaseUnavailable("The database is not available: invalid page in block 17 of relation base/16384/16402.")


def lose(bench: Bench) -> str:
    """A run whose worker is dead and has no lease any more."""
    run_id = bench.start("play")
    held = bench.claim()
    assert held is not None
    with bench.installation.database.write() as session:
        ago = bench.installation.database.now(session) - timedelta(seconds=1)
        session.execute(update(Attempt).where(Attempt.id == held.attempt_id).values(lease_until=ago))
    return run_id


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench(play=PLAY)


@pytest.fixture
def scheduler(bench: Bench) -> Iterator[Scheduler]:
    """A clock that has watched the database for long."""
    bench.installation.settings = bench.settings.model_copy(update={"bus_config": None})
    made = Scheduler(Celery("quiet"), installation=bench.installation)
    made._clock = Clock(bench.installation, watching_since=-math.inf)
    made.tick()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("module", "name", "part"),
    [(retention, "prune", "retention"), (waits, "unneeded", "messages"), (calendar, "_note_sight", "schedules")],
)
def test_lost_workers_are_found_whatever_else_is_refused_and_it_is_said_once(
    bench: Bench, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, module: object, name: str, part: str
) -> None:
    monkeypatch.setattr(tries, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(tries, "_LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(module, name, refused)
    with capture_logs() as logs:
        for _ in range(3):
            scheduler._clock._retention._at = scheduler._clock._messages_at = 0.0
            run_id = lose(bench)
            scheduler.tick()
            assert bench.steps(run_id) == {"one": "queued"}
            bench.play()
    said = [entry for entry in logs if entry["log_level"] in ("warning", "error")]
    assert [(entry["event"], entry["part"]) for entry in said] == [("clock.put_aside", part)]
    monkeypatch.undo()
    with capture_logs() as logs:
        scheduler._clock._retention._at = scheduler._clock._messages_at = 0.0
        scheduler.tick()
    assert [entry["part"] for entry in logs if entry["event"] == "clock.goes_on"] == [part]


def test_a_run_that_the_database_refuses_keeps_no_other(
    bench: Bench, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted([lose(bench), lose(bench)])
    find_lost = clock._find_lost

    def rotten(session: Session, installation: Installation, run: Run, now: object) -> None:
        if run.id == first:
            refused()
        find_lost(session, installation, run, now)  # type: ignore[arg-type]

    monkeypatch.setattr(clock, "_find_lost", rotten)
    scheduler.tick()
    assert [bench.steps(each) for each in (first, second)] == [{"one": "running"}, {"one": "queued"}]
    monkeypatch.setattr(clock, "_find_lost", find_lost)
    scheduler._clock.tries._aside.clear()
    scheduler.tick()
    assert bench.steps(first) == {"one": "queued"}, "it was put aside, not given up"


def test_a_schedule_that_the_database_refuses_keeps_no_other(
    bench: Bench, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = "a: {workflow: play, every: 1h}\nb: {workflow: play, every: 1h}\n"
    (bench.settings.site / "beat/more.yml").write_text(two)
    begin = calendar._begin

    def rotten(installation: Installation, name: str, *rest: object) -> None:
        if name == "a":
            refused()
        begin(installation, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(calendar, "_begin", rotten)
    scheduler.tick()
    with bench.installation.database.read() as session:
        assert "b" in session.scalars(select(ScheduleState.name)).all()


@pytest.mark.postgresql
def test_a_run_that_somebody_has_locked_keeps_no_other(
    make_postgresql_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_postgresql_bench(play=PLAY)
    first, second = sorted([lose(bench), lose(bench)])
    limits = database_module._LIMITS.replace("lock_timeout=20s", "lock_timeout=200ms")
    assert limits != database_module._LIMITS
    with bench.installation.database.write() as session:
        session.get(Run, first, with_for_update=True)
        monkeypatch.setattr(database_module, "_LIMITS", limits)
        own = Bench(bench.settings.site, bench.settings.state_dir, bench.settings.database_url)
        own.tick()
        assert own.steps(second) == {"one": "queued"}
    own.tick()
    assert own.steps(first) == {"one": "queued"}
    own.close()


def test_when_the_database_does_not_answer_the_tick_is_over(
    bench: Bench, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = lose(bench)
    monkeypatch.setattr(clock, "_find_lost", refused)
    monkeypatch.setattr(tries, "writable", lambda _: False)
    with capture_logs() as logs:
        scheduler.tick()
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["database.away"]
    monkeypatch.undo()
    scheduler.tick()
    assert bench.steps(run_id) == {"one": "running"}, "whoever could not reach it either may tell first"


def test_what_is_refused_again_and_again_is_tried_later_and_later(bench: Bench) -> None:
    own, asked = Tries(bench.installation), 0

    def ask() -> NoReturn:
        nonlocal asked
        asked += 1
        refused()

    for _ in range(5):
        assert own.do("it", ask) is None
    assert asked == 1
    own._aside["it"] = tries._Aside(0.0, 8.0)
    assert own.do("it", ask) is None
    assert (asked, own._aside["it"].pause) == (2, 16.0)
