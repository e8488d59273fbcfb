# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and arguments that several verbs share."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import click

from relengq import durations

F = TypeVar("F", bound=Callable[..., object])


def json_option(function: F) -> F:
    """``--json``: the result for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON; its keys are stable, times are UTC.")(
        function
    )


def run_argument(function: F) -> F:
    """RUN: an id, its beginning, or ``last``."""
    return click.argument("run")(function)


def note_option(function: F) -> F:
    """``--note``: why, for the history."""
    return click.option("--note", help="Why; it is kept in the run's history.")(function)


def input_option(function: F) -> F:
    """``-i key=value``, as often as wanted."""
    return click.option(
        "-i", "--input", "given", multiple=True, type=Pair(), metavar="KEY=VALUE",
        help="An input of the workflow. A list is written with commas. KEY=@FILE reads the value from a file.",
    )(function)  # fmt: skip


class Pair(click.ParamType[tuple[str, str]]):
    """``KEY=VALUE`` as a pair."""

    name = "key=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Cut at the first equals sign."""
        if isinstance(value, tuple):
            return value
        key, sign, text = str(value).partition("=")
        if not sign or not key.strip():
            self.fail(f"'{value}' is not of the form key=value", param, ctx)
        return key.strip(), text


class Kept(click.ParamType[float]):
    """For how long something is kept: ``30d``; 0 is for ever."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds."""
        try:
            return durations.kept(value)
        except ValueError as error:
            self.fail(f"{error}", param, ctx)


class Moment(click.ParamType[datetime]):
    """A time: ISO 8601 (local unless it says its offset), ``today``, ``yesterday``, or how long ago (``2h``)."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The moment, in UTC."""
        if isinstance(value, datetime):
            return value
        text = str(value).strip().lower()
        now = datetime.now(UTC)
        midnight = now.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        if text in ("today", "yesterday"):
            return (midnight - timedelta(days=text == "yesterday")).astimezone(UTC)
        try:
            if re.fullmatch(r"([0-9.]+[a-z]+)+", text):
                return now - timedelta(seconds=durations.parse(text))
            return datetime.fromisoformat(str(value).strip()).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"'{value}' is no time; write 2026-11-20, 2026-11-20T05:15, today, yesterday, "
                "or how long ago: 30m, 2h, 7d",
                param,
                ctx,
            )
