# SPDX-License-Identifier: GPL-3.0-or-later
"""What an expression can reach: Jinja2's sandbox, narrowed to lists of what is allowed, and with a budget.

Expressions come from a site's files; the values that they work on come from messages and people. So a
value never becomes an expression, a name of a method or a regular expression, and no expression can eat the
machine: an evaluation may make ``WORK_LIMIT`` characters and items, and one that asks for more ends with an error
that names the limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

from jinja2 import Undefined
from jinja2.lexer import TOKEN_STRING, Lexer, Token
from jinja2.runtime import Context, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from relengq.errors import ExpressionFault
from relengq.expressions import filters, sameness
from relengq.expressions.budget import length, spend

RANGE_LIMIT = 10_000
"""Items of a ``range``."""
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = frozenset("\n\\'\"abfnrtvxuUN01234567")
"""What Python knows behind a backslash."""
_STRING_METHODS = (
    "startswith",
    "endswith",
    "split",
    "rsplit",
    "splitlines",
    "strip",
    "lstrip",
    "rstrip",
    "lower",
    "upper",
    "title",
    "capitalize",
    "casefold",
    "removeprefix",
    "removesuffix",
    "partition",
    "rpartition",
    "find",
    "rfind",
    "index",
    "count",
    "isdigit",
    "isdecimal",
    "isalnum",
    "isalpha",
    "isupper",
    "islower",
    "replace",
    "join",
)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_STRING_METHODS),
    dict: frozenset(("get", "items", "keys", "values")),
    list: frozenset(("index", "count")),
    tuple: frozenset(("index", "count")),
}


class Missing(StrictUndefined):
    """An absent value. ``is defined`` and ``default`` may look deep into it, as in Ansible; no more."""


class _Tokens(Lexer):
    """Jinja2's, without Python's warning for the backslash of a regular expression, which stays as it is."""

    def wrap(
        self, stream: Iterable[tuple[int, str, str]], name: str | None = None, filename: str | None = None
    ) -> Iterator[Token]:
        """The tokens, with each backslash doubled in texts that Python would keep, and say so."""
        kept = ((line, kind, _ESCAPE.sub(_kept, text) if kind == TOKEN_STRING else text) for line, kind, text in stream)
        return super().wrap(kept, name, filename)


def _kept(escape: re.Match[str]) -> str:
    return escape[0] if escape[1] in _ESCAPED else f"\\{escape[0]}"


class Sandbox(ImmutableSandboxedEnvironment):
    """Data, the filters, tests and methods that are named here, and nothing else."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    @cached_property
    def lexer(self) -> Lexer:
        """What cuts the text of templates into tokens."""
        return _Tokens(self)

    def __init__(self) -> None:
        # Without the optimizer: it would evaluate constant parts while compiling, outside of any budget.
        super().__init__(undefined=Missing, optimized=False, autoescape=False, keep_trailing_newline=True)
        self.filters = filters.filters()
        self.tests = filters.tests()
        self.globals = {"range": _range}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``obj.attribute``: a mapping's own keys win over its methods, and what is absent stays absent."""
        if isinstance(obj, Undefined):
            return obj
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        if attribute in _METHODS.get(type(obj), ()):
            if isinstance(obj, str):
                return filters.method(obj, attribute)
            return filters.item_method(obj, attribute) if isinstance(obj, list | tuple) else getattr(obj, attribute)
        if type(obj).__name__ == "_GroupTuple" and attribute in ("grouper", "list"):
            return getattr(obj, attribute)
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``, for data only."""
        if isinstance(obj, Undefined):
            return obj
        if isinstance(obj, str | Mapping | Sequence):
            try:
                return obj[argument]
            except (LookupError, TypeError):
                pass
        return self.getattr(obj, argument) if isinstance(argument, str) else self.undefined(obj=obj, name=argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operators that can make much out of little."""
        if operator == "*":
            _check_product(left, right)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "%" and isinstance(left, str):
            return filters.filled(left, right)
        elif operator == "+":
            spend(length(left) + length(right))
        return super().call_binop(context, operator, left, right)

    compare = staticmethod(sameness.chain)
    """What stands in place of the operators that compare."""

    @staticmethod
    def part(values: Any, begin: Any, end: Any, step: Any) -> Any:
        """What stands in place of ``values[begin:end:step]``."""
        return values[begin:end:step]

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call of ``range``, of a method that ``getattr`` hands out, or of what stands in place of an operator."""
        if isinstance(obj, Undefined) or not callable(obj):
            raise ExpressionFault("it calls something that cannot be called")
        result = obj(*args, **kwargs)
        spend(length(result))
        return result


@cache
def environment() -> Sandbox:
    """The one environment; it holds no state of evaluations."""
    return Sandbox()


def _check_product(left: object, right: object) -> None:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, str | list | tuple) and isinstance(other, int):
            spend(len(one) * max(other, 0))
            return
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > filters.INT_BITS:
        raise ExpressionFault(f"it makes a number beyond the limit of {filters.INT_BITS} bits")


def _check_power(base: object, exponent: object) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and max(base.bit_length(), 1) * exponent > filters.INT_BITS:
        raise ExpressionFault(f"it makes a number beyond the limit of {filters.INT_BITS} bits")


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    # len() overflows where the range has more items than a C long counts.
    if numbers and abs((numbers[-1] - numbers[0]) // numbers.step) >= RANGE_LIMIT:
        raise ExpressionFault(f"its range has more items than the limit of {RANGE_LIMIT}")
    return numbers
