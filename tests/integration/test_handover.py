# SPDX-License-Identifier: GPL-3.0-or-later
"""From the end of a step to the beginning of the next one: how often the database is asked, and what a fault leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, event

from relengq.database import Database
from relengq.engine import advance, consequences, execute
from relengq.execution import Outcome, PlayOrder, Sink
from relengq.states import AttemptState
from relengq.testing import Bench

MakeBench = Callable[..., Bench]
CHAIN = "steps:\n" + "".join(f"  - {{name: s{at}, playbook: hello.yml}}\n" for at in range(6))


@pytest.fixture
def bench(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    def play(order: PlayOrder, sink: Sink, stop: Callable[[], object], until: Callable[[], float]) -> Outcome:
        return Outcome(AttemptState.SUCCEEDED, return_code=0)

    monkeypatch.setattr(execute, "play", play)
    return make_bench(chain=CHAIN)


def _execute_next(bench: Bench) -> None:
    execute.execute(bench.installation, bench.sent.popleft().attempt_id, "worker@here")


@contextmanager
def _asked(database: Database) -> Iterator[list[str]]:
    """What this thread asks a database meanwhile: statements, and the ends of transactions. Leases have their own."""
    asked: list[str] = []
    here = threading.get_ident()

    def statement(connection: Connection, cursor: object, text: str, *rest: object) -> None:
        if threading.get_ident() == here:
            asked.append(" ".join(text.split())[:60])

    def commit(connection: Connection) -> None:
        if threading.get_ident() == here:
            asked.append("COMMIT")

    event.listen(database.engine, "before_cursor_execute", statement)
    event.listen(database.engine, "commit", commit)
    try:
        yield asked
    finally:
        event.remove(database.engine, "before_cursor_execute", statement)
        event.remove(database.engine, "commit", commit)


def test_a_hand_over_takes_few_statements(bench: Bench) -> None:
    """Each is a way to the database and back, and a step that ends is held up by all of them."""
    bench.start("chain")
    _execute_next(bench)  # the first step starts the run as well
    with _asked(bench.installation.database) as asked:
        _execute_next(bench)
    told = [line for line in asked if not line.startswith("BEGIN")]
    ends = [at for at, line in enumerate(told) if line == "COMMIT"]
    claim, ending, sending = ends[0], ends[1] - ends[0] - 1, ends[2] - ends[1] - 1
    more = 1 if bench.installation.database.sqlite else 0  # which inserts lines of the history one by one
    assert (claim, ending, sending, len(ends)) == (5 + more, 7 + 2 * more, 1, 3), told


def test_steps_before_and_after_do_not_add_to_it(bench: Bench, make_bench: MakeBench) -> None:
    counts = []
    for many in (6, 40):
        text = "steps:\n" + "".join(f"  - {{name: s{at}, playbook: hello.yml}}\n" for at in range(many))
        other = make_bench(**{f"chain{many}": text})
        other.start(f"chain{many}")
        for _ in range(4):
            _execute_next(other)
        with _asked(other.installation.database) as asked:
            _execute_next(other)
        counts.append(len(asked))
    assert counts[0] == counts[1]


def test_a_fault_in_what_follows_keeps_the_ending(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick way gives up; the guarded one stores what was played and breaks the run off."""
    run_id = bench.start("chain")

    def broken(self: advance.Advance) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(advance.Advance, "go", broken)
    _execute_next(bench)
    run = bench.run(run_id)
    assert [attempt.state for attempt in run.steps[0].attempts] == ["succeeded"]
    assert run.steps[0].state == "succeeded"
    assert (run.state, "RuntimeError" in str(run.reason)) == ("failed", True)
    assert not bench.sent


def test_a_fault_in_settling_the_step_keeps_the_ending(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = bench.start("chain")

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(consequences, "_settle", broken)
    _execute_next(bench)
    run = bench.run(run_id)
    assert [attempt.state for attempt in run.steps[0].attempts] == ["succeeded"]
    assert (run.state, "RuntimeError" in str(run.reason)) == ("failed", True)


def test_what_is_due_later_or_on_hold_is_left_to_the_clock(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(order: PlayOrder, sink: Sink, stop: Callable[[], object], until: Callable[[], float]) -> Outcome:
        return Outcome(AttemptState.FAILED, "it failed", return_code=2)

    monkeypatch.setattr(execute, "play", play)
    again = "steps:\n  - {name: only, playbook: hello.yml, retry: {attempts: 2, delay: 1h}}\n"
    bench = make_bench(again=again)
    run_id = bench.start("again")
    _execute_next(bench)
    assert bench.steps(run_id) == {"only": "queued"}
    assert not bench.sent, "the second try is due in an hour"
