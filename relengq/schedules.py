# SPDX-License-Identifier: GPL-3.0-or-later
"""Schedules: the entries of ``beat/*.yml``, and the moments at which they are due.

A file of ``beat/`` maps names to schedules. A schedule has either ``cron`` or ``every``::

    nightly-rawhide:
      workflow: nightly-compose
      cron: "15 5 * * *"
      timezone: Europe/Prague
      inputs: {release: rawhide}
      catch_up: last

``every`` counts from the Unix epoch in UTC, so that a restart and a second beat agree: ``every: 6h`` is due
at 00:00, 06:00, 12:00 and 18:00 UTC, whenever the clock was started.

``cron`` has the five fields of crontab(5) as Debian's cron reads them: numbers and names (``MON``, ``JAN``),
lists, ranges and steps; when the day of the month and the day of the week are both restricted, either is
enough. Beyond it, ``L`` is the last day of the month, ``LW`` its last weekday, ``5L`` its last Friday,
``1#2`` its second Monday. ``@hourly``, ``@daily``, ``@midnight``, ``@weekly``, ``@monthly``, ``@yearly`` and
``@annually`` are understood. The ``cronsim`` library reads the fields, on a calendar without any zone; local
time is settled here.

What happens when the clocks change
-----------------------------------

No due time is lost and none comes twice:

- An entry that **names its hours** (``30 2 * * *``, also ``*/15 2 * * *`` and ``0 */2 * * *``) is due at the
  first moment at which the local clock shows that time *or a later one*. In spring, when 02:30 does not
  exist, it is due as soon as the clocks have been put forward, at 03:00. In autumn, when 02:30 comes twice,
  it is due at the first. Several due times that fall into one gap are due together, once: ``*/15 2 * * *``
  starts one run at 03:00 that day.
- An entry for **every hour** (``*/15 * * * *``, ``0 * * * *``) follows the clock's hands: it is due whenever
  the local clock shows such a minute. Quarter-hours stay a quarter of an hour apart through both changes,
  also in the hour that is repeated.

The same rules hold where the change is half an hour (Lord Howe), two hours (Troll), at midnight (Beirut,
Cairo, Havana: a run for 00:00 starts at 01:00) or a whole day (Samoa has no 30 December 2011: its noon was
due when the 31st began).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Self
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, model_validator

from relengq.durations import Duration, human
from relengq.errors import did_you_mean

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""crontab(5); ``@reboot`` has no meaning here."""

_FIELDS = (
    "minute (0-59)",
    "hour (0-23)",
    "day of the month (1-31, L, LW)",
    "month (1-12 or JAN-DEC)",
    "day of the week (0-7 or SUN-SAT, 5L, 1#2)",
)
_CRON_LENGTH = 300
_NO_ZONES = {"localtime", "posixrules", "Factory"}
"""Files among the zones that mean something else on each host."""
_STRIDE = timedelta(hours=12)
"""No zone has changed its offset and back within less."""


class CatchUp(StrEnum):
    """What becomes of due times at which no clock was running."""

    NONE = "none"
    """They are recorded as missed."""
    LAST = "last"
    """The newest one is started, the others are recorded as missed."""
    ALL = "all"
    """Each one is started, oldest first."""


def _known_cron(text: str) -> str:
    """Refuse what is not a cron expression, and one that never fires, with the field that is wrong."""
    if len(text) > _CRON_LENGTH:
        raise ValueError(f"a cron expression may have {_CRON_LENGTH} characters, this one has {len(text)}")
    fields = _expand(text).split()
    if text.strip().startswith("@") and len(fields) != len(_FIELDS):
        hint = did_you_mean(fields[0], NICKNAMES) if len(fields) == 1 else "an interval is written 'every: 5m'"
        raise ValueError(f"unknown cron nickname '{text}' ({hint})")
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f"cron '{text}' has {len(fields)} fields; it needs five: minute, hour, day of the month, month, "
            "day of the week"
        )
    for position, meaning in enumerate(_FIELDS):
        alone = ["*"] * len(_FIELDS)
        alone[position] = fields[position]
        if not _reads(" ".join(alone)):
            raise ValueError(f"cron '{text}': '{fields[position]}' does not fit the {meaning}")
    if not _reads(" ".join(fields)) or next(_walls(_expand(text), EPOCH.replace(tzinfo=None)), None) is None:
        raise ValueError(f"cron '{text}' never fires: those months have no such day")
    return text


def _known_zone(name: str) -> str:
    """Refuse what the time zone database does not have, with the nearest name that it has."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        known = False
    else:
        known = name not in _NO_ZONES
    if not known:
        hint = did_you_mean(name, available_timezones() - _NO_ZONES) or "zones are named like 'Europe/Prague'"
        raise ValueError(f"unknown time zone '{name}' ({hint})")
    return name


class Schedule(BaseModel):
    """When to start which workflow, with which inputs."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Schedule")

    workflow: str = Field(
        description="Name of the workflow to start: its file in playbooks/workflows without .yml.",
        min_length=1,
        max_length=200,
    )
    cron: Annotated[str, AfterValidator(_known_cron)] | None = Field(
        None,
        description="When, as a cron expression of five fields (minute, hour, day of the month, month, day "
        "of the week) or a nickname such as @daily. Exactly one of cron and every is given.",
        examples=["15 5 * * *", "0 2,14 * * MON-FRI", "@daily"],
    )
    every: Annotated[Duration, Field(ge=1, le=366 * 86400)] | None = Field(
        None,
        description="How often, as a duration, counted from 1970-01-01 00:00 UTC: 6h is due at 00:00, 06:00, "
        "12:00 and 18:00 UTC. From 1 second to 366 days.",
        examples=["15m", "6h"],
    )
    timezone: Annotated[str, AfterValidator(_known_zone)] = Field(
        "UTC",
        description="Time zone in which cron is read, by its name in the IANA database.",
        examples=["UTC", "Europe/Prague", "America/New_York"],
    )
    inputs: dict[str, JsonValue] = Field({}, description="Inputs of the workflow.", max_length=200)
    catch_up: CatchUp = Field(
        CatchUp.LAST,
        description="What becomes of due times at which no clock was running: none (they are recorded as "
        "missed), last (the newest one is started) or all (each is started, oldest first).",
    )
    enabled: bool = Field(
        True, description="Whether it starts anything. Due times that pass while it is false stay missed."
    )
    description: str = Field("", description="What it is for.", max_length=2000)

    @model_validator(mode="after")
    def _one_timing(self) -> Self:
        if (self.cron is None) == (self.every is None):
            raise ValueError("give either 'cron' or 'every'")
        return self

    @property
    def when(self) -> str:
        """When it is due, for persons: ``15 5 * * *`` or ``every 6h``; the zone stands in ``timezone``."""
        return f"every {human(self.every)}" if self.every is not None else self.cron or ""

    @property
    def timing(self) -> str:
        """What decides the due times, exactly. The clock takes a schedule whose timing changed as edited."""
        switch = "" if self.enabled else "off "
        if self.every is not None:
            return f"{switch}every {timedelta(seconds=self.every)}"
        return f"{switch}{_expand(self.cron or '')} {self.timezone}"

    def due_after(self, moment: datetime) -> datetime | None:
        """The first due time later than ``moment``, in UTC; None when there is none within 50 years."""
        if self.every is not None:
            step = timedelta(seconds=self.every)
            return EPOCH + ((moment - EPOCH) // step + 1) * step
        return _cron_after(_expand(self.cron or ""), self.timezone, moment.astimezone(UTC))

    def due_between(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """The oldest ``limit`` due times later than ``after`` and not later than ``until``."""
        found: list[datetime] = []
        due = self.due_after(after)
        while due is not None and due <= until and len(found) < limit:
            found.append(due)
            due = self.due_after(due)
        return found

    def newest_due(self, after: datetime, until: datetime) -> datetime | None:
        """The newest due time later than ``after`` and not later than ``until``.

        It halves the time between them instead of walking it: a year of minutes costs a few milliseconds.
        """
        newest = None
        while (due := self.due_after(newest or after)) is not None and due <= until:
            newest = due
            middle = newest + (until - newest) / 2
            late = self.due_after(middle)
            if late is not None and late <= until:
                newest = late
            else:
                until = middle
        return newest


Schedules: TypeAdapter[dict[str, Schedule]] = TypeAdapter(
    dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)], Schedule]
)
"""One file of ``beat/``: names, unique over all files, and what they start."""


def _expand(cron: str) -> str:
    """The five fields that a nickname stands for; other text as it is, with its blanks made single."""
    text = " ".join(cron.split())
    return NICKNAMES.get(text.lower(), text)


def _reads(cron: str) -> bool:
    try:
        CronSim(cron, EPOCH.replace(tzinfo=None))
    except CronSimError:
        return False
    return True


def _walls(cron: str, wall: datetime) -> Iterator[datetime]:
    """The times after ``wall`` that the expression names, on a calendar that knows no zone."""
    try:
        yield from CronSim(cron, wall)
    except OverflowError:  # the calendar ends with the year 9999
        return


@lru_cache(maxsize=4096)
def _cron_after(cron: str, timezone: str, moment: datetime) -> datetime | None:
    """The first due time after ``moment`` (UTC). Kept, since an idle clock asks the same again and again."""
    zone = ZoneInfo(timezone)
    every_hour = len(CronSim(cron, moment.replace(tzinfo=None)).hours) == 24
    return _hands_after(cron, zone, moment) if every_hour else _named_after(cron, zone, moment)


def _named_after(cron: str, zone: ZoneInfo, moment: datetime) -> datetime | None:
    """For entries that name their hours: each local time counts once, where it is first shown or passed."""
    for wall in _walls(cron, _wall(moment, zone)):
        due = _first_shown(wall, zone)
        if due > moment:
            return due
    return None


def _hands_after(cron: str, zone: ZoneInfo, moment: datetime) -> datetime | None:
    """For entries of every hour: walk from one change of the zone's offset to the next."""
    start, wall = moment, _wall(moment, zone)
    while (found := next(_walls(cron, wall), None)) is not None:
        due = found.replace(tzinfo=UTC) - _offset(start, zone)
        change = _next_change(zone, start, due)
        if change is None:
            return due
        start, wall = change, _wall(change, zone) - timedelta(seconds=1)  # the change itself may be due
    return None


def _first_shown(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first moment at which the local clock shows ``wall``, or a later time where that does not exist."""
    due = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _wall(due, zone) == wall:
        return due
    before_gap = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)  # PEP 495: fold=1 is earlier in a gap
    return _next_change(zone, before_gap, due) or due


def _next_change(zone: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    """The first moment in ``after`` < moment <= ``until`` whose offset is not the one at ``after``."""
    offset = _offset(after, zone)
    start = after
    while start < until:
        end = min(start + _STRIDE, until)
        if _offset(end, zone) == offset:
            start = end
            continue
        while end - start > timedelta(seconds=1):
            middle = start + (end - start) / 2
            start, end = (middle, end) if _offset(middle, zone) == offset else (start, middle)
        return end.replace(microsecond=0)
    return None


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    """What the local clock shows at ``moment``, without a zone."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()
