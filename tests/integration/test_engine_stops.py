# SPDX-License-Identifier: GPL-3.0-or-later
"""How runs are stopped: cancelled more than once, cancelled while they clean up, replaced, and broken off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import select, update

from relengq.engine import consequences, control
from relengq.engine.advance import Advance
from relengq.models import GroupHolder, Run
from relengq.runs import lookup
from relengq.runs.attempts import Claim
from relengq.testing import Bench

MakeBench = Callable[..., Bench]

CHAIN = """
    steps:
      - {name: one, playbook: hello.yml}
    finally:
      - {name: tidy, playbook: hello.yml}
      - {name: report, playbook: hello.yml}
"""
PAIR = """
    concurrency: {group: g}
    steps:
      - {name: make, playbook: hello.yml, matrix: {arch: [a, b]}}
    finally:
      - {name: report, playbook: hello.yml}
"""


def claimed(bench: Bench) -> Claim:
    """The next attempt, which a worker plays."""
    held = bench.claim()
    assert held is not None
    return held


def history(bench: Bench, run_id: str) -> list[tuple[str, str, str | None]]:
    """Who did what to a run, with notes."""
    with bench.installation.database.read() as session:
        return [(line.who, line.action, line.note) for line in lookup.history(session, run_id)]


@contextmanager
def fault(monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> Iterator[None]:
    """As long as it lasts, whoever calls this finds a bug."""

    def broken(*_: object) -> None:
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(where, name, broken)
        yield


def test_a_second_cancel_leaves_out_finally_also_while_the_chain_still_stops(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    held = claimed(bench)
    control.cancel(bench.installation, run_id, who="alice")
    control.cancel(bench.installation, run_id, who="bob")
    assert bench.steps(run_id) == {"one": "running", "tidy": "cancelled", "report": "cancelled"}
    bench.finish(held, state="cancelled")
    run = bench.run(run_id)
    assert (run.state, run.reason) == ("cancelled", "cancelled by alice")
    assert bench.steps(run_id) == {"one": "cancelled", "tidy": "cancelled", "report": "cancelled"}
    assert run.steps[1].reason == "cancelled by bob"
    assert not bench.sent


def test_the_first_cancel_of_a_run_that_its_timeout_stops_leaves_it_finally(make_bench: MakeBench) -> None:
    bench = make_bench(chain="timeout: 1h\n" + CHAIN.replace("\n    ", "\n"))
    run_id = bench.start("chain")
    held = claimed(bench)
    with bench.installation.database.write() as session:
        session.execute(update(Run).values(deadline=Run.created_at))
    bench.tick()
    control.cancel(bench.installation, run_id, who="alice")
    bench.finish(held, state="cancelled")
    assert bench.steps(run_id) == {"one": "cancelled", "tidy": "queued", "report": "pending"}


def test_a_cancel_while_it_cleans_up_is_the_runs_result(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    bench.play()
    held = claimed(bench)
    control.cancel(bench.installation, run_id, who="alice")
    bench.finish(held, state="cancelled")
    run = bench.run(run_id)
    assert bench.steps(run_id) == {"one": "succeeded", "tidy": "cancelled", "report": "cancelled"}
    assert (run.state, run.reason) == ("cancelled", "cancelled by alice")
    assert run.steps[1].reason == "stopped by alice"
    _, body = bench.announced(run_id)[-1]
    assert (body["result"], body["stopped_by"]) == ("cancelled", "alice")


def test_a_cancel_that_comes_too_late_for_the_last_of_finally_changes_nothing(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    bench.play()
    bench.play()
    held = claimed(bench)
    control.cancel(bench.installation, run_id, who="alice")
    bench.finish(held)
    run = bench.run(run_id)
    assert (run.state, run.reason) == ("succeeded", None)


def test_a_failure_is_not_hidden_by_a_cancel_of_what_cleans_up(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    chain_failed, finally_failed = bench.start("chain"), bench.start("chain")
    bench.play(state="failed", message="no disk")
    bench.play()
    control.cancel(bench.installation, chain_failed, who="alice")
    bench.sent.popleft()  # the withdrawn attempt
    bench.play(state="failed", message="no mail")
    control.cancel(bench.installation, finally_failed, who="alice")
    assert (bench.run(chain_failed).state, bench.run(chain_failed).reason) == ("failed", "one: no disk")
    assert (bench.run(finally_failed).state, bench.run(finally_failed).reason) == ("failed", "tidy: no mail")


def test_of_several_runs_that_are_replaced_none_is_let_in(make_bench: MakeBench) -> None:
    """They wait for one another, and the oldest of those that wait came before the one that holds the group."""
    bench = make_bench(
        ask="""
        concurrency: {group: g}
        steps: [{name: go, approval: {}}]
        finally: [{name: report, playbook: hello.yml}]
        """,
        push="concurrency: {group: g, when_busy: cancel-running}\nsteps: [{name: one, playbook: hello.yml}]\n",
        hold="concurrency: {group: g}\nsteps: [{name: one, playbook: hello.yml}]\n",
    )
    first = bench.start("hold")
    passed = bench.start("ask")
    control.hold(bench.installation, passed, who="alice")
    holder = bench.start("hold")
    waiting = bench.start("ask")
    control.cancel(bench.installation, first, who="alice")
    control.release(bench.installation, passed, who="alice")
    assert (bench.run(passed).state, bench.run(holder).reason) == ("queued", None)
    newest = bench.start("push")
    for replaced in (passed, waiting):
        run = bench.run(replaced)
        assert (run.state, run.reason, run.started_at) == ("cancelled", f"cancelled by run {newest}", None)
        assert bench.steps(replaced) == {"go": "skipped", "report": "skipped"}
    assert bench.run(holder).state == "cancelled"
    assert (bench.run(newest).state, bench.steps(newest)) == ("queued", {"one": "queued"})
    with bench.installation.database.read() as session:
        assert session.scalars(select(GroupHolder.run_id)).all() == [newest]


@pytest.mark.postgresql
def test_many_that_replace_each_other_at_once_do_not_lock_each_other_out(make_postgresql_bench: MakeBench) -> None:
    push = "concurrency: {group: g, when_busy: cancel-running}\nsteps: [{name: go, approval: {}}]\n"
    benches = [make_postgresql_bench(push=push) for _ in range(3)]
    faults: list[BaseException] = []

    def replace(bench: Bench) -> None:
        try:
            for _ in range(8):
                bench.start("push")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=replace, args=(bench,)) for bench in benches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    newest = benches[0].start("push")
    with benches[0].installation.database.read() as session:
        assert session.scalars(select(Run.id).where(Run.finished_at.is_(None))).all() == [newest]
        assert session.scalars(select(GroupHolder.run_id)).all() == [newest]


def test_a_run_that_is_broken_off_while_it_plays_keeps_the_reason(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(pair=PAIR)
    run_id, next_id = bench.start("pair"), bench.start("pair")
    first, second = claimed(bench), claimed(bench)
    with fault(monkeypatch, Advance, "go"):
        bench.finish(first)
    assert bench.steps(run_id) == {"make [a]": "succeeded", "make [b]": "running", "report": "skipped"}
    bench.finish(second, state="cancelled")
    run = bench.run(run_id)
    assert run.state == "failed"
    assert run.reason == "a bug in relengq, KeyError; its log has the traceback"
    assert ("relengq", "broken off", run.reason) in history(bench, run_id)
    bench.play()
    assert bench.run(next_id).state == "running", "the group has gone to the next run"


def test_a_run_that_is_broken_off_while_it_cleans_up_has_failed(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(
        chain="""
        steps: [{name: one, playbook: hello.yml}]
        finally: [{name: tidy, playbook: hello.yml, matrix: {arch: [a, b]}}]
        """
    )
    run_id = bench.start("chain")
    held = claimed(bench)
    control.cancel(bench.installation, run_id, who="alice")
    bench.finish(held, state="cancelled")
    first, second = claimed(bench), claimed(bench)
    with fault(monkeypatch, Advance, "go"):
        bench.finish(first)
    bench.finish(second, state="cancelled")
    run = bench.run(run_id)
    assert (run.state, run.reason) == ("failed", "a bug in relengq, KeyError; its log has the traceback")


def test_a_run_on_hold_that_is_broken_off_ends(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench(pair=PAIR)
    run_id, next_id = bench.start("pair"), bench.start("pair")
    first, second = claimed(bench), claimed(bench)
    control.hold(bench.installation, run_id, who="alice")
    with fault(monkeypatch, consequences, "_settle"):
        bench.finish(first)
    run = bench.run(run_id)
    assert (run.state, run.held) == ("running", False)
    bench.finish(second, state="cancelled")
    run = bench.run(run_id)
    assert (run.state, run.reason) == ("failed", "a bug in relengq, KeyError; its log has the traceback")
    bench.play()
    assert bench.run(next_id).state == "running", "the group has gone to the next run"
