# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples of several sides, taken by turns, and the lines of a table that say how they compare."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Turn = Callable[[int], object]
"""Does a side's work of the turn with this number."""
HEADING = ("What", "Against", "relengq", "the other", "Samples", "Result", "Target")


def by_turns(sides: Mapping[str, Turn], turns: int, warm: int = 1) -> dict[str, list[float]]:
    """The seconds of each turn of each side. The first do not count; who begins changes with each turn."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + warm):
        for name in sides if turn % 2 else reversed(sides):
            begun = time.perf_counter()
            sides[name](turn)
            if turn >= warm:
                found[name].append(time.perf_counter() - begun)
    return found


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, between the ends of the middle half."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def told(values: Sequence[float], unit: str = "") -> str:
    """``MEDIAN UNIT (LOW to HIGH)``, of the middle half."""
    low, middle, high = spread(values)
    return f"{_number(middle)}{unit and ' '}{unit} ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Row(Protocol):
    """A line of the table."""

    @property
    def missed(self) -> bool:
        """Whether there is a target, and it is not met."""

    def cells(self) -> tuple[str, ...]:
        """What stands under each of ``HEADING``."""


@dataclass(frozen=True)
class Ratio:
    """relengq and its peer, by turns. ``target`` is for the median of the turns' ratios."""

    what: str
    against: str
    ours: Sequence[float]
    theirs: Sequence[float]
    target: float | None = None
    at_least: bool = False
    """Whether more is better: the samples are rates then, else seconds."""
    unit: str = "s"

    @property
    def ratios(self) -> list[float]:
        """Of each turn."""
        return [one / other for one, other in zip(self.ours, self.theirs, strict=True)]

    @property
    def missed(self) -> bool:
        """Whether there is a target, and it is not met."""
        if self.target is None:
            return False
        middle = statistics.median(self.ratios)
        return middle < self.target if self.at_least else middle > self.target

    def cells(self) -> tuple[str, ...]:
        """What stands under each of ``HEADING``."""
        limit = "" if self.target is None else f"{'at least' if self.at_least else 'at most'} {self.target:g}"
        sides = told(self.ours, self.unit), told(self.theirs, self.unit)
        return (self.what, self.against, *sides, str(len(self.ours)), told(self.ratios), _verdict(limit, self.missed))


@dataclass(frozen=True)
class Figure:
    """A number that has no peer: it has to be at most ``target``. The samples show what it was made of."""

    what: str
    how: str
    samples: Sequence[float]
    value: float
    unit: str
    target: float

    @property
    def missed(self) -> bool:
        """Whether the target is not met."""
        return self.value > self.target

    def cells(self) -> tuple[str, ...]:
        """What stands under each of ``HEADING``."""
        result = f"{_number(self.value)} {self.unit}"
        limit = f"at most {self.target:g} {self.unit}"
        count = str(len(self.samples))
        return (
            self.what, self.how, told(self.samples, self.unit), "", count, result, _verdict(limit, self.missed)
        )  # fmt: skip


def _verdict(limit: str, missed: bool) -> str:
    return f"{limit}: {'MISSED' if missed else 'ok'}" if limit else ""


def percentile(values: Sequence[float], percent: int) -> float:
    """So many of a hundred are no larger."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def as_text(rows: Iterable[Row]) -> Iterator[str]:
    """The table for a terminal: a block for each row."""
    for row in rows:
        what, against, ours, theirs, samples, result, target = row.cells()
        yield f"{what}; {against}"
        yield f"    relengq {ours}" + (f", the other {theirs}" if theirs else "") + f", {samples} samples"
        yield f"    {result}" + (f"   ({target})" if target else "")


def as_rst(rows: Iterable[Row]) -> Iterator[str]:
    """The table for the manual."""
    yield from (".. list-table::", "   :header-rows: 1", "   :widths: 24 20 16 16 6 16 12", "")
    for cells in (HEADING, *(row.cells() for row in rows)):
        for at, cell in enumerate(cells):
            yield f"     -{cell and ' '}{cell}" if at else f"   * - {cell}"
    yield ""
