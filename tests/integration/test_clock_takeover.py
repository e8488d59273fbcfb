# SPDX-License-Identifier: GPL-3.0-or-later
"""A clock that starts or takes over, when the database's time was set or the database was away just before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from celery import Celery
from sqlalchemy import select

from relengq.beat import LEASE_SECONDS, Scheduler
from relengq.database import Database
from relengq.engine.installation import Installation
from relengq.engine.keeper import Keeper
from relengq.models import Attempt
from relengq.runs.attempts import Claim
from relengq.testing import Bench
from tests.support.clocks import Time

MakeBench = Callable[..., Bench]
MakeClock = Callable[[], Scheduler]
LEASE = 30


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


@pytest.fixture
def bench(make_bench: MakeBench, times: Time) -> Bench:
    return make_bench(chain="steps: [{name: one, playbook: hello.yml}]\n")


@pytest.fixture
def make_clock(bench: Bench) -> Iterator[MakeClock]:
    """Makes clocks, each with a database of its own, as processes have."""
    made: list[Scheduler] = []

    def make() -> Scheduler:
        url = bench.settings.database_url
        settings = bench.settings.model_copy(update={"bus_config": None})
        installation = Installation(settings, Database(url), bench.sent.append)
        made.append(Scheduler(Celery("quiet"), installation=installation))
        return made[-1]

    yield make
    for each in made:
        each.installation.database.close()


@pytest.fixture
def pair(make_clock: MakeClock) -> tuple[Scheduler, Scheduler]:
    """One that leads and one that stands by."""
    clocks = make_clock(), make_clock()
    for each in clocks:
        each.tick()
    assert [each._leading for each in clocks] == [True, False]
    return clocks


def taken(bench: Bench) -> tuple[str, Claim]:
    """A run whose step a worker plays."""
    run_id = bench.start("chain")
    held = bench.claim()
    assert held is not None
    return run_id, held


def renew(bench: Bench, held: Claim) -> None:
    """As its worker does about once a second."""
    Keeper(bench.installation, held, time.monotonic())._renew()


def goes_by(times: Time, clock: Scheduler, seconds: float, also: Callable[[], object] = lambda: None) -> None:
    """Let the clock tick while so much time goes by."""
    for _ in range(int(seconds / 5) + 1):
        times.passes(5)
        also()
        clock.tick()


def lease(bench: Bench) -> float:
    """Seconds until the lease of the one running attempt ends."""
    with bench.installation.database.read() as session:
        until = session.scalars(select(Attempt.lease_until).where(Attempt.state == "running")).one()
    assert until is not None
    return (until - bench.installation.now()).total_seconds()


def test_a_standby_takes_the_lease_because_time_was_set_forward_and_judges_nobody(
    bench: Bench, times: Time, pair: tuple[Scheduler, Scheduler]
) -> None:
    (living, held), (dead, _) = taken(bench), taken(bench)
    for _ in range(10):
        times.passes(4)
        for each in pair:
            each.tick()
        renew(bench, held)
    assert bench.steps(dead) == {"one": "queued"}, "both have watched for long"
    bench.claim()
    times.ahead = timedelta(minutes=1)
    pair[1].tick()
    assert pair[1]._leading
    assert [bench.steps(run_id) for run_id in (living, dead)] == [{"one": "running"}] * 2
    goes_by(times, pair[1], LEASE, lambda: renew(bench, held))
    assert bench.steps(living) == {"one": "running"}
    assert bench.steps(dead) == {"one": "queued"}, "its worker had the time to renew"


def test_a_new_clock_judges_nobody_until_living_workers_had_the_time_to_renew(
    bench: Bench, times: Time, make_clock: MakeClock
) -> None:
    (living, held), (dead, _) = taken(bench), taken(bench)
    times.ahead = timedelta(minutes=1)  # the host of both was started anew, and its clock is wrong
    clock = make_clock()
    clock.tick()
    assert clock._leading
    assert [bench.steps(run_id) for run_id in (living, dead)] == [{"one": "running"}] * 2
    goes_by(times, clock, LEASE - 10, lambda: renew(bench, held))
    assert bench.steps(dead) == {"one": "running"}, "not for a whole lease"
    goes_by(times, clock, 10, lambda: renew(bench, held))
    assert [bench.steps(run_id) for run_id in (living, dead)] == [{"one": "running"}, {"one": "queued"}]


def test_what_has_succeeded_while_the_host_of_clock_and_database_was_started_anew_is_told_first(
    bench: Bench, times: Time, make_clock: MakeClock
) -> None:
    run_id, held = taken(bench)
    times.passes(LEASE + 10)
    clock = make_clock()
    clock.tick()
    goes_by(times, clock, 10)
    bench.finish(held)
    assert bench.run(run_id).state == "succeeded"


def test_a_standby_that_has_watched_all_along_judges_as_soon_as_it_leads(
    bench: Bench, times: Time, pair: tuple[Scheduler, Scheduler]
) -> None:
    leader, standby = pair
    for _ in range(LEASE // 5 + 1):
        times.passes(5)
        leader.tick()
        standby.tick()
    run_id, _ = taken(bench)
    assert leader._leading  # and it is dead from now on
    goes_by(times, standby, LEASE_SECONDS)
    assert standby._leading
    assert bench.steps(run_id) == {"one": "running"}
    goes_by(times, standby, LEASE - LEASE_SECONDS - 5)
    assert bench.steps(run_id) == {"one": "queued"}


def test_a_standby_that_leads_because_time_was_set_back_puts_back_what_the_leader_did_not_see(
    bench: Bench, times: Time, pair: tuple[Scheduler, Scheduler]
) -> None:
    taken(bench)
    bench.start("chain")
    times.ahead = timedelta(hours=-1)
    pair[1].tick()
    assert pair[1]._leading
    assert LEASE - 5 < lease(bench) <= LEASE
    assert bench.claim() is not None, "what was due is due"
    pair[0]._renewed = 0.0
    pair[0].tick()
    assert not pair[0]._leading


def test_a_new_clock_puts_back_what_nobody_saw(bench: Bench, times: Time, make_clock: MakeClock) -> None:
    taken(bench)
    times.ahead = timedelta(days=-1)
    assert lease(bench) > 3600
    make_clock().tick()
    assert LEASE - 5 < lease(bench) <= LEASE
