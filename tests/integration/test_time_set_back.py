# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in the future when the database's time has been set back, and comes nevertheless."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import pytest
from sqlalchemy import select, update

from relengq.announcements import backlog
from relengq.engine.clock import Clock
from relengq.models import Attempt, Base, KeptMessage, Listener, Run, Step, Worker
from relengq.runs.attempts import renew
from relengq.runs.timeline import ALIVE
from relengq.testing import Bench
from tests.support.clocks import Time

T = TypeVar("T", bound=Base)
MakeBench = Callable[..., Bench]
CI = "org.centos.prod.ci.test.complete"
HOURS = timedelta(hours=2)
SECOND = timedelta(seconds=1)
CHAINS = {
    "play": "steps: [{name: one, playbook: hello.yml, retry: {attempts: 2, delay: 10m}}]\n",
    "ci": "steps: [{name: ci, wait_for: {message: org.centos.prod.ci.#}}]\n",
    "ask": "timeout: 3h\nsteps: [{name: go, approval: {timeout: 1h}}]\n",
    "told": "announce: [run.started, run.finished]\nsteps: [{name: one, playbook: hello.yml}]\n",
}


class World:
    """A bench whose clock has seen two hours that are not yet there."""

    def __init__(self, bench: Bench, time: Time) -> None:
        self.bench = bench
        self.time = time
        time.ahead = HOURS
        self.clock = Clock(bench.installation)
        self.clock.tick()

    def set_back(self) -> None:
        self.time.ahead = timedelta()

    def all(self, table: type[T]) -> list[T]:
        with self.bench.installation.database.read() as session:
            return list(session.scalars(select(table)))


@pytest.fixture
def world(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> World:
    time = Time(monkeypatch)
    return World(make_bench(**CHAINS), time)


def test_what_a_worker_asked_for_before_the_clock_saw_it_is_sent_again(world: World) -> None:
    bench = world.bench
    bench.start("play")
    world.set_back()
    assert bench.claim() is None, "it is not due for two hours, and its task is gone"
    assert not bench.sent
    world.clock.tick()
    world.clock.tick()
    assert bench.play() == "play: one #1"


def test_a_retry_waits_as_long_as_it_was_to_wait(world: World) -> None:
    bench = world.bench
    run_id = bench.start("play")
    bench.play(state="failed")
    world.set_back()
    world.clock.tick()
    world.clock.tick()
    (_, second) = bench.run(run_id).steps[0].attempts
    left = second.due_at - bench.installation.now()
    assert timedelta(minutes=9) < left <= timedelta(minutes=10)
    assert not bench.sent


@pytest.mark.parametrize("seen", [False, True])
def test_a_run_hears_of_what_comes_after_time_was_set_back(world: World, seen: bool) -> None:
    bench = world.bench
    run_id = bench.start("ci")
    world.set_back()
    if seen:
        world.clock.tick()
    bench.receive(bench.message(CI, ok=True))
    world.clock.tick()
    assert bench.run(run_id).state == "succeeded"


def test_a_run_hears_of_what_came_before_it_no_more_than_ever(world: World) -> None:
    bench = world.bench
    control = bench.start("ci")
    with bench.installation.database.write() as session:
        session.execute(update(Step).values(state="running"))  # it will not take the message, only have it kept
    bench.receive(bench.message(CI, ok=True))
    early = bench.start("ci")
    world.set_back()
    world.clock.tick()
    late = bench.start("ci")
    world.clock._messages_at, world.clock._messages_since = 0.0, None
    world.clock.tick()
    assert [bench.run(run_id).state for run_id in (early, late)] == ["waiting", "waiting"]
    with bench.installation.database.write() as session:
        session.execute(update(Step).where(Step.run_id == control).values(state="waiting"))
    world.clock._messages_at, world.clock._messages_since = 0.0, None
    world.clock.tick()
    assert bench.run(control).state == "succeeded", "it was made before the message came"
    assert all(each.received_at <= bench.installation.now() for each in world.all(KeptMessage))


def test_announcements_hold_up_nothing(world: World) -> None:
    bench = world.bench
    run_id = bench.start("told")
    held = bench.claim()
    assert held is not None
    world.set_back()
    world.clock.tick()
    bench.finish(held)
    with bench.installation.database.read() as session:
        due = backlog.next_due(session, bench.installation.database.now(session), 10)
    assert [run for run, _ in due] == [run_id, run_id]


def test_timeouts_that_began_in_the_future_are_as_long_as_ever(world: World) -> None:
    bench = world.bench
    run_id = bench.start("ask")
    world.set_back()
    for _ in range(2):  # and no longer when it is put back twice
        Clock(bench.installation).tick()
        run, now = bench.run(run_id), bench.installation.now()
        (step,) = run.steps
        assert step.due_at is not None
        assert run.deadline is not None
        assert timedelta(minutes=59) < step.due_at - now <= timedelta(hours=1)
        assert timedelta(minutes=179) < run.deadline - now <= timedelta(hours=3)


def test_timeouts_that_began_while_time_was_right_stay(world: World) -> None:
    bench = world.bench
    world.set_back()
    run_id = bench.start("ask")
    before = bench.run(run_id).steps[0].due_at, bench.run(run_id).deadline
    world.time.ahead = timedelta(minutes=10)
    world.clock.tick()
    world.set_back()
    world.clock.tick()
    assert (bench.run(run_id).steps[0].due_at, bench.run(run_id).deadline) == before


def test_the_dead_do_not_seem_to_be_alive_until_then(world: World) -> None:
    database = world.bench.installation.database
    with database.write() as session:
        now = database.now(session)
        who = {"host": "h", "pid": 1, "version": "1", "started_at": now, "seen_at": now}
        session.add(Worker(name="w@h", queues=["default"], concurrency=1, **who))
        session.add(Listener(**who))
    world.set_back()
    world.clock.tick()
    for row in (*world.all(Worker), *world.all(Listener)):
        assert row.seen_at <= world.bench.installation.now()
        assert row.seen_at > world.bench.installation.now() - ALIVE


@pytest.mark.postgresql
def test_what_is_locked_just_then_is_put_back_by_the_next_tick(
    make_postgresql_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(make_postgresql_bench(**CHAINS), Time(monkeypatch))
    bench = world.bench
    for _ in range(2):
        bench.start("play")
    held = [bench.claim(), bench.claim()]
    assert held[0] is not None

    def leases() -> list[timedelta]:
        now = bench.installation.now()
        return [each.lease_until - now for each in world.all(Attempt) if each.lease_until is not None]

    world.set_back()
    with bench.installation.database.write() as session:
        renew(session, held[0], now=bench.installation.now() + HOURS, lease=timedelta(seconds=30))
        world.clock.tick()
        assert sorted(left > HOURS - SECOND for left in leases()) == [False, True]
    world.clock.tick()
    assert all(left <= timedelta(seconds=30) for left in leases())


def test_nothing_is_put_back_by_who_has_seen_nothing(world: World) -> None:
    bench = world.bench
    bench.start("play")
    world.clock.tick()
    before = [(each.created_at, each.due_at, each.sent_at) for each in world.all(Attempt)]
    world.clock.tick()
    assert [(each.created_at, each.due_at, each.sent_at) for each in world.all(Attempt)] == before
    assert [run.deadline for run in world.all(Run)] == [None]
