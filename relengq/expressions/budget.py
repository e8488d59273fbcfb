# SPDX-License-Identifier: GPL-3.0-or-later
"""The budget of an evaluation: what it may make and look at, counted before the work is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar

from relengq.errors import ExpressionFault

WORK_LIMIT = 4_000_000
"""Characters and items that one evaluation may make."""
_LOOKS = 256
"""So many characters that are only looked at count as one that is made."""
STEP = 16
"""Characters that a step costs: a filter that is called for one item, a place in a format."""
_NUMBER = 10
"""Characters that a number with a point counts for."""

_left: ContextVar[int] = ContextVar("relengq_expression_work_left", default=WORK_LIMIT)


def start_work() -> None:
    """Give the evaluation that begins now its whole budget."""
    _left.set(WORK_LIMIT)


def left() -> int:
    """The characters and items that the evaluation may still make."""
    return max(0, _left.get())


def spend(amount: int) -> None:
    """Take so many characters or items from the evaluation's budget; raises ExpressionFault beyond it."""
    rest = _left.get() - amount - 1
    _left.set(rest)
    if rest < 0:
        raise ExpressionFault(f"it makes more than the limit of {WORK_LIMIT} characters and items")


def look_at(characters: int) -> None:
    """Take what looking at so many characters costs; raises ExpressionFault beyond the budget."""
    spend(characters // _LOOKS)


def length(value: object) -> int:
    """Characters or items of a value by itself, without those of its items."""
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def spend_items(values: object) -> None:
    """Take each item of the values, when they tell how many they are."""
    spend(len(values) if isinstance(values, Sized) else 0)


def counted(values: Iterator[object]) -> Iterator[object]:
    """The values, of which each is a step that is taken from the budget."""
    for value in values:
        spend(STEP)
        yield value


def written(value: object) -> int:
    """Characters and items of the value with all that is in it, as often as it is in it, when it is written out.

    Raises ExpressionFault when it has more items than are left.
    """
    return len(value) if isinstance(value, str) else _Scale(1).weigh(value)


def compared(value: object) -> int:
    """As ``written``, for a value whose characters are only looked at."""
    return len(value) // _LOOKS if isinstance(value, str) else _Scale(_LOOKS).weigh(value)


class _Scale:
    """Weighs values. What is in a value many times is walked through once: little can stand for very much."""

    def __init__(self, characters: int) -> None:
        self._characters = characters
        self._room = left()
        self._known: dict[int, int] = {}

    def weigh(self, value: object) -> int:
        if isinstance(value, str):
            return len(value) // self._characters
        if isinstance(value, int):
            return value.bit_length() // 3 // self._characters + 1
        if not isinstance(value, list | tuple | Mapping):
            return _NUMBER // self._characters
        if id(value) not in self._known:
            self._known[id(value)] = self._all(value)
        return self._known[id(value)]

    def _all(self, value: list[object] | tuple[object, ...] | Mapping[object, object]) -> int:
        self._room -= len(value) + 1
        if self._room < 0:
            spend(left() + 1)
        total = 2 * len(value) + 2
        items: Iterable[object] = value
        if isinstance(value, Mapping):
            total += sum(map(self.weigh, value.values())) + len(value)
        return total + sum(map(self.weigh, items))
