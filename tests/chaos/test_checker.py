# SPDX-License-Identifier: GPL-3.0-or-later
"""The checker finds each kind of violation where one is planted, and nothing in clean records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.checker import CHECKS, violations
from tests.chaos.records import Accepted, Heard, Records, Sign

CHAIN = ("first", "second")


def life(run: str, step: str, begin: float, end: float | None, *, attempt: int = 1, token: str = "t1") -> list[Sign]:
    """The signs of one attempt; without an end it was killed after a second."""
    process = f"7@{begin}"

    def sign(what: str, at: float) -> Sign:
        return Sign(what, at, token, run, step, attempt, 1, "east", process)  # type: ignore[arg-type]

    last = sign("end", end) if end is not None else sign("alive", begin + 1)
    return [sign("start", begin), sign("alive", begin + 0.1), last]


def told(run: str, at: float, *, token: str = "t1", workflow: str = "chain", result: str = "succeeded") -> list[Heard]:
    """The announcements of a run that began then and took ten seconds."""

    def heard(kind: str, later: float, step: str = "", result: str = "") -> Heard:
        return Heard(kind, at + later, f"{run} {kind} {step}", token, workflow, run, step, result)

    return [
        heard("run.started", 0.5),
        heard("step.finished", 5.5, "first", "succeeded"),
        heard("step.finished", 10, "second", "succeeded"),
        heard("run.finished", 10, "", result),
    ]


CLEAN = Records(
    chains={"chain": CHAIN, "ticks": CHAIN, "fragile": CHAIN},
    accepted=[Accepted("t1", "chain"), Accepted("t2", "fragile")],
    signs=[
        *life("r1", "first", 1, None),  # killed, and played again
        *life("r1", "first", 4, 6, attempt=2),
        *life("r1", "second", 7, 9),
        *life("r2", "first", 2, None, token="t2"),
        *life("r3", "first", 31, 33, token="-"),
        *life("r3", "second", 34, 36, token="-"),
        *life("r4", "first", 36, 37, token="-"),
        *life("r4", "second", 38, 39, token="-"),
    ],
    heard=[
        *told("r1", 1),
        Heard("run.started", 2.5, "i1", "t2", "fragile", "r2"),
        Heard("step.finished", 2.6, "i2", "t2", "fragile", "r2", "first", "failed"),
        Heard("run.finished", 2.7, "i3", "t2", "fragile", "r2", "", "failed"),
        *told("r3", 30, token="tick@2026-11-26T00:00:00.000+00:00", workflow="ticks"),
        *told("r4", 35, token="tick@2026-11-26T00:00:05.000+00:00", workflow="ticks"),
        *told(
            "r1", 20
        ),  # the same ids once more: by a clock that was killed before it could note that it had sent them
    ],
    asked=frozenset({"t1", "t2"}),
    periods={"tick": 5},
    may_fail=frozenset({"fragile"}),
)


def without(records: Records, fits: Callable[[Heard], bool]) -> Records:
    return replace(records, heard=[heard for heard in records.heard if not fits(heard)])


def with_signs(*more: Sign) -> Records:
    return replace(CLEAN, signs=[*CLEAN.signs, *more])


def with_heard(*more: Heard) -> Records:
    return replace(CLEAN, heard=[*CLEAN.heard, *more])


PLANTED = {
    "lost: t3 of chain was accepted": replace(CLEAN, accepted=[*CLEAN.accepted, Accepted("t3", "chain")]),
    "doubled: t1 has led to the runs r1, r9": with_heard(*told("r9", 60)),
    "unasked: nobody has asked for t9": with_heard(*told("r9", 60, token="t9")),
    "missed: tick was due 2 times after": with_heard(
        *told("r9", 60, token="tick@2026-11-26T00:00:20.000+00:00", workflow="ticks")
    ),
    "failed: run r9 of chain ended failed": with_heard(*told("r9", 60, result="failed")),
    "overlap: first of run r1 was alive as attempt 1 on east until 4.30": with_signs(
        replace(CLEAN.signs[0], what="alive", at=4.3)
    ),
    "replayed: second of run r1 began on east at 12.00": with_signs(*life("r1", "second", 12, 13, attempt=2)),
    "disorder: second of run r1 began at 5.00, before first had ended": with_signs(*life("r1", "second", 5, 6.5)),
    "disorder: first of run r1 began again at 8.00, after second": with_signs(*life("r1", "first", 8, None, attempt=3)),
    "out of turn: attempt 2 (fence 1) of first of run r1": with_signs(*life("r1", "first", 6.5, None, attempt=2)),
    "unplayed: run r1 succeeded, and its step second": replace(
        CLEAN, signs=[sign for sign in CLEAN.signs if (sign.run, sign.step, sign.what) != ("r1", "second", "end")]
    ),
    "unannounced: run.started of run r1": without(CLEAN, lambda each: (each.run, each.kind) == ("r1", "run.started")),
    "unannounced: step.finished first of run r1": without(CLEAN, lambda each: (each.run, each.step) == ("r1", "first")),
    "unannounced: run.finished of run r9": with_signs(*life("r9", "first", 50, 51, token="-")),
    "two ids: run.finished  of run r1": with_heard(replace(told("r1", 40)[-1], id="another")),
    "announced in disorder: run r9": with_heard(
        *(replace(heard, at=70.0 - place) for place, heard in enumerate(told("r9", 60)))
    ),
}


def test_nothing_is_found_in_clean_records() -> None:
    assert violations(CLEAN) == []


@pytest.mark.parametrize("sentence", PLANTED)
def test_what_is_planted_is_found(sentence: str) -> None:
    assert [found for found in violations(PLANTED[sentence]) if found.startswith(sentence)], violations(
        PLANTED[sentence]
    )


def test_each_check_has_something_planted_for_it() -> None:
    caught = {check.__name__ for check in CHECKS for records in PLANTED.values() if list(check(records))}
    assert caught == {check.__name__ for check in CHECKS}
