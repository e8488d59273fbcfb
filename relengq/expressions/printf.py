# SPDX-License-Identifier: GPL-3.0-or-later
"""Python's old formatting (``'%03d' % 7``), without huge widths, and counted before it is done."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from relengq.errors import ExpressionFault
from relengq.expressions.budget import STEP, spend, written

_DIGITS = 3
_SIZES = re.compile(r"[-#0 +]*(\*|[0-9]*)(?:\.(\*|[0-9]*))?")


def formatted(template: str, values: object) -> str:
    """``template % values``. Raises ExpressionFault for a width that a value gives, or that has more digits."""
    taken = _taken(len(template))
    one = False
    for key, width in _places(template):
        taken += _taken(STEP + width)
        if key is not None and isinstance(values, Mapping) and key in values:
            taken += _taken(written(values[key]))
        else:
            one = True
    if one:
        taken += _taken(written(values))
    text = template % values
    spend(max(0, len(text) - taken))
    return text


def _taken(size: int) -> int:
    spend(size)
    return size


def _places(template: str) -> Iterator[tuple[str | None, int]]:
    """The template's places: the name of each one's value, when it has one, and the characters that it asks for."""
    at = template.find("%")
    while at >= 0:
        at += 1
        key = None
        if template[at : at + 1] == "(":
            begin, at = at + 1, _closing(template, at)
            key = template[begin : at - 1]
        sizes = _SIZES.match(template, at)
        digits = [size for size in sizes.groups() if size] if sizes else []
        if any(size == "*" or len(size) > _DIGITS for size in digits):
            raise ExpressionFault(f"a width in its format has more than the limit of {_DIGITS} digits")
        at = sizes.end() if sizes else at
        if template[at : at + 1] != "%" or digits or key is not None:
            yield key, sum(map(int, digits))
        at = template.find("%", at + 1)


def _closing(template: str, at: int) -> int:
    """Where the name in brackets that begins there has ended; brackets within it are its own."""
    deep = 0
    for found in re.compile("[()]").finditer(template, at):
        deep += 1 if found[0] == "(" else -1
        if not deep:
            return found.end()
    return len(template)
