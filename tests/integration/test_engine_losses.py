# SPDX-License-Identifier: GPL-3.0-or-later
"""Attempts whose workers are lost or stopped, in every place where that can happen; and clocks that somebody sets."""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from relengq.engine import keeper as keeper_module
from relengq.engine.clock import Clock
from relengq.engine.control import cancel, hold, release
from relengq.engine.handback import hand_back
from relengq.engine.keeper import Keeper
from relengq.engine.leadership import CLOCK
from relengq.engine.leadership import hold as lead
from relengq.execution import Stop
from relengq.models import Attempt, History
from relengq.runs.attempts import WorkerIdentity, claim
from relengq.testing import Bench
from tests.support.clocks import set_ahead

MakeBench = Callable[..., Bench]


def lose(bench: Bench) -> None:
    """A worker takes the next attempt and is never heard of again."""
    held = bench.claim()
    assert held is not None
    with bench.installation.database.write() as session:
        ago = bench.installation.database.now(session) - timedelta(seconds=1)
        session.execute(update(Attempt).where(Attempt.id == held.attempt_id).values(lease_until=ago, host="compose07"))
    bench.tick()


def said(bench: Bench, run_id: str) -> list[str]:
    """What the history has on attempts that were lost."""
    query = select(History.note).where(History.run_id == run_id, History.action == "attempt lost")
    with bench.installation.database.read() as session:
        return [note or "" for note in session.scalars(query)]


def test_a_lost_instance_is_played_again_beside_the_others(make_bench: MakeBench) -> None:
    bench = make_bench(
        chain="steps: [{name: make, playbook: hello.yml, matrix: {arch: [a, b]}, retry: {attempts: 1}}]\n"
    )
    run_id = bench.start("chain")
    lose(bench)
    assert bench.steps(run_id) == {"make [a]": "queued", "make [b]": "queued"}
    assert bench.run(run_id).steps[0].reason == ("attempt 1 was lost with its worker on compose07; played again")
    assert "on compose07 stopped answering" in said(bench, run_id)[0]
    bench.play()
    bench.play()
    run = bench.run(run_id)
    assert run.state == "succeeded"
    assert [(step.failures, step.losses) for step in run.steps] == [(0, 1), (0, 0)]


def test_a_held_instance_holds_the_run_when_the_others_are_through(make_bench: MakeBench) -> None:
    bench = make_bench(chain="steps: [{name: make, playbook: hello.yml, matrix: {arch: [a, b]}, on_lost: hold}]\n")
    run_id = bench.start("chain")
    lose(bench)
    bench.play()
    assert bench.steps(run_id) == {"make [a]": "held", "make [b]": "succeeded"}
    run = bench.run(run_id)
    assert (run.state, run.reason) == ("held", "make [a]: attempt 1 was lost with its worker on compose07")
    release(bench.installation, run_id, who="alice", fail=True)
    run = bench.run(run_id)
    assert run.state == "failed"
    assert run.reason == "make [a]: failed by alice: attempt 1 was lost with its worker on compose07"


def test_a_run_says_that_it_is_held_while_other_instances_are_claimed(make_bench: MakeBench) -> None:
    bench = make_bench(chain="steps: [{name: make, playbook: hello.yml, matrix: {arch: [a, b]}, on_lost: hold}]\n")
    run_id = bench.start("chain")
    lose(bench)
    assert bench.claim() is not None
    assert bench.steps(run_id) == {"make [a]": "held", "make [b]": "running"}
    run = bench.run(run_id)
    assert (run.state, run.reason) == ("held", "make [a]: attempt 1 was lost with its worker on compose07")
    release(bench.installation, run_id, who="alice")
    assert bench.run(run_id).state == "running"


def test_finally_is_played_again_when_it_is_lost_or_fails_also_after_a_cancel(make_bench: MakeBench) -> None:
    bench = make_bench(
        chain="""\
        steps: [{name: one, playbook: hello.yml}]
        finally: [{name: tidy, playbook: hello.yml, retry: {attempts: 2, delay: 0s}}]
        """
    )
    run_id = bench.start("chain")
    held = bench.claim()
    assert held is not None
    cancel(bench.installation, run_id, who="alice")
    bench.finish(held, state="cancelled")
    lose(bench)
    assert bench.steps(run_id)["tidy"] == "queued"
    bench.play(state="failed", message="the disk is busy")
    assert bench.steps(run_id)["tidy"] == "queued", "what tidies up is tried as often as it says"
    bench.play()
    run = bench.run(run_id)
    assert (run.state, bench.steps(run_id)) == ("cancelled", {"one": "cancelled", "tidy": "succeeded"})


def test_a_loss_while_the_run_is_cancelled_is_the_end_of_it(make_bench: MakeBench) -> None:
    bench = make_bench(chain="steps: [{name: one, playbook: hello.yml, on_lost: hold}]\n")
    run_id = bench.start("chain")
    held = bench.claim()
    assert held is not None
    cancel(bench.installation, run_id, who="alice")
    with bench.installation.database.write() as session:
        session.execute(
            update(Attempt).values(lease_until=bench.installation.database.now(session) - timedelta(hours=1))
        )
    bench.tick()
    run = bench.run(run_id)
    assert (run.state, run.reason) == ("cancelled", "cancelled by alice")
    assert [attempt.state for attempt in run.steps[0].attempts] == ["lost"]


@pytest.mark.parametrize(("on_lost", "state"), [("hold", "held"), ("retry", "queued")])
def test_a_loss_while_the_run_is_on_hold_is_told_to_who_releases_it(
    make_bench: MakeBench, on_lost: str, state: str
) -> None:
    bench = make_bench(chain=f"steps: [{{name: one, playbook: hello.yml, on_lost: {on_lost}}}]\n")
    run_id = bench.start("chain")
    held = bench.claim()
    assert held is not None
    hold(bench.installation, run_id, who="alice", note="the mirror is full")
    with bench.installation.database.write() as session:
        ago = bench.installation.database.now(session) - timedelta(hours=1)
        session.execute(update(Attempt).values(lease_until=ago, host="compose07"))
    bench.tick()
    run = bench.run(run_id)
    assert (run.state, bench.steps(run_id)) == ("held", {"one": state})
    assert (run.reason or "").startswith("held by alice: the mirror is full")
    assert ("one: attempt 1 was lost with its worker on compose07" in (run.reason or "")) is (on_lost == "hold")
    assert not bench.sent, "nothing begins while it is on hold"
    release(bench.installation, run_id, who="alice")
    bench.play()
    assert bench.run(run_id).state == "succeeded"


def test_an_interrupted_step_with_one_try_is_played_again_as_often_as_it_takes(make_bench: MakeBench) -> None:
    bench = make_bench(chain="steps: [{name: one, playbook: hello.yml, retry: {attempts: 1}, on_lost: fail}]\n")
    run_id = bench.start("chain")
    for _ in range(5):
        bench.play(state="interrupted")
    bench.play()
    run = bench.run(run_id)
    assert (run.state, run.steps[0].failures, run.steps[0].losses) == ("succeeded", 0, 0)


def test_a_worker_that_ends_at_once_hands_back_what_its_dead_processes_played(make_bench: MakeBench) -> None:
    bench = make_bench(chain="steps: [{name: one, playbook: hello.yml, retry: {attempts: 1}, on_lost: fail}]\n")
    runs = [bench.start("chain") for _ in range(3)]
    dead = subprocess.Popen(["true"])
    dead.wait()
    database = bench.installation.database
    for node, pid in (("w@a", dead.pid), ("w@a", os.getpid()), ("other@a", dead.pid)):
        parcel = bench.sent.popleft()
        with database.write() as session:
            who = WorkerIdentity(node, "a", pid)
            assert claim(session, parcel.attempt_id, who, clock=database, lease=timedelta(seconds=30))
    assert hand_back(bench.installation, "w@a", "a") == 1
    assert [bench.steps(run_id)["one"] for run_id in runs] == ["queued", "running", "running"]
    assert [parcel.label for parcel in bench.sent] == ["chain: one #2"], "it is sent at once"
    assert hand_back(bench.installation, "w@a", "a") == 0


class Watch:
    """Sets the time of a database, as NTP or a person at the wrong console does."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = timedelta()
        set_ahead(monkeypatch, lambda: self.ahead)
        self.bench = bench


def lease(bench: Bench) -> float:
    """Seconds until the lease of the running attempt ends."""
    database = bench.installation.database
    with database.read() as session:
        until = session.scalars(select(Attempt.lease_until).where(Attempt.state == "running")).one()
        assert until is not None
        return (until - database.now(session)).total_seconds()


def test_nobody_is_lost_because_the_databases_time_is_set_forward(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench("lease_seconds = 2\n", chain="steps: [{name: one, playbook: hello.yml}]\n")
    watch, clock = Watch(bench, monkeypatch), Clock(bench.installation, watching_since=-math.inf)
    run_id = bench.start("chain")
    held = bench.claim()
    assert held is not None
    clock.tick()
    watch.ahead = timedelta(hours=1)
    clock.tick()
    assert bench.steps(run_id) == {"one": "running"}, "its worker is alive and has had no time to renew"
    assert lease(bench) < 0
    time.sleep(2.1)
    clock.tick()
    assert bench.steps(run_id) == {"one": "queued"}, "its worker had the time, and did not"


def test_a_dead_worker_is_found_although_the_databases_time_is_set_back(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(chain="steps: [{name: one, playbook: hello.yml}]\n")
    watch, clock = Watch(bench, monkeypatch), Clock(bench.installation)
    played, queued = bench.start("chain"), bench.start("chain")
    assert bench.claim() is not None
    clock.tick()
    watch.ahead = timedelta(hours=-1)
    assert lease(bench) > 3600
    assert bench.claim() is None, "what was due is not due for an hour"
    clock.tick()
    assert 0 < lease(bench) <= 31
    bench.sent.clear()
    with bench.installation.database.write() as session:
        session.execute(update(Attempt).where(Attempt.run_id == queued).values(sent_at=None))
    clock.tick()
    assert bench.play() == "chain: one #1"
    assert bench.steps(played) == {"one": "running"}


def test_a_dead_leader_does_not_lead_for_an_hour_more(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench()
    watch = Watch(bench, monkeypatch)
    assert lead(bench.installation, CLOCK, "dead", 10)
    assert not lead(bench.installation, CLOCK, "other", 10)
    watch.ahead = timedelta(hours=-1)
    assert lead(bench.installation, CLOCK, "other", 10)
    assert not lead(bench.installation, CLOCK, "third", 10)


def test_a_machine_that_slept_has_lost_its_lease(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench(chain="steps: [{name: one, playbook: hello.yml}]\n")
    bench.start("chain")
    held = bench.claim()
    assert held is not None
    keeper = Keeper(bench.installation, held, since=time.monotonic())
    assert keeper.stop() is None
    slept = keeper_module.asleep() + 3600
    monkeypatch.setattr(keeper_module, "asleep", lambda: slept)
    assert keeper.stop() is Stop.LOST, "monotonic time stood still meanwhile"


def test_the_worker_asks_no_clock_on_the_wall(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease is renewed, and a play goes on, however wrong the time of the worker's host is."""
    bench = make_bench("lease_seconds = 2\n", chain="steps: [{name: one, playbook: hello.yml}]\n")
    bench.start("chain")
    held = bench.claim()
    assert held is not None
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with Keeper(bench.installation, held, since=time.monotonic()) as keeper:
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert keeper.stop() is None
            time.sleep(0.05)
        assert keeper.until() > time.monotonic()
