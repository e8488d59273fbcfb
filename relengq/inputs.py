# SPDX-License-Identifier: GPL-3.0-or-later
"""Typed inputs of workflows: declared in its file, checked before a run exists, for every trigger alike."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from relengq.documents import Json
from relengq.errors import InputFault, did_you_mean, nearest
from relengq.storable import is_storable

COUNT_LIMIT = 200
"""How many inputs a workflow may declare."""
SIZE_LIMIT = 1024 * 1024
"""Bytes of all inputs of a run together, as JSON."""
STRING_LIMIT = 10_000
"""Characters of a string unless its input says ``max_length``."""
ITEMS_LIMIT = 1000
"""Items of a list unless its input says ``max_items``."""
INT_BOUND = 2**63
"""Whole numbers fit 64 bits, as databases and JSON readers expect."""
MASK = "********"
"""What stands in place of a secret value wherever inputs are shown."""

_SHOWN = 60
_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_KINDS = {"string": "a string", "int": "a whole number", "bool": "true or false", "list": "a list of strings"}
_KEYS_OF = {
    "pattern": ("string", "list"),
    "choices": ("string", "int", "list"),
    "min": ("int",),
    "max": ("int",),
    "max_length": ("string", "list"),
    "min_items": ("list",),
    "max_items": ("list",),
}

Scalar = Annotated[Json, WithJsonSchema({"type": ["string", "integer"]})]


class InputSpec(BaseModel):
    """One input of a workflow: its type, what it accepts, and how it is explained to people."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: Literal["string", "int", "bool", "list"] = Field(
        "string", description="What the value is. A list has strings as its items."
    )
    help: str = Field("", max_length=1000, description="One sentence that says what the input means.")
    default: Json = Field(None, description="The value when none is given. Without this key the input must be given.")
    pattern: str | None = Field(
        None,
        max_length=1000,
        description="Regular expression (Python's) that the whole string, or each item, must match.",
    )
    choices: list[Scalar] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="The only values, or items of a list, that are accepted.",
    )
    min: int | None = Field(None, description="Smallest number that is accepted.")
    max: int | None = Field(None, description="Largest number that is accepted.")
    max_length: int = Field(
        STRING_LIMIT,
        ge=1,
        le=SIZE_LIMIT,
        description="Most characters of the string, or of each item of a list.",
    )
    min_items: int = Field(0, ge=0, description="Fewest items of a list.")
    max_items: int = Field(ITEMS_LIMIT, ge=1, le=10_000, description="Most items of a list.")
    secret: bool = Field(
        False,
        description="Whether the value is kept out of everything that is stored or shown in clear. "
        "It cannot be used in conditions, matrices, queues and concurrency groups.",
    )

    @property
    def required(self) -> bool:
        """Whether a trigger must give the input, for want of a default."""
        return "default" not in self.model_fields_set

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """What the declaration's keys say against each other: (key, sentence)."""
        for key, types in _KEYS_OF.items():
            if key in self.model_fields_set and self.type not in types:
                yield key, f"'{key}' says nothing about an input of type {self.type}"
        if self.min is not None and self.max is not None and self.min > self.max:
            yield "max", f"max {self.max} is below min {self.min}"
        if self.min_items > self.max_items:
            yield "max_items", f"max_items {self.max_items} is below min_items {self.min_items}"
        try:
            _compiled(self.pattern or "")
        except (re.error, RecursionError, OverflowError) as error:
            yield "pattern", f"the pattern is no regular expression: {error}"
            return
        item = self.model_copy(update={"type": "string" if self.type == "list" else self.type, "choices": None})
        for choice in self.choices or () if self.type != "bool" else ():
            if problem := _problem(item, choice):
                yield "choices", f"the choice {_shown(choice)} {problem}"
        if not self.required:
            yield from self._default_contradictions()

    def _default_contradictions(self) -> Iterator[tuple[str, str]]:
        if self.default is None:
            yield "default", "a default is never null: leave the key out to make the input required"
        elif problem := _problem(self, self.default):
            yield "default", f"the default {problem}"
        elif self.secret and self.default not in ("", []):
            yield "default", "a secret input's default would stand here in clear"


def check_inputs(specs: Mapping[str, InputSpec], given: Mapping[str, object]) -> dict[str, Json]:
    """The inputs of a run: what was given, checked, and the defaults of the rest.

    Raises InputFault with every problem at once: unknown names with the nearest known one, missing inputs,
    values that do not fit, all of it too large.
    """
    problems = [f"unknown input '{name}'{_hint(name, specs)}" for name in given if name not in specs]
    values: dict[str, Json] = {}
    for name, spec in specs.items():
        if name not in given:
            if spec.required:
                problems.append(f"input '{name}' is missing: {_KINDS[spec.type]}{_about(spec)}")
            else:
                values[name] = copy.deepcopy(spec.default)
            continue
        value = given[name]
        problem = _problem(spec, value)
        if problem is None:
            values[name] = value  # type: ignore[assignment]  # what has no problem is a str, int, bool or list
        else:
            problems.append(f"input '{name}' {problem}")
    if not problems and (size := len(json.dumps(values))) > SIZE_LIMIT:
        problems.append(f"all inputs together have {size} bytes; the limit is {SIZE_LIMIT} bytes")
    if problems:
        raise InputFault(problems)
    return values


def parse_text(spec: InputSpec, text: str, *, name: str = "value") -> Json:
    """The value that a person means by ``text``; raises InputFault when it is none of the input's type.

    A list is written with commas (``x86_64,aarch64``) or as JSON (``["x86_64"]``). Bounds are left to
    check_inputs.
    """
    stripped = text.strip()
    if spec.type == "string":
        return text
    if spec.type == "int" and re.fullmatch(r"[-+]?[0-9]{1,19}", stripped, re.ASCII):
        return int(stripped)
    if spec.type == "bool" and stripped.lower() in _WORDS:
        return _WORDS[stripped.lower()]
    if spec.type == "list" and not stripped.startswith("["):
        return [part.strip() for part in text.split(",")] if stripped else []
    if spec.type == "list":
        try:
            value: Json = json.loads(stripped)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list):
            return value
    raise InputFault([f"input '{name}' must be {_KINDS[spec.type]}{_got(spec, text)}"])


def mask(specs: Mapping[str, InputSpec], values: Mapping[str, Json]) -> dict[str, Json]:
    """The inputs as they may be shown: secrets masked, and whatever no declaration vouches for."""
    return {name: MASK if name not in specs or specs[name].secret else value for name, value in values.items()}


def _problem(spec: InputSpec, value: object) -> str | None:
    """What is wrong with the value, as the end of a sentence that begins with the input's name."""
    if spec.type == "list":
        return _list_problem(spec, value)
    if spec.type == "bool":
        return None if isinstance(value, bool) else f"must be true or false{_got(spec, value)}"
    if spec.type == "int":
        return _int_problem(spec, value)
    return _string_problem(spec, value)


def _list_problem(spec: InputSpec, value: object) -> str | None:
    if not isinstance(value, list):
        return f"must be a list of strings{_got(spec, value)}"
    if not spec.min_items <= len(value) <= spec.max_items:
        return f"must have {spec.min_items} to {spec.max_items} items, not {len(value)}"
    found = ((at, _string_problem(spec, item)) for at, item in enumerate(value, 1))
    return next((f"(item {at}) {problem}" for at, problem in found if problem), None)


def _int_problem(spec: InputSpec, value: object) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return f"must be a whole number{_got(spec, value)}"
    low = spec.min if spec.min is not None else -INT_BOUND
    high = spec.max if spec.max is not None else INT_BOUND - 1
    if value < low:
        return f"must be at least {low}{_got(spec, value)}"
    if value > high:
        return f"must be at most {high}{_got(spec, value)}"
    return _choice_problem(spec, value)


def _string_problem(spec: InputSpec, value: object) -> str | None:
    if not isinstance(value, str):
        quoted = ": write it in quotes" if isinstance(value, int | float) else ""
        return f"must be a string{_got(spec, value)}{quoted}"
    if len(value) > spec.max_length:
        return f"has {len(value)} characters; the limit is {spec.max_length}"
    if not is_storable(value):
        return "has a NUL or half a character (a lone surrogate), which cannot be stored"
    if spec.pattern is not None and not _compiled(spec.pattern).fullmatch(value):
        return f"must match the pattern {spec.pattern}{_got(spec, value)}"
    return _choice_problem(spec, value)


def _choice_problem(spec: InputSpec, value: str | int) -> str | None:
    if spec.choices is None or value in spec.choices:
        return None
    valid = [str(choice) for choice in spec.choices]
    near = None if spec.secret else nearest(str(value), valid)
    meant = f" (did you mean '{near}'?)" if near else ""
    return f"must be one of {', '.join(valid[:20])}{_got(spec, value)}{meant}"


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _hint(name: str, valid: Mapping[str, object]) -> str:
    hint = did_you_mean(name, valid)
    return f" ({hint})" if hint else ""


def _about(spec: InputSpec) -> str:
    return f" ({spec.help})" if spec.help else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _got(spec: InputSpec, value: object) -> str:
    """The offending value, unless it is a secret."""
    return "" if spec.secret else f", not {_shown(value)}"
