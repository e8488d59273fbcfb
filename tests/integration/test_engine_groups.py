# SPDX-License-Identifier: GPL-3.0-or-later
"""Concurrency groups on PostgreSQL, with several hosts' worth of workers, clocks and meddling persons at once."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, select, text, update

from relengq.engine.control import cancel, hold, release
from relengq.engine.installation import Parcel
from relengq.errors import DatabaseUnavailable, NotFound, StaleAttempt, WrongState
from relengq.models import Attempt, GroupHolder, Run
from relengq.states import RunState
from relengq.testing import Bench
from tests.support.waiting import wait_until

WORKFLOW = """\
inputs: {group: {type: string}}
concurrency: {group: "{{ inputs.group }}", when_busy: queue}
steps:
  - {name: one, playbook: hello.yml, retry: {attempts: 2, delay: 0s}}
  - {name: two, playbook: hello.yml, matrix: {arch: [a, b]}}
finally:
  - {name: last, playbook: hello.yml}
"""
GROUPS = ("a", "b")
RUNS = 6
"""Of each group."""

TWO_AT_ONCE = text(
    "SELECT runs.group_name, count(DISTINCT runs.id),"
    " count(DISTINCT runs.id) FILTER (WHERE group_holders.run_id = runs.id)"
    " FROM runs JOIN attempts ON attempts.run_id = runs.id"
    " LEFT JOIN group_holders ON group_holders.name = runs.group_name"
    " WHERE upper(attempts.state) = 'RUNNING' GROUP BY runs.group_name"
)
"""By group, in one look: how many runs are played just now, and how many of them hold it."""


class Storm:
    """Benches on one database, and what happens on them at once."""

    def __init__(self, site: Path, state: Path, url: str, seed: int) -> None:
        self.sent: deque[Parcel] = deque()
        self.chance = random.Random(seed)
        self.over = threading.Event()
        self.calm = threading.Event()
        self.started: dict[str, list[str]] = {group: [] for group in GROUPS}
        self.ever_held: set[str] = set()
        self.violations: list[str] = []
        self.faults: list[BaseException] = []
        self.benches: list[Bench] = []
        self._make = lambda: Bench(site, state, url)

    def bench(self) -> Bench:
        made = self._make()
        made.sent, made.installation.send = self.sent, self.sent.append
        self.benches.append(made)
        return made

    @contextmanager
    def doing(self, *actions: Callable[[Bench, random.Random], None]) -> Iterator[None]:
        """Do each again and again, in a thread with a bench of its own, until the storm is over."""
        threads = [
            threading.Thread(target=self._repeat, args=(action, self.bench(), random.Random(self.chance.random())))
            for action in actions
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()
            for bench in self.benches[1:]:
                bench.close()

    def _repeat(self, action: Callable[[Bench, random.Random], None], bench: Bench, chance: random.Random) -> None:
        while not self.over.is_set():
            try:
                action(bench, chance)
            except (DatabaseUnavailable, NotFound, StaleAttempt, WrongState):
                time.sleep(0.01)  # somebody else was quicker, or is at it
            except BaseException as error:
                self.faults.append(error)
                return

    def worker(self, bench: Bench, chance: random.Random) -> None:
        """Play what was sent; sometimes it fails, and sometimes the worker dies."""
        if not self.sent:
            time.sleep(0.005)
        held = bench.claim()
        if held is None:
            return
        self.watch(bench, chance)
        if chance.random() < 0.1 and not self.calm.is_set():
            with bench.installation.database.write() as session:
                past = bench.installation.database.now(session) - timedelta(seconds=1)
                session.execute(update(Attempt).where(Attempt.id == held.attempt_id).values(lease_until=past))
            return
        bench.finish(held, state="failed" if chance.random() < 0.1 else "succeeded")

    def watch(self, bench: Bench, _: random.Random) -> None:
        with bench.installation.database.read() as session:
            for group, playing, holding in session.execute(TWO_AT_ONCE):
                if (playing, holding) != (1, 1):
                    self.violations.append(f"group {group}: {playing} runs are played, {holding} of them hold it")

    def clock(self, bench: Bench, _: random.Random) -> None:
        bench.tick()
        time.sleep(0.01)

    def meddler(self, bench: Bench, chance: random.Random) -> None:
        """A person who cancels, holds and releases runs, and deletes some, whether they have ended or not."""
        time.sleep(0.02)
        known = [run_id for runs in self.started.values() for run_id in runs]
        if not known or self.calm.is_set():
            return
        run_id, kind = chance.choice(known), chance.random()
        if kind < 0.3:
            cancel(bench.installation, run_id, who="meddler")
        elif kind < 0.6:
            self.ever_held.add(run_id)
            hold(bench.installation, run_id, who="meddler")
        elif kind < 0.95:
            release(bench.installation, run_id, who="meddler")
        else:
            with bench.installation.database.write() as session:
                session.execute(delete(Run).where(Run.id == run_id))


@pytest.fixture
def storm(site: Path, tmp_path: Path, postgresql_url: str) -> Iterator[Storm]:
    (site / "playbooks/workflows/grouped.yml").write_text(WORKFLOW)
    storm = Storm(site, tmp_path / "bench", postgresql_url, seed=4)
    yield storm
    storm.benches[0].close()


@pytest.mark.postgresql
def test_groups_hold_in_a_storm(storm: Storm) -> None:
    first = storm.bench()
    with storm.doing(storm.worker, storm.worker, storm.worker, storm.clock, storm.meddler, storm.watch):
        for _ in range(RUNS):
            for group in GROUPS:
                storm.started[group].append(first.start("grouped", group=group))
        time.sleep(0.5)
        storm.calm.set()
        _let_all_end(storm, first)
    assert storm.faults == []
    assert storm.violations == []
    with first.installation.database.read() as session:
        runs = session.scalars(select(Run)).all()
        assert session.scalars(select(GroupHolder)).all() == []
    assert all(run.state.final for run in runs)
    assert RunState.SUCCEEDED in {run.state for run in runs}
    for group in GROUPS:
        mine = [run for run in runs if run.group_name == group and run.started_at and run.id not in storm.ever_held]
        begun = [run.id for run in sorted(mine, key=lambda run: run.started_at or run.created_at)]
        assert begun == sorted(begun), "who came first is let in first"


def _let_all_end(storm: Storm, bench: Bench) -> None:
    """Nobody meddles any more: what is on hold is released, and every run comes to its end."""

    def ended() -> bool:
        with bench.installation.database.read() as session:
            left = session.scalars(select(Run).where(Run.finished_at.is_(None))).all()
        for run in left:
            if run.held:
                with suppress(WrongState, NotFound, DatabaseUnavailable):
                    release(bench.installation, run.id, who="tester")
        return not left or bool(storm.faults)

    wait_until(ended, 280, "every run ends")


@pytest.mark.postgresql
@pytest.mark.parametrize("end", ["cancelled", "deleted", "lost"])
def test_a_group_whose_holder_is_gone_is_freed(site: Path, tmp_path: Path, postgresql_url: str, end: str) -> None:
    (site / "playbooks/workflows/grouped.yml").write_text(
        WORKFLOW.replace("playbook: hello.yml, retry", "on_lost: fail, playbook: hello.yml, retry")
    )
    bench = Bench(site, tmp_path / "bench", postgresql_url)
    holder, held, waiting = (bench.start("grouped", group="a") for _ in range(3))
    hold(bench.installation, held, who="tester", note="not now")
    assert "is held by run" in (bench.run(waiting).reason or "")
    if end == "cancelled":
        cancel(bench.installation, holder, who="tester")
    elif end == "deleted":
        with bench.installation.database.write() as session:
            session.execute(delete(Run).where(Run.id == holder))
    else:
        bench.claim()
        with bench.installation.database.write() as session:
            session.execute(
                update(Attempt).values(lease_until=bench.installation.database.now(session) - timedelta(hours=1))
            )
        bench.tick()
        bench.play()  # finally
    bench.tick()
    with bench.installation.database.read() as session:
        assert session.scalar(select(GroupHolder.run_id)) == waiting, "one that is on hold keeps nobody waiting"
    bench.close()
