# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper of an attempt says that it was taken away, and does not say so of its own ending."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from relengq.engine import keeper as keeper_module
from relengq.engine.control import cancel
from relengq.engine.keeper import Keeper
from relengq.execution import Stop
from relengq.testing import Bench
from tests.support.waiting import wait_until

MakeBench = Callable[..., Bench]


def _kept(bench: Bench, *, ending: bool) -> tuple[Stop | None, list[str]]:
    """Have an attempt end elsewhere between two renewals; what the keeper makes of it, and what it logs."""
    bench.start("hello")
    held = bench.claim()
    assert held is not None
    keeper = Keeper(bench.installation, held, since=time.monotonic())
    keeper._renew()
    assert keeper.stop() is None
    if ending:
        keeper.ending()
    bench.finish(held)
    with capture_logs() as logs:
        keeper._renew()
    return keeper.stop(), [line["event"] for line in logs]


def test_an_attempt_that_was_taken_away_stops_its_play(make_bench: MakeBench) -> None:
    assert _kept(make_bench(), ending=False) == (Stop.LOST, ["lease.taken_away"])


def test_an_attempt_that_has_just_ended_was_not_taken_away(make_bench: MakeBench) -> None:
    assert _kept(make_bench(), ending=True) == (None, [])


def test_a_play_that_has_to_stop_keeps_its_lease_while_it_ends(make_bench: MakeBench) -> None:
    bench = make_bench()
    run_id = bench.start("hello")
    held = bench.claim()
    assert held is not None
    keeper = Keeper(bench.installation, held, since=time.monotonic())
    cancel(bench.installation, run_id, who="alice")
    with keeper:
        wait_until(keeper.stop, what="the play has to stop")
        before = keeper.until()
        wait_until(lambda: keeper.until() > before, what="the lease is renewed all the same")
        assert keeper.stop() is Stop.CANCELLED


def test_whatever_keeps_a_lease_from_being_renewed_may_pass(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    bench.start("hello")
    held = bench.claim()
    assert held is not None
    renew, failures = keeper_module.renew, iter([RuntimeError("out of luck")])

    def unlucky(*arguments: object, **options: object) -> object:
        for failure in failures:
            raise failure
        return renew(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(keeper_module, "renew", unlucky)
    keeper = Keeper(bench.installation, held, since=time.monotonic())
    before = keeper.until()
    with keeper, capture_logs() as logs:
        wait_until(lambda: keeper.until() > before, what="the lease is renewed the next time")
    assert [line["event"] for line in logs] == ["lease.fault"]
    assert keeper.stop() is None
