# SPDX-License-Identifier: GPL-3.0-or-later
"""Expressions in workflow files: Jinja2 as people know it from Ansible, in a sandbox, over plain data.

There are two ways to write one. A *condition* (``when``, ``if``) is a bare expression. A *template* is any
other value: strings in it may have ``{{ … }}``, and a string that is nothing but one ``{{ … }}`` keeps the
type of its value. What comes out is never templated again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import Template, TemplateSyntaxError, Undefined, UndefinedError, nodes
from jinja2.parser import Parser

from relengq.documents import Json
from relengq.errors import ExpressionFault, did_you_mean
from relengq.expressions.budget import spend, start_work
from relengq.expressions.filters import to_json, truth
from relengq.expressions.sandbox import environment
from relengq.expressions.static import Path, paths, prepare
from relengq.storable import is_storable, storable

__all__ = [
    "LENGTH_LIMIT",
    "Condition",
    "Path",
    "bare",
    "condition",
    "is_template",
    "references",
    "render",
    "verify",
    "why_false",
]

LENGTH_LIMIT = 10_000
"""Characters of one expression or template."""
DEPTH_LIMIT = 100
"""How deep a value that an expression makes may be nested."""
_SHOWN = 100
_VALUE_SHOWN = 60
_NAMES_SHOWN = 5

Context = Mapping[str, object]
Told = Callable[[Sequence[Path], Json], None]
"""Is told what each expression reads, and what it has given."""


@dataclass(frozen=True, slots=True)
class _Expression:
    """A compiled expression with the names that it reads."""

    template: Template
    paths: tuple[Path, ...]

    def evaluate(self, context: Context) -> object:
        scope = self.template.new_context(dict(context))
        for _ in self.template.root_render_func(scope):
            pass
        return scope.vars["result"]


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition."""

    text: str
    _expression: _Expression

    def holds(self, context: Context) -> bool:
        """Whether it is true of the values in ``context``.

        The texts "", "false", "no", "off" and "0" are false. Raises ExpressionFault when it cannot be
        evaluated, for instance because it reads something that is not there.
        """
        with _evaluating(self.text, [self._expression], context):
            return truth(self._expression.evaluate(context))


def condition(text: str) -> Condition:
    """Compile a condition; ``{{ }}`` around it is tolerated. Raises ExpressionFault."""
    return Condition(text, _condition(unwrap(text)))


def render(value: Json, context: Context, told: Told | None = None) -> Json:
    """``value`` with the templates of its strings filled from ``context``, through lists and mappings.

    The result is data of its own: nothing in it is shared with the context. Raises ExpressionFault.
    """
    if isinstance(value, dict):
        return {key: render(item, context, told) for key, item in value.items()}
    if isinstance(value, list):
        return [render(item, context, told) for item in value]
    if not isinstance(value, str) or not is_template(value):
        return value
    pieces = _template(value)
    with _evaluating(value, [piece for piece in pieces if isinstance(piece, _Expression)], context):
        return _filled(pieces, context, told)


def why_false(text: str, context: Context) -> str:
    """Which values make a condition false: those that the first false part of its ``and`` chain reads.

    For ``msg.tag == 'f44' and msg.instance == 'primary'``: ``msg.tag is 'f44-build-side-12345'``. Values are
    shortened. Empty when the condition holds. Raises ExpressionFault as ``Condition.holds`` does.
    """
    bare = unwrap(text)
    whole, parts = _condition(bare), _parts(bare)
    with _evaluating(text, [whole], context):
        for at, part in enumerate(parts, 1):
            value = part.evaluate(context)
            # The texts that are false are so as the value of the whole only: before an `and`, Python's truth counts.
            if not (bool(value) if at < len(parts) else truth(value)):
                return _values(part.paths, context) or "it is false whatever it is given"
    return ""


def verify(text: str, *, bare: bool) -> None:
    """Compile a condition (``bare``) or a template; raises ExpressionFault."""
    if bare:
        condition(text)
    elif is_template(text):
        _template(text)


def references(text: str, *, bare: bool) -> list[Path]:
    """The dotted names that a condition (``bare``) or a template reads, as its text tells.

    ``outputs.ci['x'].y`` gives ``("outputs", "ci", "x", "y")``. Raises ExpressionFault.
    """
    if bare:
        return list(_condition(unwrap(text)).paths)
    if not is_template(text):
        return []
    return [path for piece in _template(text) if isinstance(piece, _Expression) for path in piece.paths]


def readable(text: str, *, bare: bool) -> list[Path]:
    """As ``references``, for an expression that does not compile: what can be told of it, be it nothing."""
    sandbox = environment()
    try:
        with _compiling(text):
            if bare:
                found: list[nodes.Node] = [Parser(sandbox, unwrap(text), state="variable").parse_expression()]
            else:
                outputs = sandbox.parse(text).find_all(nodes.Output)
                found = [node for output in outputs for node in output.nodes]
    except ExpressionFault:
        return []
    return [path for node in found if isinstance(node, nodes.Expr) for path in paths(node)]


def is_template(text: str) -> bool:
    """Whether the text has anything of Jinja2 in it."""
    return "{{" in text or "{%" in text or "{#" in text


def unwrap(text: str) -> str:
    """The expression of a condition without ``{{ }}`` around it."""
    stripped = text.strip()
    if stripped.startswith("{{") and stripped.endswith("}}"):
        inner = stripped[2:-2]
        if "{{" not in inner and "}}" not in inner:
            return inner.strip()
    return stripped


@lru_cache(maxsize=2048)
def _condition(text: str) -> _Expression:
    if "{{" in text:
        raise ExpressionFault(
            f"{_shown(text)}: a condition has no {{{{ }}}} inside.", hint="Write the bare expression."
        )
    with _compiling(text):
        return _compile(_parsed(text))


@lru_cache(maxsize=256)
def _parts(text: str) -> tuple[_Expression, ...]:
    """The links of the condition's ``and`` chain, each compiled for itself."""
    with _compiling(text):
        found: list[_Expression] = []
        pending = [_parsed(text)]
        while pending:
            node = pending.pop()
            if isinstance(node, nodes.And):
                pending += [node.right, node.left]
            else:
                found.append(_compile(node))
        return tuple(found)


def _parsed(text: str) -> nodes.Expr:
    parser = Parser(environment(), text, state="variable")
    expression = parser.parse_expression()
    if not parser.stream.eos:
        raise TemplateSyntaxError("more follows where the expression has ended", parser.stream.current.lineno)
    return expression


@lru_cache(maxsize=2048)
def _template(text: str) -> tuple[str | _Expression, ...]:
    with _compiling(text):
        pieces: list[str | _Expression] = []
        for statement in environment().parse(text).body:
            if not isinstance(statement, nodes.Output):
                raise TemplateSyntaxError("only {{ … }} is known here, no {% … %}", statement.lineno)
            pieces += [
                node.data if isinstance(node, nodes.TemplateData) else _compile(node) for node in statement.nodes
            ]
        return tuple(pieces)


def _compile(expression: nodes.Expr) -> _Expression:
    sandbox = environment()
    names = paths(expression)
    result = nodes.Assign(nodes.Name("result", "store"), prepare(sandbox, expression), lineno=1)
    return _Expression(sandbox.from_string(nodes.Template([result], lineno=1)), names)


@contextmanager
def _compiling(text: str) -> Iterator[None]:
    if len(text) > LENGTH_LIMIT:
        raise ExpressionFault(f"{_shown(text)}: {len(text)} characters; the limit is {LENGTH_LIMIT}.")
    try:
        yield
    except TemplateSyntaxError as error:
        raise ExpressionFault(f"{_shown(text)} does not compile: {error.message}.") from None
    except (RecursionError, MemoryError):
        raise ExpressionFault(f"{_shown(text)} does not compile: it is nested too deep.") from None
    except (ValueError, OverflowError) as error:
        raise ExpressionFault(f"{_shown(text)} does not compile: {error}.") from None


@contextmanager
def _evaluating(text: str, expressions: Iterable[_Expression], context: Context) -> Iterator[None]:
    """Start a budget, and turn whatever goes wrong into an ExpressionFault that names the expression."""
    start_work()
    try:
        yield
    except UndefinedError as error:
        every = (path for expression in expressions for path in expression.paths)
        reason = next(filter(None, (_absence(path, context) for path in every)), str(error))
    except ExpressionFault as fault:
        reason = fault.message
    except (RecursionError, MemoryError):
        reason = "it needs more than there is of stack or memory"
    except Exception as error:  # whatever Jinja2's filters raise for values that do not fit
        reason = f"{type(error).__name__}: {_cut(str(error), 2 * _SHOWN)}"
    else:
        return
    raise ExpressionFault(f"{_shown(text)} cannot be evaluated: {reason}.")


def _filled(pieces: tuple[str | _Expression, ...], context: Context, told: Told | None) -> Json:
    def given(expression: _Expression) -> Json:
        value = _data(expression.evaluate(context))
        if told is not None:
            told(expression.paths, value)
        return value

    if len(pieces) == 1 and isinstance(pieces[0], _Expression):
        return given(pieces[0])
    texts = [piece if isinstance(piece, str) else _text(given(piece)) for piece in pieces]
    spend(sum(map(len, texts)))
    return "".join(texts)


def _text(value: Json) -> str:
    """How a value reads inside of a text: null as nothing, lists and mappings as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else to_json(value) if isinstance(value, list | dict) else str(value)


def _data(value: object, depth: int = 0) -> Json:
    """The value as plain data of its own; raises ExpressionFault for what JSON cannot hold."""
    if isinstance(value, Undefined):
        str(value)  # says what is undefined, by raising
    if depth > DEPTH_LIMIT:
        raise ExpressionFault(f"its value is nested deeper than the limit of {DEPTH_LIMIT}")
    if isinstance(value, str):
        spend(len(value))
        if not is_storable(value):
            raise ExpressionFault("its value has a NUL or half a character, which no database keeps")
        return str(value)
    spend(1)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise ExpressionFault("its value is a number that JSON cannot hold")
    if isinstance(value, Mapping):
        return {str(_data(key, depth + 1)): _data(item, depth + 1) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [_data(item, depth + 1) for item in value]
    raise ExpressionFault(f"its value is no data but a {type(value).__name__}")


def _values(paths: Iterable[Path], context: Context) -> str:
    """What the dotted names stand for, as a sentence without its end."""
    every = list(paths)
    told = [f"{'.'.join(path)} is {_value(path, context)}" for path in every[:_NAMES_SHOWN]]
    more = [f"and {len(every) - _NAMES_SHOWN} more"] if len(every) > _NAMES_SHOWN else []
    return ", ".join([*told, *more])


def _value(path: Path, context: Context) -> str:
    """What the dotted name stands for, shortened: a text in quotes, ``absent``, anything else as JSON."""
    sandbox = environment()
    value = sandbox.getattr(context, path[0])
    for part in path[1:]:
        indexed = isinstance(value, str | list | tuple) and part.isdecimal()
        value = sandbox.getitem(value, int(part) if indexed else part)
    if isinstance(value, Undefined) or callable(value):
        return "absent"
    if isinstance(value, str):
        return repr(_cut(value, _VALUE_SHOWN))
    text = ""
    for piece in json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value):
        text += storable(piece[:_VALUE_SHOWN])
        if len(text) > _VALUE_SHOWN:
            break
    return _cut(text, _VALUE_SHOWN)


def _absence(path: Path, context: Context) -> str | None:
    """Why the dotted name leads nowhere in the context, or None when it leads somewhere."""
    here: object = context
    for at, part in enumerate(path):
        if isinstance(here, Mapping):
            if part not in here:
                where = f"{'.'.join(path[:at])} has no '{part}'" if at else f"'{part}' is unknown here"
                hint = did_you_mean(part, map(str, here))
                return f"{where} ({hint})" if hint else where
            here = here[part]
        elif isinstance(here, list) and part.lstrip("-").isdecimal() and -len(here) <= int(part) < len(here):
            here = here[int(part)]
        elif at:
            return f"{'.'.join(path[:at])} has no '{part}'"
    return None


def _shown(text: str) -> str:
    return f"the expression `{_cut(text, _SHOWN)}`"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
