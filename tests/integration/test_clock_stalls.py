# SPDX-License-Identifier: GPL-3.0-or-later
"""A leader that stands still in the middle of a duty, while another one leads, and then goes on with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from relengq import database as database_module
from relengq.engine import clock, dispatch
from relengq.engine.due import Due, look
from relengq.errors import DatabaseUnavailable
from relengq.models import Attempt, History, Run, Step
from relengq.testing import Bench
from tests.support.waiting import wait_until

MakeBench = Callable[..., Bench]
CHAINS = {
    "play": "steps: [{name: one, playbook: hello.yml}]\n",
    "ask": "steps: [{name: go, approval: {timeout: 1h}}]\nfinally: [{name: last, playbook: hello.yml}]\n",
    "limited": "timeout: 1h\nsteps: [{name: go, approval: {}}]\nfinally: [{name: last, playbook: hello.yml}]\n",
    "grouped": "concurrency: {group: g}\nsteps: [{name: one, playbook: hello.yml}]\n",
}


@dataclass(frozen=True)
class Work:
    """A duty in its two halves: what it looks for, and what it does with what it has found."""

    workflow: str
    looks_for: str
    do: clock.Duty
    after: dict[str, str]
    """The steps when it has been done once."""


WORKS = {
    "lost": Work("play", "dead_leases", clock._find_lost, {"one": "queued"}),
    "waits": Work("ask", "expired_waits", clock._end_waits, {"go": "failed", "last": "queued"}),
    "deadline": Work("limited", "past_deadline", clock._end_run, {"go": "cancelled", "last": "queued"}),
}


def make_due(bench: Bench, name: str) -> None:
    with bench.installation.database.write() as session:
        ago = bench.installation.database.now(session) - timedelta(hours=2)
        match name:
            case "lost":
                session.execute(update(Attempt).values(lease_until=ago))
            case "waits":
                session.execute(update(Step).values(due_at=ago))
            case _:
                session.execute(update(Run).values(deadline=ago))


def due(bench: Bench) -> Due:
    with bench.installation.database.read() as session:
        return look(session, bench.installation.database.now(session))


def lines(bench: Bench, run_id: str) -> int:
    with bench.installation.database.read() as session:
        return len(session.scalars(select(History.id).where(History.run_id == run_id)).all())


@pytest.mark.parametrize("name", WORKS)
def test_a_leader_that_stalls_between_looking_and_doing(make_bench: MakeBench, name: str) -> None:
    work, stalled = WORKS[name], make_bench(**CHAINS)
    leads = make_bench()
    run_id = stalled.start(work.workflow)
    if name == "lost":
        assert stalled.claim() is not None
    make_due(stalled, name)
    found = getattr(due(stalled), work.looks_for)
    assert found == [run_id]
    leads.tick()
    assert leads.steps(run_id) == work.after
    before = lines(leads, run_id)
    clock._each(stalled.installation, name, found, work.do)
    assert (leads.steps(run_id), lines(leads, run_id)) == (work.after, before), "it finds its work done"
    attempts = [attempt.state for step in leads.run(run_id).steps for attempt in step.attempts]
    assert attempts.count("queued") == 1


def test_a_leader_that_stalls_while_it_sends(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    stalled, leads = make_bench(**CHAINS), make_bench()
    monkeypatch.setattr(stalled.installation, "send", lambda parcel: None)
    run_id = stalled.start("play")
    with stalled.installation.database.write() as session:
        session.execute(update(Attempt).values(sent_at=None))
    parcels = dispatch._due(stalled.installation, None)
    assert len(parcels) == 1
    leads.tick()
    held = leads.claim()
    assert held is not None
    stalled.sent.extend(parcels)
    dispatch._mark(stalled.installation, [parcel.attempt_id for parcel in parcels])
    assert stalled.claim() is None, "a second delivery finds the attempt taken"
    leads.finish(held)
    assert leads.run(run_id).state == "succeeded"
    assert not leads.sent


def test_a_leader_that_stalls_while_it_lets_a_run_into_its_group(make_bench: MakeBench) -> None:
    stalled, leads = make_bench(**CHAINS), make_bench()
    first, second = stalled.start("grouped"), stalled.start("grouped")
    with stalled.installation.database.write() as session:
        session.delete(session.get_one(Run, first))
    found = due(stalled).free_groups
    assert found == [second]
    leads.tick()
    third = leads.start("grouped")
    clock._each(stalled.installation, "groups.woken", [second, third], clock._admit)
    assert [len(leads.run(each).steps[0].attempts) for each in (second, third)] == [1, 0]


@pytest.mark.postgresql
def test_a_leader_that_stalls_inside_of_a_transaction_lets_go(
    site: Path, tmp_path: Path, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "playbooks/workflows/play.yml").write_text(CHAINS["play"])
    stalled, leads = (Bench(site, tmp_path / "bench", postgresql_url) for _ in range(2))
    run_id = stalled.start("play")
    assert stalled.claim() is not None
    make_due(stalled, "lost")
    stalled.installation.database.close()
    limits = database_module._LIMITS.replace("transaction_session_timeout=30s", "transaction_session_timeout=1s")
    assert limits != database_module._LIMITS
    monkeypatch.setattr(database_module, "_LIMITS", limits)

    def found_lost() -> bool:
        leads.tick()
        return leads.steps(run_id) == {"one": "queued"}

    def stall() -> None:
        with stalled.installation.database.write() as session:
            run = session.scalar(select(Run).where(Run.id == run_id).with_for_update())
            assert run is not None
            clock._find_lost(session, stalled.installation, run, stalled.installation.database.now(session))
            session.flush()
            wait_until(found_lost, what="the other one need not wait for ever")

    with pytest.raises(DatabaseUnavailable):
        stall()
    attempts = [attempt.state for attempt in leads.run(run_id).steps[0].attempts]
    assert attempts == ["lost", "queued"]
    for bench in (stalled, leads):
        bench.close()
