# SPDX-License-Identifier: GPL-3.0-or-later
"""What an expression can reach: Jinja2's sandbox, narrowed to lists of what is allowed, and with a budget.

Expressions come from a site's files; the values that they work on come from messages and people. So a
value never becomes an expression, a name of a method or a regular expression, and no expression can eat the
machine: an evaluation may make ``WORK_LIMIT`` characters and items, and one that asks for more ends with an error
that names the limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache, cached_property, partial, wraps
from typing import Any

from jinja2 import Undefined
from jinja2.filters import FILTERS
from jinja2.lexer import TOKEN_STRING, Lexer, Token
from jinja2.runtime import Context, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS

from relengq.errors import ExpressionFault

WORK_LIMIT = 4_000_000
"""Characters and items that one evaluation may make."""
RANGE_LIMIT = 10_000
"""Items of a ``range``."""
REGEX_SUBJECT_LIMIT = 10_000
"""Characters that a regular expression may be tried on."""
_INT_BITS = 4096
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = frozenset("\n\\'\"abfnrtvxuUN01234567")
"""What Python knows behind a backslash."""
_FORMAT_DIGITS = re.compile(r"%[^a-zA-Z%]*?([0-9]{4,}|\*)")

_left: ContextVar[int] = ContextVar("relengq_expression_work_left", default=WORK_LIMIT)

_FILTERS = (
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "first",
    "float",
    "groupby",
    "int",
    "items",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "reverse",
    "round",
    "select",
    "selectattr",
    "sort",
    "string",
    "sum",
    "title",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
)
_TESTS = (
    "boolean",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "even",
    "false",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sequence",
    "string",
    "true",
    "undefined",
    "upper",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
)
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


def start_work() -> None:
    """Give the evaluation that begins now its whole budget."""
    _left.set(WORK_LIMIT)


def spend(amount: int) -> None:
    """Take so many characters or items from the evaluation's budget; raises ExpressionFault beyond it."""
    left = _left.get() - amount - 1
    _left.set(left)
    if left < 0:
        raise ExpressionFault(f"it makes more than the limit of {WORK_LIMIT} characters and items")


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
        own_filters: dict[str, Callable[..., object]] = {
            "bool": truth,
            "difference": lambda left, right: [item for item in left if item not in right],
            "format": _format,
            "from_json": json.loads,
            "intersect": lambda left, right: [item for item in left if item in right],
            "join": _join,
            "regex_replace": _regex_replace,
            "regex_search": _regex_search,
            "replace": _replace,
            "split": lambda text, separator=None: str(text).split(separator),
            "ternary": lambda value, yes, no: yes if value else no,
            "to_json": to_json,
            "tojson": to_json,
            "union": lambda left, right: [*left, *(item for item in right if item not in left)],
        }
        self.filters = {name: _metered(FILTERS[name]) for name in _FILTERS}
        self.filters |= {name: _metered(function) for name, function in own_filters.items()}
        self.tests = {name: TESTS[name] for name in _TESTS}
        self.tests |= {
            "match": lambda text, pattern: _regex_search(text, f"^(?:{pattern})") is not None,
            "search": lambda text, pattern: _regex_search(text, pattern) is not None,
        }
        self.globals = {"range": _range}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``obj.attribute``: a mapping's own keys win over its methods, and what is absent stays absent."""
        if isinstance(obj, Undefined):
            return obj
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        if attribute in _METHODS.get(type(obj), ()):
            if isinstance(obj, str) and attribute in ("replace", "join"):
                return partial(_replace if attribute == "replace" else _joined, obj)
            return getattr(obj, attribute)
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
            return _format(left, right)
        elif operator == "+":
            spend(_length(left) + _length(right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call of ``range`` or of one of the methods that ``getattr`` hands out."""
        if isinstance(obj, Undefined) or not callable(obj):
            raise ExpressionFault("it calls something that cannot be called")
        result = obj(*args, **kwargs)
        spend(_length(result))
        return result


@cache
def environment() -> Sandbox:
    """The one environment; it holds no state of evaluations."""
    return Sandbox()


def truth(value: object) -> bool:
    """Whether a condition's value holds; the texts in which Ansible hands on a false value do not."""
    if isinstance(value, str):
        return value.strip().lower() not in ("", "false", "no", "off", "0")
    return bool(value)


def _metered(function: Callable[..., object]) -> Callable[..., object]:
    """The filter, with its result taken from the budget."""

    @wraps(function)  # keeps Jinja's marks (pass_environment and the like), which are attributes of the function
    def metered(*args: object, **kwargs: object) -> object:
        result = function(*args, **kwargs)
        spend(_length(result))
        return result

    return metered


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def _check_product(left: object, right: object) -> None:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, str | list | tuple) and isinstance(other, int):
            spend(len(one) * max(other, 0))
            return
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _INT_BITS:
        raise ExpressionFault(f"it makes a number beyond the limit of {_INT_BITS} bits")


def _check_power(base: object, exponent: object) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and max(base.bit_length(), 1) * exponent > _INT_BITS:
        raise ExpressionFault(f"it makes a number beyond the limit of {_INT_BITS} bits")


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    # len() overflows where the range has more items than a C long counts.
    if numbers and abs((numbers[-1] - numbers[0]) // numbers.step) >= RANGE_LIMIT:
        raise ExpressionFault(f"its range has more items than the limit of {RANGE_LIMIT}")
    return numbers


def _format(template: object, *values: object, **named: object) -> str:
    """The ``format`` filter and the ``%`` operator: Python's old formatting, without huge widths."""
    text = str(template)
    if _FORMAT_DIGITS.search(text):
        raise ExpressionFault("a width in its format has more than the limit of 3 digits")
    given: object = named or (values[0] if len(values) == 1 and isinstance(values[0], tuple | dict) else values)
    spend(len(text) + sum(_length(value) for value in values))
    return text % given


def _join(values: Iterable[object], separator: object = "", attribute: str | None = None) -> str:
    items = [environment().getattr(value, attribute) if attribute else value for value in values]
    texts = [str(item) for item in items]
    spend(sum(map(len, texts)) + len(str(separator)) * len(texts))
    return str(separator).join(texts)


def _joined(separator: str, values: Iterable[object]) -> str:
    return _join(values, separator)


def _replace(text: object, old: object, new: object, count: int = -1) -> str:
    subject, before, after = str(text), str(old), str(new)
    times = subject.count(before)
    spend(len(subject) + times * max(len(after) - len(before), 0))
    return subject.replace(before, after, count)


def _subject(text: object) -> str:
    subject = str(text)
    if len(subject) > REGEX_SUBJECT_LIMIT:
        raise ExpressionFault(
            f"it tries a regular expression on {len(subject)} characters; the limit is {REGEX_SUBJECT_LIMIT}"
        )
    return subject


def _regex_search(text: object, pattern: str) -> str | None:
    """The part that matches, as Ansible's filter of that name gives it, or None."""
    found = re.search(pattern, _subject(text))
    return found.group(0) if found else None


def _regex_replace(text: object, pattern: str, replacement: str) -> str:
    subject = _subject(text)
    spend((len(subject) + 1) * (len(replacement) + 1))
    return re.sub(pattern, replacement, subject)


def to_json(value: object, indent: int | None = None) -> str:
    """The value as JSON text."""
    width = min(indent, 8) if indent is not None else None
    return json.dumps(value, ensure_ascii=False, indent=width, sort_keys=width is not None)
