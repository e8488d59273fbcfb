# SPDX-License-Identifier: GPL-3.0-or-later
"""Years of simulated time: every due time is started once or missed, exactly as ``catch_up`` says."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relengq.engine.calendar import MISSED_ROWS, Owed, owed
from relengq.schedules import CatchUp, Schedule

GRACE = timedelta(seconds=60)
YEAR = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def schedule(cron: str, catch_up: str, timezone: str = "UTC") -> Schedule:
    return Schedule.model_validate({"workflow": "w", "cron": cron, "catch_up": catch_up, "timezone": timezone})


def everything(entry: Schedule, after: datetime, now: datetime) -> tuple[list[str], list[str]]:
    """Started and missed due times when a clock comes back at ``now``."""
    started, missed = [], []
    while work := owed("s", entry, after, now, GRACE):
        missed += [f"{fired.due_at:%H:%M}" for fired in work.missed]
        started += [f"{work.start:%H:%M}"] if work.start else []
        after = work.until
    return started, missed


@pytest.mark.parametrize(
    ("catch_up", "now", "started", "missed"),
    [
        # The clock was away from half past noon on.
        ("none", "15:30", [], ["13:00", "14:00", "15:00"]),
        ("last", "15:30", ["15:00"], ["13:00", "14:00"]),
        ("all", "15:30", ["13:00", "14:00", "15:00"], []),
        # It comes back just when one is due.
        ("none", "15:00:20", ["15:00"], ["13:00", "14:00"]),
        ("last", "15:00:20", ["15:00"], ["13:00", "14:00"]),
        ("all", "15:00:20", ["13:00", "14:00", "15:00"], []),
        # The grace is sixty seconds, and not one more.
        ("none", "13:01:00", ["13:00"], []),
        ("none", "13:01:01", [], ["13:00"]),
        ("last", "13:01:01", ["13:00"], []),
        ("last", "12:59:59", [], []),
    ],
)
def test_after_an_outage(catch_up: str, now: str, started: list[str], missed: list[str]) -> None:
    entry = schedule("0 * * * *", catch_up)
    assert everything(entry, moment("2026-05-01T12:30"), moment(f"2026-05-01T{now}")) == (started, missed)


def test_a_month_of_minutes_is_one_row() -> None:
    work = owed("s", schedule("* * * * *", "last"), moment("2026-05-01"), moment("2026-06-01T00:30:30"), GRACE)
    assert isinstance(work, Owed)
    assert work.start is None, "00:30 is due in time and comes next"
    (summary,) = work.missed
    assert summary.due_at == moment("2026-06-01T00:29")
    assert "all due times from 2026-05-01 00:01:00Z on" in (summary.note or "")


@given(
    cron=st.sampled_from(["0 * * * *", "30 2 * * *", "0 0-6 * * *", "15 5 * * MON-FRI", "0 0 1 * *"]),
    timezone=st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana", "Africa/Cairo"]),
    catch_up=st.sampled_from(list(CatchUp)),
    seed=st.integers(0, 2**32),
    outages=st.integers(0, 12),
)
@settings(max_examples=25, deadline=None)
def test_a_year_with_outages(cron: str, timezone: str, catch_up: CatchUp, seed: int, outages: int) -> None:
    entry = schedule(cron, catch_up.value, timezone)
    chance = random.Random(seed)
    begin, end = YEAR
    away = [begin + chance.random() * (end - begin) for _ in range(outages)]
    down = [(start, start + timedelta(hours=chance.choice([0.001, 1, 30, 400]) * chance.random())) for start in away]

    seen: Counter[datetime] = Counter()
    started: set[datetime] = set()
    settled = begin
    while (due := entry.due_after(settled)) is not None and due <= end:
        now = due + timedelta(seconds=chance.random())
        for start, stop in sorted(down):
            if start <= now < stop:
                now = stop
        missed_now, started_now = 0, 0
        while work := owed("s", entry, settled, now, GRACE):
            for fired in work.missed:
                standing_for = entry.due_between(settled, fired.due_at, 100_000)
                assert len(standing_for) == 1 or len(standing_for) > MISSED_ROWS
                seen.update(standing_for)
                settled = fired.due_at
                missed_now += 1
            if work.start is not None:
                assert catch_up is not CatchUp.NONE or now - work.start <= GRACE
                started.add(work.start)
                seen[work.start] += 1
                settled = work.start
                started_now += 1
            assert settled == work.until
        assert catch_up is not CatchUp.LAST or not missed_now or started_now >= 1

    every = entry.due_between(begin, end, 100_000)
    assert [due for due, times in seen.items() if times != 1] == []
    assert [due for due in every if due not in seen] == []
    if catch_up is CatchUp.ALL or not down:
        assert set(every) - started == set()
