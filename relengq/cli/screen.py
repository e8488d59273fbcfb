# SPDX-License-Identifier: GPL-3.0-or-later
"""What verbs print with: tables and lines for people, JSON for programs.

Text from runs, messages and files is shown as it is: never read as rich's markup, never with control characters.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from enum import Enum
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from relengq.cli.options import clean, escaped, one_line, printable
from relengq.durations import human
from relengq.errors import SiteFault

_PLAIN_WIDTH = 100
"""Columns when standard output is no terminal."""
_COLUMN_GAP = 3
_LEAST_LAST = 20
"""Columns that are worth having of a cell that is cut."""
STYLES = {
    "succeeded": "green", "failed": "bold red", "cancelled": "magenta", "skipped": "dim", "pending": "dim",
    "queued": "yellow", "waiting": "yellow", "held": "bold yellow", "running": "cyan", "ok": "green",
    "warn": "yellow", "bad": "bold red", "started": "green", "missed": "yellow", "refused": "bold red",
}  # fmt: skip
"""How a word of state looks."""


class Screen:
    """Standard output for people. Times are shown in the installation's zone."""

    def __init__(self, time_zone: str = "") -> None:
        try:
            self.zone: tzinfo | None = ZoneInfo(time_zone) if time_zone else None
        except (KeyError, ValueError, OSError):
            raise SiteFault(
                f"setting 'time_zone' (relengq.toml): there is no time zone '{time_zone}'.",
                hint="Zones are named like Europe/Prague.",
            ) from None
        terminal = sys.stdout.isatty()
        self.console = Console(
            highlight=False, markup=False, emoji=False, soft_wrap=not terminal,
            width=None if terminal else _PLAIN_WIDTH,
        )  # fmt: skip
        self.terminal = self.console.is_terminal

    def line(self, *parts: str | Text) -> None:
        """Print one line made of parts."""
        self.console.print(Text.assemble(*(Text(clean(part)) if isinstance(part, str) else part for part in parts)))

    def block(self, text: str) -> None:
        """Print text of several lines."""
        self.console.print(Text(printable(text)))

    def show(self, picture: RenderableType) -> None:
        """Print what is made of several parts; blanks at the ends of lines are for terminals alone."""
        if self.terminal:
            self.console.print(picture)
            return
        with self.console.capture() as captured:
            self.console.print(picture)
        self.console.file.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, empty: str, cut_last: bool = False
    ) -> None:
        """Print rows under their headings, or a sentence when there are none.

        ``cut_last`` keeps a row on one line of a terminal by cutting its last cell, while that leaves enough of it.
        """
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        cells = [[Text(clean(cell)) if isinstance(cell, str) else cell for cell in row] for row in rows]
        if cut_last and self.terminal:
            _cut_last(columns, cells, self.console.width)
        for row in cells:
            table.add_row(*row)
        if table.row_count:
            self.show(table)
        else:
            self.line(empty)

    def moment(self, at: datetime | None) -> str:
        """A time as people read it, in their zone; today's without the date."""
        if at is None:
            return ""
        local = at.astimezone(self.zone)
        today = datetime.now(UTC).astimezone(self.zone).date()
        return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M")


def _cut_last(columns: Sequence[str], rows: Sequence[Sequence[Text]], width: int) -> None:
    """Shorten the last cells to what the others leave of the width."""
    taken = sum(
        max([len(name), *(row[at].cell_len for row in rows)]) + _COLUMN_GAP for at, name in enumerate(columns[:-1])
    )
    if width - taken >= _LEAST_LAST:
        for row in rows:
            row[-1].truncate(width - taken, overflow="ellipsis")


def state(word: str) -> Text:
    """A word of state in its colour."""
    return Text(word, style=STYLES.get(word, ""))


def dim(text: str) -> Text:
    """Text of less weight."""
    return Text(clean(text), style="dim")


def bold(text: str) -> Text:
    """Text of more weight."""
    return Text(clean(text), style="bold")


def seconds(start: datetime | None, end: datetime | None, now: datetime) -> float | None:
    """How long something took, or takes so far."""
    return max(0.0, ((end or now) - start).total_seconds()) if start else None


def duration(took: float | None, usual: float | None = None) -> str:
    """A duration, beside the usual one when that is known: ``1m30s (usually 1m10s)``."""
    if took is None:
        return f"(usually {human(usual)})" if usual is not None else ""
    return human(took) + (f" (usually {human(usual)})" if usual is not None else "")


def warn(message: str) -> None:
    """Say something on standard error that is no reason to stop."""
    sys.stderr.write(f"relengq: {one_line(message)}\n")


def print_json(value: object) -> None:
    """Print a value as JSON; names of fields are its keys, times are ISO 8601 in UTC, control characters escaped."""
    sys.stdout.write(escaped(json.dumps(value, default=_plain, indent=2, ensure_ascii=False)) + "\n")


def _plain(value: object) -> object:
    """What the JSON encoder does not know."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
