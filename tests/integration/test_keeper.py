# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper of an attempt says that it was taken away, and does not say so of its own ending."""

from __future__ import annotations

import time
from collections.abc import Callable

from structlog.testing import capture_logs

from relengq.engine.keeper import Keeper
from relengq.execution import Stop
from relengq.testing import Bench

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
