# SPDX-License-Identifier: GPL-3.0-or-later
"""How a side that has much compares with one that has little."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measure import spread


@dataclass(frozen=True)
class Comparison:
    """What is compared: seconds of a side that has little, and of one that has much.

    ``target``: what the ratio of their medians may be; None: it is told, and that is all.
    """

    name: str
    little: Sequence[float]
    much: Sequence[float]
    target: float | None

    @property
    def ratio(self) -> float:
        return statistics.median(self.much) / statistics.median(self.little)

    @property
    def missed(self) -> bool:
        return self.target is not None and self.ratio > self.target

    def __str__(self) -> str:
        verdict = "" if self.target is None else f"  (at most {self.target:g}: {'MISSED' if self.missed else 'ok'})"
        sides = f"{_side(self.little)}  {_side(self.much)}"
        return f"  {self.name:34} {sides}  {self.ratio:5.2f}{verdict}"


def _side(seconds: Sequence[float]) -> str:
    low, middle, high = spread(seconds)
    return f"{middle * 1000:8.2f} ms ({low * 1000:7.2f} to {high * 1000:7.2f})"


def heading(little: str, much: str) -> str:
    """The line above comparisons."""
    return f"  {'median (middle half)':34} {little:>31}  {much:>31}  ratio"
