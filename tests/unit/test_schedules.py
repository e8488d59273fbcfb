# SPDX-License-Identifier: GPL-3.0-or-later
"""Due times: each once, in every zone, through every change of the clocks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from relengq.schedules import CatchUp, Schedule, Schedules

MINUTE = timedelta(minutes=1)

CHANGES = {
    "Europe/Berlin": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    "Australia/Lord_Howe": ("2026-10-03T15:30", "2026-04-04T15:00"),  # half an hour
    "Antarctica/Troll": ("2026-03-29T01:00", "2026-10-25T01:00"),  # two hours
    "Asia/Beirut": ("2026-03-28T22:00", "2026-10-24T21:00"),  # at midnight, both ways
    "Africa/Cairo": ("2026-04-23T22:00", "2026-10-29T21:00"),
    "America/Asuncion": ("2023-10-01T04:00", "2024-03-24T03:00"),
    "America/Havana": ("2026-03-08T05:00", "2026-11-01T05:00"),
    "Africa/Casablanca": ("2026-02-15T02:00", "2026-03-22T02:00"),  # back for Ramadan, forward after it
    "Pacific/Apia": ("2011-12-30T10:00", "2011-04-02T14:00"),  # a day that does not exist
    "Asia/Kathmandu": ("1985-12-31T18:30",),  # a quarter of an hour
    "UTC": ("2026-03-29T01:00",),
}
"""Zones, and the moments (UTC) at which their offset changes."""


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def cron(text: str, timezone: str = "UTC") -> Schedule:
    return Schedule(workflow="w", cron=text, timezone=timezone)


def local_dues(text: str, timezone: str, after: str, until: str) -> list[str]:
    """Due times between two local times, as the local clock shows them, with its offset."""
    zone = ZoneInfo(timezone)
    start, end = (datetime.fromisoformat(edge).replace(tzinfo=zone) for edge in (after, until))
    found = cron(text, timezone).due_between(start, end, 1000)
    return [due.astimezone(zone).strftime("%d %H:%M%z") for due in found]


@pytest.mark.parametrize(
    ("text", "zone", "after", "until", "expected"),
    [
        # The spring night has no 02:30; the autumn night has two.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12", "2026-03-30T12", ["29 03:00+0200", "30 02:30+0200"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12", "2026-10-26T12", ["25 02:30+0200", "26 02:30+0100"]),
        ("*/15 2 * * *", "Europe/Berlin", "2026-03-29T00", "2026-03-29T12", ["29 03:00+0200"]),
        ("0 */2 * * *", "Europe/Berlin", "2026-03-29", "2026-03-29T05", ["29 03:00+0200", "29 04:00+0200"]),
        ("0 */2 * * *", "Europe/Berlin", "2026-10-25", "2026-10-25T05", ["25 02:00+0200", "25 04:00+0100"]),
        # Every hour: the repeated one too, and no more than there are.
        ("0 * * * *", "Europe/Berlin", "2026-10-25T01:30", "2026-10-25T03:30",
         ["25 02:00+0200", "25 02:00+0100", "25 03:00+0100"]),
        ("30 * * * *", "Europe/Berlin", "2026-03-29T01", "2026-03-29T04", ["29 01:30+0100", "29 03:30+0200"]),
        # Half an hour, two hours, midnight, a whole day.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12", "2026-10-05T12",
         ["04 02:30+1100", "05 02:15+1100"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12", "2026-04-05T12", ["05 01:45+1100"]),
        ("45 * * * *", "Australia/Lord_Howe", "2026-04-05T01", "2026-04-05T03",
         ["05 01:45+1100", "05 01:45+1030", "05 02:45+1030"]),
        ("30 1 * * *", "Antarctica/Troll", "2026-03-28T12", "2026-03-29T12", ["29 03:00+0200"]),
        ("@daily", "Asia/Beirut", "2026-03-28T12", "2026-03-30T12", ["29 01:00+0300", "30 00:00+0300"]),
        ("30 0 * * *", "America/Havana", "2026-10-31T12", "2026-11-01T12", ["01 00:30-0400"]),
        ("30 23 * * *", "Africa/Cairo", "2026-10-29T12", "2026-10-30T12", ["29 23:30+0300"]),
        ("0 12 * * *", "Pacific/Apia", "2011-12-29T00", "2011-12-31T13",
         ["29 12:00-1000", "31 00:00+1400", "31 12:00+1400"]),
        ("0 0 * * SUN", "America/Asuncion", "2023-09-30T12", "2023-10-08T12",
         ["01 01:00-0300", "08 00:00-0300"]),
    ],
)  # fmt: skip
def test_changes_of_the_clocks(text: str, zone: str, after: str, until: str, expected: list[str]) -> None:
    assert local_dues(text, zone, after, until) == expected


@pytest.mark.parametrize("zone", sorted(set(CHANGES) - {"UTC"}))
def test_the_moments_above_are_changes(zone: str) -> None:
    for text in CHANGES[zone]:
        before, after = (moment.astimezone(ZoneInfo(zone)) for moment in (utc(text) - MINUTE, utc(text)))
        assert before.utcoffset() != after.utcoffset()


def by_walking(
    minutes: set[int], hours: set[int], zone: ZoneInfo, after: datetime, until: datetime
) -> Iterator[datetime]:
    """The due times found by looking at the local clock every minute, without any calendar arithmetic."""
    moment, shown = after, after.astimezone(zone).replace(tzinfo=None)
    while (moment := moment + MINUTE) <= until:
        wall = moment.astimezone(zone).replace(tzinfo=None, fold=0)
        if len(hours) == 24:
            if wall.minute in minutes:
                yield moment
            continue
        passed = shown
        while (passed := passed + MINUTE) <= wall:
            if passed.minute in minutes and passed.hour in hours:
                yield moment
                break
        shown = max(shown, wall)


@st.composite
def around_changes(draw: st.DrawFn) -> tuple[str, datetime]:
    zone = draw(st.sampled_from(sorted(CHANGES)))
    change = utc(draw(st.sampled_from(CHANGES[zone])))
    return zone, change - draw(st.integers(20 * 60, 40 * 60)) * MINUTE


@given(
    place=around_changes(),
    minutes=st.sets(st.integers(0, 59), min_size=1, max_size=4),
    hours=st.one_of(
        st.just(set(range(24))), st.sets(st.integers(0, 23), min_size=1, max_size=6), st.just({0, 1, 2, 3})
    ),
)
@settings(max_examples=120, deadline=None)
def test_as_a_person_watching_the_clock_would_say(
    place: tuple[str, datetime], minutes: set[int], hours: set[int]
) -> None:
    zone, after = place
    until = after + timedelta(hours=72)
    text = f"{','.join(map(str, sorted(minutes)))} {','.join(map(str, sorted(hours)))} * * *"
    expected = list(by_walking(minutes, hours, ZoneInfo(zone), after, until))
    assert cron(text, zone).due_between(after, until, 10_000) == expected


@given(
    zone=st.sampled_from(sorted(available_timezones())),
    start=st.dates(date(2013, 1, 1), date(2037, 1, 1)),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
)
@settings(max_examples=150, deadline=None)
def test_a_daily_time_is_due_once_a_day_in_every_zone(zone: str, start: date, hour: int, minute: int) -> None:
    if zone in {"localtime", "posixrules", "Factory"}:
        return
    schedule = cron(f"{minute} {hour} * * *", zone)
    noon = datetime(start.year, start.month, start.day, 12, tzinfo=ZoneInfo(zone))
    # Noon to noon, with the day's own time at 12:00 belonging to the day before.
    dues = schedule.due_between(noon, noon + timedelta(days=45), 1000)
    assert len(dues) == 45
    assert dues == sorted(set(dues))
    for due in dues:
        shown = due.astimezone(ZoneInfo(zone))
        late = timedelta(hours=shown.hour - hour, minutes=shown.minute - minute)
        assert timedelta() <= late <= timedelta(hours=3)


TEXTS = st.sampled_from(
    [
        *("*/15 * * * *", "0 * * * *", "@daily", "30 2 * * *", "5,35 1-3 * * *", "0 0 1 * *", "0 0 L * *"),
        *(
            "0 4 * * 5L",
            "0 4 LW * *",
            "15 10 * * 1#2",
            "0 0 29 2 *",
            "0 * * * SUN",
            "* * 1 1 *",
            "0 0 13 * FRI",
        ),
    ]
)
MOMENTS = st.integers(20 * 365 * 86400, 67 * 365 * 86400).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@given(text=TEXTS, zone=st.sampled_from(sorted(CHANGES)), moment=MOMENTS)
@settings(max_examples=200, deadline=None)
def test_due_times_go_up_and_do_not_depend_on_where_one_starts(text: str, zone: str, moment: datetime) -> None:
    schedule = cron(text, zone)
    first, second = schedule.due_between(moment, datetime(2200, 1, 1, tzinfo=UTC), 2)
    assert moment < first < second
    assert first.utcoffset() == timedelta()
    for between in (moment, moment + (first - moment) / 2, first - timedelta(microseconds=1)):
        assert schedule.due_after(between) == first
    assert schedule.due_after(first) == second
    assert schedule.due_after(first.astimezone(ZoneInfo("Asia/Tokyo"))) == second


@given(text=TEXTS, zone=st.sampled_from(sorted(CHANGES)), moment=MOMENTS, hours=st.integers(0, 2000))
@settings(max_examples=100, deadline=None)
def test_the_newest_due_time_is_found_without_walking(text: str, zone: str, moment: datetime, hours: int) -> None:
    schedule = cron(text, zone)
    until = moment + timedelta(hours=hours)
    newest = schedule.newest_due(moment, until)
    if newest is None:
        assert schedule.due_between(moment, until, 1) == []
        return
    assert moment < newest <= until
    following = schedule.due_after(newest)
    assert following is None or following > until


def test_a_year_of_minutes_is_quick() -> None:
    schedule = cron("* * * * *", "Europe/Berlin")
    began = time.process_time()
    assert schedule.newest_due(utc("2020-01-01"), utc("2026-01-01T00:00:30")) == utc("2026-01-01")
    assert time.process_time() - began < 0.5


@given(seconds=st.integers(1, 366 * 86400), moment=MOMENTS)
def test_intervals_are_anchored_so_that_all_clocks_agree(seconds: int, moment: datetime) -> None:
    schedule = Schedule(workflow="w", every=seconds)
    due = schedule.due_after(moment)
    assert due is not None
    assert timedelta() < due - moment <= timedelta(seconds=seconds)
    assert (due - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() % seconds == 0


def test_every_six_hours_is_due_at_round_hours() -> None:
    schedule = Schedules.validate_python({"sync": {"workflow": "w", "every": "6h"}})["sync"]
    assert schedule.when == "every 6h"
    assert [due.hour for due in schedule.due_between(utc("2026-01-01"), utc("2026-01-02"), 9)] == [
        6,
        12,
        18,
        0,
    ]


@pytest.mark.parametrize(
    ("nickname", "expected"),
    [
        ("@hourly", "2026-05-05T11:00"),
        ("@daily", "2026-05-06T00:00"),
        ("@midnight", "2026-05-06T00:00"),
        ("@weekly", "2026-05-10T00:00"),
        ("@monthly", "2026-06-01T00:00"),
        ("@yearly", "2027-01-01T00:00"),
        ("@Annually", "2027-01-01T00:00"),
    ],
)
def test_nicknames(nickname: str, expected: str) -> None:
    assert cron(nickname).due_after(utc("2026-05-05T10:30")) == utc(expected)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has 0 fields; it needs five"),
        ("* * * *", "has 4 fields; it needs five"),
        ("0 5 * * * *", "has 6 fields; it needs five"),
        ("61 * * * *", "'61' does not fit the minute (0-59)"),
        ("0 24 * * *", "'24' does not fit the hour (0-23)"),
        ("0 0 5-1 * *", "'5-1' does not fit the day of the month"),
        ("0 0 * FOO *", "'FOO' does not fit the month"),
        ("0 0 * * 1#6", "'1#6' does not fit the day of the week"),
        ("@dayly", "did you mean '@daily'?"),
        ("@reboot", "unknown cron nickname '@reboot'"),
        ("@every 5m", "written 'every: 5m'"),
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("0 0 */31 2 1#5", "never fires"),
        ("*," * 400 + "* * * * *", "may have 300 characters"),
    ],
)
def test_a_wrong_cron_says_which_field(text: str, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        cron(text)
    assert problem in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("zone", "problem"),
    [
        ("Europe/Berln", "did you mean 'Europe/Berlin'?"),
        ("../../etc/passwd", "unknown time zone"),
        ("/etc/localtime", "unknown time zone"),
        ("America", "unknown time zone"),
        ("localtime", "unknown time zone"),
        ("", "unknown time zone"),
        ("a\0b", "unknown time zone"),
    ],
)
def test_a_wrong_zone_says_the_nearest(zone: str, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        cron("@daily", zone)
    assert problem in caught.value.errors()[0]["msg"]


@given(text=st.text(max_size=60) | st.from_regex(r"[-0-9*/,#LWA-Z@ ]{1,40}", fullmatch=True))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        schedule = cron(text, "Europe/Berlin")
    except ValidationError:
        return
    assert schedule.due_after(utc("2026-01-01")) is not None


def test_either_cron_or_every() -> None:
    for keys in ({}, {"cron": "@daily", "every": "1d"}):
        with pytest.raises(ValidationError, match="give either 'cron' or 'every'"):
            Schedules.validate_python({"s": {"workflow": "w", **keys}})


def test_unknown_keys_and_names_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Schedules.validate_python({"s": {"workflow": "w", "cron": "@daily", "crontab": 1}})
    with pytest.raises(ValidationError, match="pattern"):
        Schedules.validate_python({"two words": {"workflow": "w", "cron": "@daily"}})


def test_an_edit_of_the_timing_is_seen() -> None:
    daily = cron("0  5 * * *", "Europe/Prague")
    assert daily.timing == cron("0 5 * * *", "Europe/Prague").timing
    others = [
        cron("0 5 * * *"),
        cron("0 6 * * *", "Europe/Prague"),
        daily.model_copy(update={"enabled": False}),
    ]
    assert daily.timing not in {other.timing for other in others}
    assert daily.timing == daily.model_copy(update={"inputs": {"a": 1}}).timing
    long = [Schedule(workflow="w", every=86400 + extra).timing for extra in (0, 1)]
    assert long[0] != long[1]


def test_defaults() -> None:
    schedule = cron("@daily")
    assert (schedule.timezone, schedule.catch_up, schedule.enabled) == ("UTC", CatchUp.LAST, True)
