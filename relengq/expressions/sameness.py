# SPDX-License-Identifier: GPL-3.0-or-later
"""What is equal to what, within the budget: comparisons, and lists that are asked for many items."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, ValuesView
from typing import Any

from jinja2.filters import ignore_case, make_attrgetter
from jinja2.sandbox import SandboxedEnvironment

from relengq.expressions.budget import compared, counted, length, look_at, spend, spend_items

_PLAIN_BITS = 60
"""Numbers up to so many bits have a hash of their own. Larger ones may be chosen so that they share theirs."""
_ENDLESS = (float("inf"), float("-inf"))


def same(left: object, right: object) -> bool:
    """Whether the values are equal."""
    _spend_comparison(left, right)
    return bool(left == right)


def contains(whole: Any, item: object) -> bool:
    """Whether the item is in a list, a mapping or a text."""
    if isinstance(whole, str):
        look_at(len(whole))
    elif isinstance(whole, list | tuple | ValuesView):
        spend_items(whole)
        spend_alike(whole, item)
    return item in whole


def spend_alike(values: Iterable[object], item: object) -> None:
    """Take what comparing the item with those of the values costs that are as long as it is."""
    if isinstance(item, list | tuple | Mapping) or (isinstance(item, str) and compared(item)):
        kind, size = type(item), len(item)
        alike = sum(1 for each in values if type(each) is kind and len(each) == size)
        spend(alike * compared(item) if alike else 0)


def _ordered(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], bool]:
    def ordered(left: Any, right: Any) -> bool:
        _spend_comparison(left, right)
        return bool(compare(left, right))

    return ordered


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": same,
    "ne": lambda left, right: not same(left, right),
    "lt": _ordered(operator.lt),
    "lteq": _ordered(operator.le),
    "gt": _ordered(operator.gt),
    "gteq": _ordered(operator.ge),
    "in": lambda item, whole: contains(whole, item),
    "notin": lambda item, whole: not contains(whole, item),
}
"""Jinja2's words for the operators."""
COMPARISONS = {
    **dict.fromkeys(("eq", "equalto", "=="), _COMPARE["eq"]),
    **dict.fromkeys(("ne", "!="), _COMPARE["ne"]),
    **dict.fromkeys(("lt", "lessthan", "<"), _COMPARE["lt"]),
    **dict.fromkeys(("le", "<="), _COMPARE["lteq"]),
    **dict.fromkeys(("gt", "greaterthan", ">"), _COMPARE["gt"]),
    **dict.fromkeys(("ge", ">="), _COMPARE["gteq"]),
    "in": _COMPARE["in"],
}
"""The same as tests."""


def chain(first: object, *rest: Any) -> bool:
    """A comparison: a value, then operators and values in turn (``1 < x <= 9``)."""
    left = first
    for word, right in zip(rest[::2], rest[1::2], strict=True):
        if not _COMPARE[word](left, right):
            return False
        left = right
    return True


def _spend_comparison(left: object, right: object) -> None:
    """Take what the comparison of two lists, mappings or texts costs. It ends with the smaller one."""
    if isinstance(left, str) and isinstance(right, str):
        look_at(min(len(left), len(right)))
    elif isinstance(left, list | tuple | Mapping) and isinstance(right, list | tuple | Mapping):
        spend(min(compared(left), compared(right)) if left and right else 0)


def difference(left: Iterable[object], right: Iterable[object]) -> list[object]:
    """The items of a list that are not in another one."""
    known = _Members(right)
    return [item for item in _taken(left) if item not in known]


def intersect(left: Iterable[object], right: Iterable[object]) -> list[object]:
    """The items of a list that are in another one too."""
    known = _Members(right)
    return [item for item in _taken(left) if item in known]


def union(left: Iterable[object], right: Iterable[object]) -> list[object]:
    """The items of a list, and those of another one that are not in it."""
    first = list(_taken(left))
    known = _Members(left if isinstance(left, str) else first)
    return [*first, *(item for item in _taken(right) if item not in known)]


def unique(
    environment: SandboxedEnvironment,
    values: Iterable[object],
    case_sensitive: bool = False,
    attribute: str | int | None = None,
) -> Iterator[object]:
    """Jinja2's filter: the first of those that are equal, or that have an equal attribute."""
    key_of = make_attrgetter(environment, attribute, postprocess=None if case_sensitive else ignore_case)
    known = _Members(())
    for value in _taken(values):
        key = key_of(value)
        look_at(length(key))
        if known.add(key):
            yield value


class _Members:
    """What a list has. Equality is Python's own: ``1`` is ``true``, and a list is equal to one with equal items.

    A text has all of its parts, as it has for Python.
    """

    def __init__(self, values: Iterable[object]) -> None:
        self._text = values if isinstance(values, str) else None
        self._known: set[Hashable] = set()
        for value in _taken(values if self._text is None else ()):
            self._known.add(_frozen(value))

    def __contains__(self, value: object) -> bool:
        return _frozen(value) in self._known if self._text is None else contains(self._text, value)

    def add(self, value: object) -> bool:
        """Whether it was not there before."""
        before = len(self._known)
        self._known.add(_frozen(value))
        return len(self._known) > before


def _taken(values: Iterable[object]) -> Iterable[object]:
    """The values, each of them counted."""
    if isinstance(values, Iterator):
        return counted(values)
    spend_items(values)
    return values


def _frozen(value: object) -> Hashable:
    """What can be put into a set, and is equal for values that are equal."""
    if isinstance(value, list | tuple | Mapping):
        spend(compared(value))
    return _hashable(value)


def _hashable(value: object) -> Hashable:
    if isinstance(value, tuple):
        return ("tuple", tuple(map(_hashable, value)))
    if isinstance(value, list):
        return ("list", tuple(map(_hashable, value)))
    if isinstance(value, Mapping):
        return ("mapping", frozenset((_hashable(key), _hashable(item)) for key, item in value.items()))
    if isinstance(value, int | float) and abs(value) >= 1 << _PLAIN_BITS and value not in _ENDLESS:
        return ("number", hex(int(value)))
    return value  # what else there is in JSON has a hash
