# SPDX-License-Identifier: GPL-3.0-or-later
"""A year of schedules in simulated time: the clocks change, leaders change, stall and are away.

What is due is told by walking through the year with ``zoneinfo``, in another way than the code does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from relengq.database import Database
from relengq.engine.calendar import fire_due
from relengq.engine.installation import Installation, Parcel
from relengq.engine.leadership import CLOCK, hold
from relengq.models import Run, ScheduleFire
from relengq.settings import Settings

BEGIN, END = datetime(2026, 1, 10, tzinfo=UTC), datetime(2027, 1, 10, tzinfo=UTC)
STEP, SECOND = timedelta(minutes=5), timedelta(seconds=1)
"""Each minute of the expressions below, and each change of the zones, is at one of these steps."""
GRACE = timedelta(seconds=60)
LEASE = 10.0

CRONS = {
    # Hours with names: in the gaps and in the repeated hours of each zone, beside them, and at midnight.
    "30 2 * 3,6,10 0": ("Europe/Prague", "America/New_York"),
    "15 1,2 28-31 3,10 *": ("Europe/Prague", "UTC"),
    "15,45 1-2 1,8 3,11 *": ("America/New_York",),
    "15,45 1-2 4,5 4,10 *": ("Australia/Lord_Howe",),
    "0 0 * 3,4,9,10 0": ("Australia/Lord_Howe", "Asia/Beirut"),
    "0 5 1 * *": ("Europe/Prague", "UTC"),
    "10 */8 1 3,11 1": ("America/New_York",),
    # Every hour.
    "*/30 * 29 3 *": ("Europe/Prague", "UTC"),
    "0 * 25 10 *": ("Europe/Prague",),
    "20 * 8 3 *": ("America/New_York",),
    "*/30 * 4,5 10 *": ("Australia/Lord_Howe",),
    "*/15 0-23 5 4 *": ("Australia/Lord_Howe",),
}
EVERY = {"every: 401h": timedelta(hours=401), "every: 9d": timedelta(days=9)}
CATCH_UPS = ("none", "last", "all")


@dataclass(frozen=True)
class Entry:
    """A schedule of the test, and when it is due."""

    name: str
    text: str
    catch_up: str
    due: list[datetime]


def field(text: str, low: int, high: int) -> set[int]:
    """The numbers that a field of a cron expression names."""
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        numbers = range(low, high + 1) if span == "*" else range(int(first), int(last or first) + 1)
        found |= set(numbers[:: int(step or 1)])
    return found


class Oracle:
    """Walks through the local time of a zone and says at which a cron expression is due."""

    def __init__(self, cron: str) -> None:
        minute, hour, day, month, weekday = cron.split()
        self.minutes, self.hours = field(minute, 0, 59), field(hour, 0, 23)
        self.days, self.months, self.weekdays = field(day, 1, 31), field(month, 1, 12), field(weekday, 0, 6)
        self.either = day != "*" and weekday != "*"
        self.every_hour = len(self.hours) == 24

    def names(self, wall: datetime) -> bool:
        """Whether the expression names this local time."""
        if wall.minute not in self.minutes or wall.hour not in self.hours or wall.month not in self.months:
            return False
        of_month, of_week = wall.day in self.days, wall.isoweekday() % 7 in self.weekdays
        return of_month or of_week if self.either else of_month and of_week

    def due(self, minutes: list[tuple[datetime, datetime]]) -> list[datetime]:
        """The moments at which it is due, of all steps with their local times, oldest first.

        With hours that have names, each local time counts when it is shown first, or passed over.
        """
        if self.every_hour:
            return [moment for moment, wall in minutes if self.names(wall)]
        found, latest = [], minutes[0][1]
        for (_, _), (moment, wall) in pairwise(minutes):
            if wall <= latest:
                continue
            shown = [latest + STEP * (number + 1) for number in range((wall - latest) // STEP)]
            if any(map(self.names, shown)):
                found.append(moment)
            latest = wall
        return found


def minutes_of(zone: str) -> list[tuple[datetime, datetime]]:
    """Every step of the year, from a day before on, and what a clock on the wall of that zone shows."""
    info = ZoneInfo(zone)
    start = BEGIN - timedelta(days=1)
    moments = (start + STEP * number for number in range((END - start) // STEP + 1))
    return [(moment, moment.astimezone(info).replace(tzinfo=None, fold=0)) for moment in moments]


def entries() -> Iterator[Entry]:
    walls: dict[str, list[tuple[datetime, datetime]]] = {}
    for number, (cron, zones) in enumerate(CRONS.items()):
        for at, zone in enumerate(zones):
            if zone not in walls:
                walls[zone] = minutes_of(zone)
            catch_up = CATCH_UPS[(number + at) % 3]
            due = [moment for moment in Oracle(cron).due(walls[zone]) if BEGIN < moment <= END]
            yield Entry(f"s{number}-{at}", f'cron: "{cron}", timezone: {zone}, catch_up: {catch_up}', catch_up, due)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for (text, step), catch_up in zip(EVERY.items(), ("all", "last"), strict=True):
        first = epoch + ((BEGIN - epoch) // step + 1) * step
        due = [first + step * number for number in range((END - first) // step + 1)]
        yield Entry(f"e-{catch_up}", f"{text}, catch_up: {catch_up}", catch_up, due)


def settled(entry: Entry, owed: list[datetime], now: datetime) -> dict[datetime, str]:
    """What becomes of due times that a clock finds at ``now``, as the manual says it."""
    late = [due for due in owed if now - due > GRACE]
    in_time = owed[len(late) :]
    if entry.catch_up == "all":
        started = owed
    elif entry.catch_up == "none" or in_time:
        started = in_time
    else:
        started = late[-1:]
    return {due: "started" if due in started else "missed" for due in owed}


class Timed(Database):
    """A database whose time the test sets."""

    moment = BEGIN

    def now(self, session: Session) -> datetime:
        return type(self).moment


def ticks(chance: random.Random, every: list[Entry]) -> Iterator[datetime]:
    """When some clock looks: soon after each due time, except while all are away."""
    moments = sorted({due + SECOND * chance.uniform(0, 50) for entry in every for due in entry.due})
    away = [chance.choice(chance.choice(every).due) - STEP * chance.random() for _ in range(12)]
    away += [datetime(2026, 3, 28, 23, 40, tzinfo=UTC), datetime(2026, 10, 24, 22, 50, tzinfo=UTC)]
    outages = [(start, start + timedelta(hours=chance.choice([0.05, 1, 5, 40]))) for start in away]
    moments += [end for _, end in outages]
    for moment in sorted(moments):
        if not any(start <= moment < end for start, end in outages) and moment <= END:
            yield moment
    yield END + STEP


def nowhere(parcel: Parcel) -> None:
    """There is no broker: what is due stays due."""


def installation(site: Path, url: str) -> Installation:
    made = Installation(Settings.load(site), Timed(url), send=nowhere)

    @event.listens_for(made.database.engine, "connect")
    def hurry(connection: object, _record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")  # type: ignore[attr-defined]

    return made


@pytest.mark.parametrize("seed", [20261120])
def test_a_year_of_schedules(site: Path, sqlite_url: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Installation, "revision", lambda installation: None)  # it would ask git each time
    chance = random.Random(seed)
    every = list(entries())
    (site / "beat" / "nightly.yml").write_text(
        "".join(f"{entry.name}: {{workflow: hello, {entry.text}}}\n" for entry in every)
    )
    clocks = {f"clock {number}": installation(site, sqlite_url) for number in range(3)}
    assert clocks["clock 0"].site.faults == ()
    Timed.moment = BEGIN
    fire_due(clocks["clock 0"], BEGIN)

    expected: dict[tuple[str, datetime], str] = {}
    done = dict.fromkeys((entry.name for entry in every), 0)
    leads, changes, stalled = "clock 0", 0, [("clock 0", BEGIN)]
    for tick in ticks(chance, every):
        Timed.moment = now = tick
        before = leads
        if chance.random() < 0.2:
            leads = chance.choice(sorted(clocks))
        changes += leads != before
        if not hold(clocks[leads], CLOCK, leads, LEASE):
            # The one that led is not there any more: its lease runs out, and this one gets it.
            Timed.moment = now = now + SECOND * (LEASE + 1)
            assert hold(clocks[leads], CLOCK, leads, LEASE)
        with capture_logs():
            while fire_due(clocks[leads], now):
                pass
        for entry in every:
            begin = end = done[entry.name]
            while end < len(entry.due) and entry.due[end] <= now:
                end += 1
            for due, outcome in settled(entry, entry.due[begin:end], now).items():
                expected[entry.name, due] = outcome
            done[entry.name] = end
        if chance.random() < 0.2:
            # One that led some time ago was stopped in between, and goes on with what it saw of the time then.
            name, then = chance.choice(stalled)
            assert fire_due(clocks[name], then) == []
        stalled = [*stalled[-20:], (leads, now)]

    with clocks["clock 0"].database.read() as session:
        rows = session.scalars(select(ScheduleFire)).all()
        runs = session.scalar(select(func.count()).select_from(Run))
    found = {(row.schedule, row.due_at): row.outcome for row in rows}
    assert {
        key: (found.get(key), expected.get(key)) for key in {*found, *expected} if found.get(key) != expected.get(key)
    } == {}
    assert len(rows) == len(expected) == sum(len(entry.due) for entry in every)
    assert runs == list(expected.values()).count("started")
    assert list(expected.values()).count("missed") > 20, "the outages hit something"
    assert changes > 20
    for each in clocks.values():
        each.database.close()
