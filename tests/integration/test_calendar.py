# SPDX-License-Identifier: GPL-3.0-or-later
"""Schedules become runs, each due time once: on both databases, with several clocks, edits and faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from relengq.database import Database
from relengq.engine.calendar import PER_TICK, Fired, Outcome, fire_due, fires, overview
from relengq.engine.installation import Installation, Parcel
from relengq.models import Run, ScheduleFire, ScheduleState
from relengq.settings import Settings
from tests.support.clocks import set_ahead

SECOND = timedelta(seconds=1)


class PowerCutError(Exception):
    """The process is gone at this point."""


def moment(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-05-{text}").replace(tzinfo=UTC)


def nowhere(parcel: Parcel) -> None:
    """There is no broker: what is due stays due."""


class Clock:
    """A clock of an installation, in simulated time."""

    def __init__(self, site: Path, url: str) -> None:
        self.site = site
        self.installation = Installation(Settings.load(site), Database(url), send=nowhere)

    def write(self, text: str, name: str = "nightly.yml") -> None:
        (self.site / "beat" / name).write_text(text)

    def tick(self, now: str | datetime) -> list[Fired]:
        return fire_due(self.installation, moment(now) if isinstance(now, str) else now)

    def outcomes(self, now: str) -> list[tuple[str, str]]:
        """What a tick did: (due time, outcome)."""
        return [(f"{entry.due_at:%d %H:%M}", entry.outcome.value) for entry in self.tick(now)]

    def count(self, table: type[Run | ScheduleFire]) -> int:
        with self.installation.database.read() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.fixture
def clock(site: Path, database_url: str) -> Iterator[Clock]:
    clock = Clock(site, database_url)
    clock.write("daily: {workflow: hello, cron: '15 5 * * *'}\n")
    yield clock
    clock.installation.database.close()


def test_a_due_time_becomes_one_run(clock: Clock) -> None:
    assert clock.tick("01T05:00") == [], "first sight"
    assert clock.tick("01T05:14:59") == []
    (fired,) = clock.tick("01T05:15:00")
    assert (fired.schedule, fired.due_at, fired.outcome) == ("daily", moment("01T05:15"), Outcome.STARTED)
    assert clock.tick("01T05:15:01") == []
    with clock.installation.database.read() as session:
        (run,) = session.scalars(select(Run))
    assert run.id == fired.run_id
    assert (run.workflow, run.trigger_kind) == ("hello", "schedule")
    assert run.trigger == {"schedule": "daily", "due_at": "2026-05-01T05:15:00+00:00"}


def test_nothing_before_the_first_sight_is_owed(clock: Clock) -> None:
    clock.write("all: {workflow: hello, cron: '* * * * *', catch_up: all}\n")
    assert clock.tick("01T05:00:30") == []
    assert clock.outcomes("01T05:01") == [("01 05:01", "started")]


def test_an_outage_is_made_up_for_in_portions(clock: Clock) -> None:
    clock.write("all: {workflow: hello, cron: '* * * * *', catch_up: all}\n")
    clock.tick("01T05:00")
    ticks = []
    while fired := clock.tick("01T05:45"):
        ticks.append(len(fired))
    assert ticks == [PER_TICK, PER_TICK, 45 - 2 * PER_TICK]
    assert clock.count(Run) == 45


def test_the_last_one_is_made_up_for(clock: Clock) -> None:
    clock.tick("01T05:00")
    assert clock.outcomes("03T12:00") == [
        ("01 05:15", "missed"),
        ("02 05:15", "missed"),
        ("03 05:15", "started"),
    ]
    assert [entry.outcome for entry in fires(clock.installation)] == ["started", "missed", "missed"]
    assert clock.count(Run) == 1


def test_an_edit_is_seen_and_owes_nothing_from_before(clock: Clock) -> None:
    clock.tick("01T05:00")
    clock.write("daily: {workflow: hello, cron: '15 6 * * *', catch_up: all}\n")
    assert clock.tick("04T12:00") == [], "the old times are no longer wanted, the new ones not yet owed"
    assert clock.outcomes("05T06:15") == [("05 06:15", "started")]
    clock.write("daily: {workflow: hello, cron: '15 6 * * *', catch_up: all, description: Other.}\n")
    assert clock.outcomes("06T08:00") == [("06 06:15", "started")], "not an edit of the timing"


def test_disabled_schedules_start_nothing_and_owe_nothing(clock: Clock) -> None:
    clock.tick("01T05:00")
    clock.write("daily: {workflow: hello, cron: '15 5 * * *', enabled: false}\n")
    assert [clock.tick(f"0{day}T12:00") for day in (1, 2, 3)] == [[], [], []]
    assert overview(clock.installation, moment("03T12:00"))[0].next_due is None
    clock.write("daily: {workflow: hello, cron: '15 5 * * *'}\n")
    assert clock.tick("03T12:00") == []
    assert clock.outcomes("04T05:15") == [("04 05:15", "started")]


def test_a_broken_file_keeps_its_schedules_and_does_not_stop_the_others(clock: Clock) -> None:
    clock.write("other: {workflow: hello, cron: '20 5 * * *'}\n", "other.yml")
    clock.tick("01T05:00")
    clock.write("daily: {workflow: hello, cron: '15 25 * * *'\n")
    assert clock.installation.site.faults
    assert clock.outcomes("01T05:20") == [("01 05:20", "started")]
    clock.write("daily: {workflow: hello, cron: '15 5 * * *'}\n")
    assert clock.outcomes("01T08:00") == [("01 05:15", "started")]


def test_a_schedule_that_moves_to_another_file_goes_on(clock: Clock) -> None:
    clock.tick("01T05:00")
    clock.write("{}\n")
    clock.tick("01T05:09")
    clock.write("daily: {workflow: hello, cron: '15 5 * * *'}\n", "moved.yml")
    assert clock.outcomes("01T05:16") == [("01 05:15", "started")]


def test_a_schedule_that_is_gone_for_long_is_forgotten(clock: Clock) -> None:
    clock.tick("01T05:00")
    clock.write("{}\n")
    for minute in (2, 10, 11):
        clock.tick(f"01T05:{minute}".replace(":2", ":02"))
    with clock.installation.database.read() as session:
        assert session.scalars(select(ScheduleState)).all() == []


@pytest.mark.parametrize(
    ("entry", "note"),
    [
        ("{workflow: hullo, cron: '15 5 * * *'}", "hullo"),
        ("{workflow: broken, cron: '15 5 * * *'}", "broken"),
        ("{workflow: hello, cron: '15 5 * * *', inputs: {colour: red}}", "colour"),
    ],
)
def test_a_start_that_is_refused_is_recorded_and_stops_no_other(clock: Clock, entry: str, note: str) -> None:
    (clock.site / "playbooks/workflows/broken.yml").write_text("steps: 7\n")
    clock.write(f"a: {entry}\nb: {{workflow: hello, cron: '15 5 * * *'}}\n")
    clock.tick("01T05:00")
    refused, started = clock.tick("01T05:15")
    assert (refused.schedule, refused.outcome, refused.run_id) == ("a", Outcome.REFUSED, None)
    assert note in (refused.note or "")
    assert (started.schedule, started.outcome) == ("b", Outcome.STARTED)
    assert clock.count(Run) == 1
    assert clock.tick("01T05:16") == [], "it is not tried again and again"


def test_a_busy_group_skips(clock: Clock) -> None:
    (clock.site / "playbooks/workflows/hello.yml").write_text(
        "concurrency: {group: one, when_busy: skip}\nsteps:\n  - {name: hello, playbook: hello.yml}\n"
    )
    clock.tick("01T05:00")
    assert clock.outcomes("01T05:15") == [("01 05:15", "started")]
    assert clock.outcomes("02T05:15") == [("02 05:15", "skipped")]


def test_a_power_cut_before_the_commit_leaves_nothing_and_loses_nothing(clock: Clock) -> None:
    clock.tick("01T05:00")
    clock.tick("01T05:14:50")

    def cut(session: Session) -> None:
        raise PowerCutError

    for _ in range(2):
        event.listen(Session, "before_commit", cut)
        clock.tick("01T05:15")
        event.remove(Session, "before_commit", cut)
        assert (clock.count(Run), clock.count(ScheduleFire)) == (0, 0)
    assert clock.outcomes("01T05:15:30") == [("01 05:15", "started")]
    assert (clock.count(Run), clock.count(ScheduleFire)) == (1, 1)


def test_clocks_that_race_start_each_once(clock: Clock, database_url: str) -> None:
    clock.write("fast: {workflow: hello, cron: '* * * * *', catch_up: all}\n")
    clock.tick("01T05:00")
    others = [Clock(clock.site, database_url) for _ in range(3)]
    faults: list[BaseException] = []

    def run(other: Clock, offset: int) -> None:
        try:
            for minute in range(1, 11):
                other.tick(moment("01T05:00") + timedelta(minutes=minute, seconds=offset))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=run, args=(other, offset)) for offset, other in enumerate(others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.installation.database.close()
    assert faults == []
    entries = fires(clock.installation)
    assert [f"{entry.due_at:%H:%M}" for entry in entries] == [f"05:{minute:02}" for minute in range(10, 0, -1)]
    assert {entry.outcome for entry in entries} == {Outcome.STARTED}
    assert clock.count(Run) == 10


def test_a_clock_that_was_stopped_and_wakes_does_no_harm(clock: Clock) -> None:
    clock.tick("01T05:00")
    clock.tick("02T05:15")
    before = clock.count(Run)
    assert clock.tick("01T05:15") == []
    assert clock.count(Run) == before


def test_a_wrong_clock_does_not_end_a_schedule_for_ever(clock: Clock) -> None:
    now = clock.installation.now().replace(hour=4) + timedelta(days=2)
    clock.tick(now)
    wrong = datetime(2199, 1, 1, 6, tzinfo=UTC)
    clock.tick(wrong)
    clock.tick(now + SECOND)
    (fired,) = clock.tick(now.replace(hour=5, minute=15))
    assert fired.outcome is Outcome.STARTED


class Ahead:
    """A clock whose database's time is set."""

    def __init__(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        self._clock = clock
        self._by = timedelta()
        set_ahead(monkeypatch, lambda: self._by)

    def tick(self, *times: str) -> list[tuple[str, str]]:
        """Let it be these times, one after the other, and do each time all that is due: (due time, outcome)."""
        done: list[Fired] = []
        for text in times:
            self._by += moment(text) - self._clock.installation.now()
            while fired := self._clock.tick(moment(text)):
                done += fired
        return [(f"{entry.due_at:%d %H:%M}", entry.outcome.value) for entry in done]


def test_what_was_missed_while_time_was_ahead_is_owed_when_it_comes(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = Ahead(clock, monkeypatch)
    ahead.tick("01T05:00")
    assert ahead.tick("04T05:20") == [("01 05:15", "missed"), ("02 05:15", "missed"), ("03 05:15", "missed"),
                                      ("04 05:15", "started")]  # fmt: skip
    assert ahead.tick("01T05:01", "01T05:02") == []
    assert ahead.tick("01T05:15", "02T05:15", "03T05:15") == [
        ("01 05:15", "started"),
        ("02 05:15", "started"),
        ("03 05:15", "started"),
    ]
    assert ahead.tick("04T05:15") == [], "it was started while the time was ahead"
    assert ahead.tick("05T05:15") == [("05 05:15", "started")]
    assert clock.count(Run) == clock.count(ScheduleFire) == 5


def test_two_hours_ahead_lose_no_due_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the hardware's clock is in local time, until NTP comes."""
    clock.write("often: {workflow: hello, cron: '*/20 * * * *'}\n")
    ahead = Ahead(clock, monkeypatch)
    ahead.tick("01T05:01")
    assert ahead.tick("01T05:20") == [("01 05:20", "started")]
    assert [outcome for _, outcome in ahead.tick("01T07:25")] == [*["missed"] * 5, "started"]
    assert ahead.tick("01T05:25", "01T05:26") == []
    for due in ("05:40", "06:00", "06:20", "06:40", "07:00"):
        assert ahead.tick(f"01T{due}") == [(f"01 {due}", "started")]
    assert ahead.tick("01T07:20") == [], "it was started while the time was ahead"
    assert ahead.tick("01T07:40") == [("01 07:40", "started")]
    with clock.installation.database.read() as session:
        assert set(session.scalars(select(ScheduleFire.outcome))) == {"started"}


def test_one_row_for_many_due_times_is_taken_back_as_a_whole(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock was away for ten minutes, and when it came back time was three hours ahead for a moment."""
    clock.write("minutely: {workflow: hello, cron: '* * * * *', catch_up: none}\n")
    ahead = Ahead(clock, monkeypatch)
    ahead.tick("01T05:00", "01T05:01")
    ahead.tick("01T08:11:30")
    assert ahead.tick("01T05:11:30", "01T05:11:31") == [
        *((f"01 05:{minute:02}", "missed") for minute in range(2, 11)),
        ("01 05:11", "started"),
    ]


def test_a_refusal_from_a_time_that_was_ahead_is_no_answer(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    clock.write("daily: {workflow: gone, cron: '15 5 * * *'}\n")
    ahead = Ahead(clock, monkeypatch)
    ahead.tick("01T05:00")
    assert ahead.tick("02T05:15") == [("01 05:15", "missed"), ("02 05:15", "refused")]
    clock.write("daily: {workflow: hello, cron: '15 5 * * *'}\n")
    assert ahead.tick("01T05:01", "01T05:15", "02T05:15") == [("01 05:15", "started"), ("02 05:15", "started")]


def test_a_schedule_that_was_first_seen_while_time_was_ahead(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = Ahead(clock, monkeypatch)
    ahead.tick("03T05:00")
    assert ahead.tick("01T05:30", "02T05:15") == [("02 05:15", "started")], "nothing before its sight is owed"


def test_the_overview_shows_last_next_and_what_is_overdue(clock: Clock) -> None:
    (fresh,) = overview(clock.installation, moment("01T05:00"))
    assert (fresh.next_due, fresh.overdue, fresh.last) == (moment("01T05:15"), None, None)
    clock.tick("01T05:00")
    (fired,) = clock.tick("01T05:15")
    (view,) = overview(clock.installation, moment("01T05:16"))
    assert (view.name, view.next_due, view.overdue, view.last) == ("daily", moment("02T05:15"), None, fired)
    assert view.last_run_state == "queued"
    (late,) = overview(clock.installation, moment("04T05:00"))
    assert (late.next_due, late.overdue) == (moment("04T05:15"), moment("02T05:15"))


@pytest.mark.postgresql
def test_a_clock_that_stalled_in_the_middle_delays_only_that_schedule(site: Path, postgresql_url: str) -> None:
    clock = Clock(site, postgresql_url)
    clock.write("a: {workflow: hello, cron: '15 5 * * *'}\nb: {workflow: hello, cron: '15 5 * * *'}\n")
    clock.tick("01T05:00")
    clock.tick("01T05:14:50")
    with clock.installation.database.write() as stalled:
        stalled.get(ScheduleState, "a", with_for_update=True)
        assert [entry.schedule for entry in clock.tick("01T05:15")] == ["b"]
    assert [entry.schedule for entry in clock.tick("01T05:15:01")] == ["a"]
    clock.installation.database.close()
