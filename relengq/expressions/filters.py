# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters, tests and methods of expressions, Jinja2's and our own: each takes its work from the budget first."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial, wraps
from typing import Any

from jinja2.filters import FILTERS, make_attrgetter, make_multi_attrgetter
from jinja2.sandbox import SandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import pass_environment

from relengq.errors import ExpressionFault
from relengq.expressions import sameness
from relengq.expressions.budget import counted, left, length, look_at, spend, spend_items, written
from relengq.expressions.printf import formatted

REGEX_SUBJECT_LIMIT = 10_000
"""Characters that a regular expression may be tried on."""
ROUND_LIMIT = 300
"""Digits, before the point or behind it, that ``round`` may be asked for."""
INT_BITS = 4096
"""Bits that a number may have which an expression makes."""

Function = Callable[..., object]

_OF_VALUES = ("abs", "count", "d", "default", "first", "float", "last", "length")
"""Jinja2's filters that cost next to nothing."""
_OF_ITEMS = ("items", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr")
"""Those that walk over all items of what they are given."""
_OF_TEXT = ("capitalize", "lower", "string", "title", "trim", "truncate", "upper", "urlencode", "wordcount")
"""Those that write out as text whatever they are given."""
_BY_CHARACTER = frozenset(("title", "urlencode", "wordcount"))
"""Those that deal with each word or character by itself."""
_TESTS = (
    "boolean",
    "defined",
    "false",
    "float",
    "integer",
    "iterable",
    "mapping",
    "none",
    "number",
    "sequence",
    "string",
    "true",
    "undefined",
)
_OF_NUMBERS = ("divisibleby", "even", "odd")
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_BACKWARDS = frozenset(("strip", "lstrip", "rstrip", "rfind", "rpartition"))
"""Methods that may look at each character of their argument for each one of the text."""


def filters() -> dict[str, Any]:
    """Every filter by its name."""
    own: dict[str, Function] = {
        "bool": truth,
        "dictsort": _dictsort,
        "difference": sameness.difference,
        "from_json": _from_json,
        "groupby": _groupby,
        "int": _int,
        "intersect": sameness.intersect,
        "max": _extreme("max"),
        "min": _extreme("min"),
        "regex_replace": _regex_replace,
        "regex_search": _regex_search,
        "round": _round,
        "sort": _sort,
        "split": lambda text, separator=None: _split("split", text_of(text), separator),
        "sum": _sum,
        "ternary": lambda value, yes, no: yes if value else no,
        "union": sameness.union,
        "unique": pass_environment(sameness.unique),
    }
    found = {name: _metered(FILTERS[name]) for name in _OF_VALUES}
    found |= {name: _metered(FILTERS[name], _items_first) for name in _OF_ITEMS}
    found |= {name: _metered(FILTERS[name], partial(_text_first, name)) for name in _OF_TEXT}
    found |= {name: _metered(function) for name, function in own.items()}
    # These have taken all that they make.
    return found | {"format": filled, "join": _join, "replace": replace, "to_json": written_json,
                    "tojson": written_json}  # fmt: skip


def tests() -> dict[str, Any]:
    """Every test by its name."""
    known: dict[str, Any] = TESTS
    return {
        **{name: known[name] for name in _TESTS},
        **{name: _of_number(known[name]) for name in _OF_NUMBERS},
        **{name: _of_text(known[name]) for name in ("lower", "upper")},
        **sameness.COMPARISONS,
        "match": lambda text, pattern: _regex_search(text, f"^(?:{pattern})") is not None,
        "search": lambda text, pattern: _regex_search(text, pattern) is not None,
    }


def method(text: str, name: str) -> Function:
    """A text's method of that name."""
    if name in ("split", "rsplit"):
        return lambda sep=None, maxsplit=-1: _split(name, text, sep, maxsplit)
    own: dict[str, Function] = {"replace": replace, "join": joined, "splitlines": _splitlines}
    return partial(own[name], text) if name in own else partial(_looking, name, text)


def item_method(values: list[object] | tuple[object, ...], name: str) -> Function:
    """A list's method of that name: ``index`` or ``count``."""

    def called(item: object, *bounds: int) -> object:
        spend_items(values)
        sameness.spend_alike(values, item)
        return getattr(values, name)(item, *bounds)

    return called


def truth(value: object) -> bool:
    """Whether a condition's value holds; the texts in which Ansible hands on a false value do not."""
    if isinstance(value, str):
        return value.strip().lower() not in ("", "false", "no", "off", "0")
    return bool(value)


def text_of(value: object) -> str:
    """The value written out as Python does."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | Mapping):
        spend(written(value))
    return str(value)


def to_json(value: object, indent: int | None = None) -> str:
    """The value as JSON text."""
    return _encoder(indent).encode(value)


def written_json(value: object, indent: int | None = None) -> str:
    """As ``to_json``, taken from the budget piece by piece: blanks before deep items may be more than all the rest."""
    pieces = []
    for piece in _encoder(indent).iterencode(value):
        spend(len(piece))
        pieces.append(piece)
    return "".join(pieces)


def _encoder(indent: int | None) -> json.JSONEncoder:
    width = min(indent, 8) if indent is not None else None
    return json.JSONEncoder(ensure_ascii=False, indent=width, sort_keys=width is not None)


def _metered(function: Function, before: Callable[[object], int] = lambda _: 0) -> Function:
    """The filter, with its result taken from the budget, and with what it needs ``before`` it has one."""
    at = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)  # keeps Jinja's marks (pass_environment and the like), which are attributes of the function
    def metered(*args: object, **kwargs: object) -> object:
        taken = before(args[at]) if len(args) > at else 0
        result = function(*args, **kwargs)
        spend(max(0, length(result) - taken))
        return counted(result) if isinstance(result, Iterator) else result

    return metered


def _items_first(values: object) -> int:
    spend_items(values)
    return length(values)


def _text_first(name: str, value: object) -> int:
    size = length(value) if isinstance(value, str) else written(value)
    if isinstance(value, str) and name not in _BY_CHARACTER:
        look_at(size)
        return 0
    spend(size)
    return size


def _of_number(test: Function) -> Function:
    """The test for numbers alone: of a text, ``%`` would make a format."""

    def tested(value: object, *args: object) -> object:
        if isinstance(value, str):
            raise TypeError("a text is no number")
        return test(value, *args)

    return tested


def _of_text(test: Function) -> Function:
    return lambda value: test(text_of(value))


def _keyed(values: Iterable[object], key_of: Callable[[Any], Any]) -> list[object]:
    """The values as a list, with what they are sorted by taken from the budget: of texts there will be copies."""
    items = list(counted(iter(values)))
    for item in items:
        key = key_of(item)
        spend(written(key) if isinstance(key, str | list | tuple) else 0)
    return items


@pass_environment
def _sort(
    environment: SandboxedEnvironment,
    value: Iterable[object],
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: str | int | None = None,
) -> object:
    items = _keyed(value, make_multi_attrgetter(environment, attribute))
    return FILTERS["sort"](environment, items, reverse, case_sensitive, attribute)


@pass_environment
def _groupby(
    environment: SandboxedEnvironment,
    value: Iterable[object],
    attribute: str | int,
    default: object = None,
    case_sensitive: bool = False,
) -> object:
    items = _keyed(value, make_attrgetter(environment, attribute, default=default))
    return FILTERS["groupby"](environment, items, attribute, default, case_sensitive)


def _extreme(name: str) -> Function:
    """Jinja2's ``min`` or ``max``."""

    @pass_environment
    def found(
        environment: SandboxedEnvironment,
        value: Iterable[object],
        case_sensitive: bool = False,
        attribute: str | int | None = None,
    ) -> object:
        items = _keyed(value, make_attrgetter(environment, attribute))
        return FILTERS[name](environment, items, case_sensitive, attribute)

    return found


def _dictsort(
    value: Mapping[str, object], case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> object:
    _keyed(value.values() if by == "value" else value, lambda key: key)
    return FILTERS["dictsort"](value, case_sensitive, by, reverse)


@pass_environment
def _sum(
    environment: SandboxedEnvironment, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0
) -> object:
    """Jinja2's, which would copy all that it has for each list that is added."""
    value_of = make_attrgetter(environment, attribute)
    added = (value_of(item) for item in counted(iter(iterable)))
    if not isinstance(start, list):
        return FILTERS["sum"](environment, added, start=_number(start))
    total = list(start)
    for values in added:
        if not isinstance(values, list):
            raise TypeError(f"a list and a {type(values).__name__} cannot be added")
        spend(len(values))
        total += values
    return total


def _number(value: Any) -> Any:
    """The value when it is a number. Of a text, some operators would make more text."""
    if not isinstance(value, int | float):
        raise TypeError(f"a {type(value).__name__} is no number")
    return value


def _round(value: object, precision: int = 0, method: str = "common") -> object:
    if abs(precision) > ROUND_LIMIT:
        raise ExpressionFault(f"it rounds to more than the limit of {ROUND_LIMIT} digits")
    return FILTERS["round"](_number(value), precision, method)


def _int(value: object, default: object = 0, base: int = 10) -> object:
    number = FILTERS["int"](value, default, base)
    if isinstance(value, str) and isinstance(number, int) and number.bit_length() > INT_BITS:
        raise ExpressionFault(f"it makes a number beyond the limit of {INT_BITS} bits")
    return number


def filled(template: object, *values: object, **named: object) -> str:
    """The ``format`` filter and the ``%`` operator."""
    one = len(values) == 1 and isinstance(values[0], tuple | dict)
    return formatted(text_of(template), named or (values[0] if one else values))


@pass_environment
def _join(
    environment: SandboxedEnvironment, values: Iterable[object], separator: object = "", attribute: str | None = None
) -> str:
    items = (environment.getattr(value, attribute) if attribute else value for value in values)
    return joined(text_of(separator), items)


def joined(separator: str, values: Iterable[object]) -> str:
    """The values as one text."""
    texts: list[str] = []
    for value in values:
        text = text_of(value)
        spend(len(text) + len(separator))
        texts.append(text)
    return separator.join(texts)


def replace(text: object, old: object, new: object, count: int = -1) -> str:
    """The text with one part of it replaced wherever it is."""
    subject, before, after = text_of(text), text_of(old), text_of(new)
    times = subject.count(before)
    spend(len(subject) + times * max(len(after) - len(before), 0))
    return subject.replace(before, after, count)


def _split(way: str, text: str, separator: str | None, most: int = -1) -> list[str]:
    """Not into more parts than are left."""
    if way == "rsplit":
        look_at(len(text) * len(separator or ""))
    look_at(len(text))
    allowed = left() + 1
    parts: list[str] = getattr(text, way)(separator, most if 0 <= most < allowed else allowed)
    spend(len(parts))
    return parts


def _splitlines(text: str, keepends: bool = False) -> list[str]:
    spend(sum(map(text.count, _LINE_ENDS)))
    return text.splitlines(keepends)


def _looking(name: str, text: str, *args: Any) -> object:
    """A method that looks at the text, and makes no more than it has."""
    told = sum(written(arg) for arg in args)
    look_at(len(text) * max(1, told) if name in _BACKWARDS else len(text) + told)
    return getattr(text, name)(*args)


def _from_json(text: Any) -> object:
    spend(length(text))
    return json.loads(text)


def _subject(text: object) -> str:
    subject = text_of(text)
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

    def put(found: re.Match[str]) -> str:
        part = found.expand(replacement)  # groups may make much of a short one
        spend(len(part))
        return part

    return re.sub(pattern, put if "\\" in replacement else replacement, subject)
