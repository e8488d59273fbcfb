# SPDX-License-Identifier: GPL-3.0-or-later
"""The clock as its users start it: ``celery -A relengq beat``, one or several, killed, stopped and cut off."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from celery import Celery
from sqlalchemy import func, select, update

from relengq import migrations
from relengq.beat import Scheduler
from relengq.database import Database
from relengq.engine.installation import Installation
from relengq.engine.leadership import CLOCK, leader
from relengq.errors import DatabaseUnavailable
from relengq.models import Attempt, Run, ScheduleFire
from relengq.settings import Settings
from relengq.testing import Bench
from tests.support.processes import Process
from tests.support.servers import PostgreSQLServer, RedisServer, running, short_directory
from tests.support.waiting import busy, wait_until

MakeBench = Callable[..., Bench]
EVERY_SECOND = "fast: {workflow: hello, every: 1s, catch_up: all}\n"
"""Each second is owed, also those in which no clock was running."""


class Beat(Process):
    """A ``celery beat`` process in a site's directory."""

    def __init__(self, site: Path, name: str, environment: dict[str, str]) -> None:
        argv = [sys.executable, "-m", "celery", "-A", "relengq", "beat", "-l", "INFO", "--schedule", "kept"]
        super().__init__(argv, site, environment, name)

    def leads(self, installation: Installation) -> bool:
        """Whether this process is the clock."""
        holds = leader(installation, CLOCK)
        return holds is not None and holds[0].split(":")[1] == str(self.pid)


class World:
    """An installation, its clocks, and what they did."""

    def __init__(self, site: Path, url: str, broker: str) -> None:
        self.site = site
        self.environment = {"RELENGQ_DATABASE_URL": url, "RELENGQ_BROKER_URL": broker, "PYTHONWARNINGS": "default"}
        self.installation = Installation(Settings.load(site), Database(url))
        self.beats: list[Beat] = []
        self.schedule(EVERY_SECOND)

    def schedule(self, text: str, name: str = "nightly.yml") -> None:
        """Write a calendar, at once: a clock that looks meanwhile sees the old one or the new one."""
        new = self.site / f"{name}.new"
        new.write_text(text)
        new.rename(self.site / "beat" / name)

    def beat(self) -> Beat:
        """A new clock process, started."""
        beat = Beat(self.site, f"beat{len(self.beats)}", self.environment)
        self.beats.append(beat)
        beat.start()
        return beat

    def fires(self) -> list[ScheduleFire]:
        with self.installation.database.read() as session:
            return list(session.scalars(select(ScheduleFire).order_by(ScheduleFire.due_at)))

    def runs(self) -> int:
        with self.installation.database.read() as session:
            return session.scalar(select(func.count()).select_from(Run)) or 0

    def wait_for_more(self, count: int, schedule: str = "fast") -> None:
        """Wait until ``count`` further due times have been dealt with."""

        def dealt_with() -> int:
            return len([fire for fire in self.fires() if fire.schedule == schedule])

        before = dealt_with()
        what = f"{count} more fires; the clocks say {[beat.log for beat in self.beats]}"
        wait_until(lambda: dealt_with() >= before + count, 40, what)

    def check_every_second_once(self) -> None:
        runs, fires = self.runs(), self.fires()
        first = fires[0].due_at
        assert [fire.due_at for fire in fires] == [first + timedelta(seconds=n) for n in range(len(fires))]
        assert {fire.outcome for fire in fires} == {"started"}
        assert len({fire.run_id for fire in fires}) == len(fires)
        assert runs <= len(fires) <= self.runs(), "the clocks go on, and yet no run is without its due time"


@pytest.fixture
def world(site: Path, sqlite_url: str, redis_server: RedisServer) -> Iterator[World]:
    world = World(site, sqlite_url, redis_server.url)
    yield world
    for beat in world.beats:
        beat.thaw()
        beat.stop()
    world.installation.database.close()


def test_celery_beat_starts_runs_and_stops_at_once(world: World) -> None:
    files = set(world.site.rglob("*"))
    beat = world.beat()
    world.wait_for_more(3)
    assert leader(world.installation, CLOCK) is not None
    began = time.monotonic()
    beat.stop(20)
    assert time.monotonic() - began < busy(5)
    assert beat.returncode == 0, beat.log
    assert leader(world.installation, CLOCK) is None, "a standby need not wait for the lease to run out"
    world.check_every_second_once()
    assert "Warning" not in beat.log
    assert set(world.site.rglob("*")) - files <= {beat.log_file}, "nothing is kept on disk"


def test_edits_are_picked_up_and_a_broken_file_is_said_once(world: World) -> None:
    beat = world.beat()
    world.wait_for_more(1)
    world.schedule("second: {workflow: hello, every: 1s}\n", "second.yml")
    world.wait_for_more(1, "second")
    world.schedule("fast: {workflow: hello, every: 1s, catch_up: always}\n")
    beat.wait_for_log("nightly.yml")
    world.wait_for_more(3, "second")
    world.schedule(EVERY_SECOND)
    world.wait_for_more(3)
    assert beat.log.count("schedules.fault") == 1


@pytest.mark.slow
def test_clocks_that_are_killed_and_stopped_start_every_second_once(world: World) -> None:
    one, two = world.beat(), world.beat()
    world.wait_for_more(2)

    def led_by(beat: Beat) -> Callable[[], bool]:
        return lambda: beat.leads(world.installation)

    wait_until(lambda: led_by(one)() or led_by(two)())
    first, second = (one, two) if led_by(one)() else (two, one)
    first.kill()
    wait_until(led_by(second), 30, "the standby leads")
    world.wait_for_more(2)

    first.start()
    second.freeze(world.installation.database)
    wait_until(led_by(first), 30, "the restarted one leads")
    second.thaw()
    world.wait_for_more(3)
    assert led_by(first)(), "the one that woke does not take over"
    world.check_every_second_once()


@pytest.mark.postgresql
def test_a_database_that_is_away_is_said_once_and_nothing_is_lost(site: Path, redis_server: RedisServer) -> None:
    with short_directory() as directory:
        server = PostgreSQLServer(directory)
        server.create()
        with running(server):
            url = server.url("postgres")
            world = World(site, url, redis_server.url)
            migrations.upgrade(world.installation.database)
            beat = world.beat()
            try:
                world.wait_for_more(2)
                server.stop()
                beat.wait_for_log("database.away")
                server.start()
                server.ready()
                beat.wait_for_log("clock.recovered")
                world.installation.database.close()
                world.wait_for_more(3)
                world.check_every_second_once()
            finally:
                beat.stop()
                world.installation.database.close()


class _Away(Database):
    def read(self) -> object:  # type: ignore[override]
        raise DatabaseUnavailable("The database is away.")

    write = read  # type: ignore[assignment]


def test_trouble_is_said_once(site: Path, sqlite_url: str) -> None:
    installation = Installation(Settings.load(site), Database(sqlite_url))
    scheduler = Scheduler(Celery("quiet"), installation=installation)

    with structlog.testing.capture_logs() as logs:
        scheduler.tick()
        there, installation.database = installation.database, _Away(sqlite_url)
        scheduler._renewed = 0.0
        for _ in range(3):
            assert scheduler.tick() > 0
        installation.database = there
        scheduler.tick()
        scheduler.tick()
    scheduler.close()
    there.close()
    said = [entry["event"] for entry in logs]
    assert said.count("database.away") == 1
    assert said.count("clock.recovered") == 1
    assert said.index("database.away") < said.index("clock.recovered")


def test_who_held_a_lease_when_the_database_went_away_may_tell_first(make_bench: MakeBench) -> None:
    """Whoever could not be reached either, its lease may have run out, and its play may have ended well."""
    bench = make_bench()
    run_id = bench.start("hello")
    held = bench.claim()
    assert held is not None
    with bench.installation.database.write() as session:
        session.execute(update(Attempt).values(lease_until=bench.installation.database.now(session)))
    scheduler = Scheduler(Celery("quiet"), installation=bench.installation)
    there = bench.installation.database
    bench.installation.database = _Away(there.url.render_as_string(hide_password=False))
    assert scheduler.tick() > 0
    bench.installation.database = there
    scheduler.tick()
    scheduler.close()
    bench.finish(held)
    assert bench.run(run_id).state == "succeeded"


def test_a_standby_does_nothing_until_the_leader_gives_up(site: Path, sqlite_url: str) -> None:
    clocks = [
        Scheduler(Celery("quiet"), installation=Installation(Settings.load(site), Database(sqlite_url)))
        for _ in range(2)
    ]
    clocks[0].tick()
    clocks[1].tick()
    assert leader(clocks[1].installation, CLOCK)[0] == clocks[0].holder  # type: ignore[index]
    clocks[0].close()
    clocks[1].tick()
    assert leader(clocks[1].installation, CLOCK)[0] == clocks[1].holder  # type: ignore[index]
    for clock in clocks:
        clock.close()
        clock.installation.database.close()
