# SPDX-License-Identifier: GPL-3.0-or-later
"""What pydantic found, said for people: one fault a mistake, at its place in the file, with the valid names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from relengq.documents import Document, Json, Loc
from relengq.errors import Fault, nearest
from relengq.workflows import KINDS

DETAIL_LIMIT = 200
"""How many of an error's details are told."""

_TAGGED = ("steps", "finally", "announce")
"""Lists of several kinds of things: pydantic puts the kind behind the position into an error's place."""
_WANTED = {
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of keys and values",
    "model_type": "must be a mapping of keys and values",
    "model_attributes_type": "must be a mapping of keys and values",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_PATTERNS = {
    "_-": "letters, digits, '_' and '-', with a letter first, at most 64",
    "[A-Za-z_]": "letters, digits and '_', with no digit first, at most 64",
    "._-": "letters, digits, '.', '_' and '-', at most 100",
}


def explain(document: Document, error: ValidationError, schema: Mapping[str, Any], at: Loc = ()) -> Iterator[Fault]:
    """A fault for each of the error's details.

    ``schema`` is the JSON Schema of what was validated, and ``at`` where that stands in the document.
    """
    details = error.errors(include_url=False)
    for detail in details[:DETAIL_LIMIT]:
        loc = _fitted(document.data, (*at, *_place(detail["loc"])))
        is_key = loc[-1:] == ("[key]",)
        loc = loc[:-1] if is_key else loc
        if detail["type"] == "extra_forbidden":
            yield _unknown_key(document, loc, _valid_keys(schema, detail["loc"][:-1]))
        elif detail["type"] == "step_kind":
            yield _step_kind(document, loc, schema)
        elif detail["type"] == "missing":
            yield document.fault(loc[:-1], f"the key '{loc[-1]}' is missing")
        else:
            message, hint = _sentence(detail)
            told = is_key or message.startswith(str(loc[-1:] and loc[-1]))
            yield document.fault(loc, message if told else f"{_subject(loc)}{message}", hint, key=is_key)


def _place(loc: Loc) -> Loc:
    """Where the error is in the file: without the kinds that pydantic puts behind positions."""
    return tuple(
        part
        for at, part in enumerate(loc)
        if not (at >= 2 and isinstance(part, str) and isinstance(loc[at - 1], int) and loc[at - 2] in _TAGGED)
    )


def _fitted(data: Json, loc: Loc) -> Loc:
    """The place without positions where the file has a single thing in place of a list."""
    parts: list[str | int] = []
    for part in loc:
        if not (isinstance(part, int) and isinstance(value_at(data, tuple(parts)), dict | str)):
            parts.append(part)
    return tuple(parts)


def _subject(loc: Loc) -> str:
    """The name with which a sentence about a value begins."""
    names = [part for part in loc if isinstance(part, str)]
    if not names:
        return ""
    return f"{names[-1]}, item {loc[-1] + 1}: " if isinstance(loc[-1], int) else f"{names[-1]}: "


def _unknown_key(document: Document, loc: Loc, valid: list[str]) -> Fault:
    key = str(loc[-1])
    near = nearest(key, valid)
    hint = (f"did you mean '{near}'? " if near else "") + f"valid keys: {', '.join(sorted(valid))}"
    return document.fault(loc, f"unknown key '{key}'", hint, key=True)


def _step_kind(document: Document, loc: Loc, schema: Mapping[str, Any]) -> Fault:
    """Why the step is of no kind, or of several."""
    step = value_at(document.data, loc)
    if not isinstance(step, dict):
        return document.fault(loc, "a step is a mapping of keys and values", f"it has one of: {', '.join(KINDS)}")
    several = [kind for kind in KINDS if kind in step]
    if several:
        place = (*loc, several[1])
        return document.fault(
            place, f"a step has one kind, not {' and '.join(several)}", "make two steps of it", key=True
        )
    valid = {key for kind in KINDS for key in _valid_keys(schema, (*loc, kind))}
    unknown = [key for key in step if key not in valid]
    if "awx" in unknown:
        message = "the step kind 'awx' is not supported yet"
        return document.fault((*loc, "awx"), message, f"kinds: {', '.join(KINDS)}", key=True)
    if unknown:
        key = next((key for key in unknown if nearest(key, KINDS)), unknown[0])
        near = nearest(key, KINDS)
        hint = (f"did you mean '{near}'? " if near else "") + f"a step has one of: {', '.join(KINDS)}"
        return document.fault((*loc, key), f"unknown step kind '{key}'", hint, key=True)
    return document.fault(
        loc, f"the step '{step.get('name', '?')}' does nothing", f"it needs one of: {', '.join(KINDS)}"
    )


def _sentence(detail: ErrorDetails) -> tuple[str, str | None]:
    """What is wrong with a value, and what to do."""
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "value_error":
        return str(context["error"]), None
    if kind in _WANTED:
        quoted = kind == "string_type" and isinstance(given, int | float)
        return f"{_WANTED[kind]}, not {_described(given)}", "write it in quotes" if quoted else None
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"must be {words} {context[key]}, not {given}", None
    if kind in ("literal_error", "enum"):
        valid = [word.strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
        near = nearest(str(given), valid)
        return f"must be one of {', '.join(valid)}, not {_described(given)}", near and f"did you mean '{near}'?"
    return _size_sentence(kind, given, context) or (detail["msg"], None)


def _size_sentence(kind: str, given: object, context: Mapping[str, Any]) -> tuple[str, str | None] | None:
    if kind == "string_pattern_mismatch":
        allowed = next((words for part, words in _PATTERNS.items() if part in context["pattern"]), None)
        return f"{_described(given)} is no valid name", f"a name has {allowed}" if allowed else context["pattern"]
    if kind in ("too_long", "string_too_long"):
        what = "characters" if kind == "string_too_long" else "entries"
        size = len(given) if isinstance(given, str | list | dict) else "more"
        return f"it has {size} {what}; the limit is {context['max_length']}", None
    if kind in ("too_short", "string_too_short"):
        return f"must not be empty: at least {context['min_length']}", None
    return None


def _described(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def value_at(data: Json, loc: Loc) -> Json:
    """What stands at the place in the data; None when nothing does."""
    for part in loc:
        if isinstance(data, dict) and isinstance(part, str):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _valid_keys(schema: Mapping[str, Any], loc: Loc) -> list[str]:
    """The keys that the JSON Schema has at a place of pydantic's (with kinds behind positions)."""
    node = _resolved(schema, schema, "")
    for at, part in enumerate(loc):
        if isinstance(part, int):
            node = node.get("items", {})
        elif at and isinstance(loc[at - 1], int):
            node = _resolved(schema, node, part)
        else:
            others = (*node.get("patternProperties", {}).values(), node.get("additionalProperties"))
            inner: Any = node.get("properties", {}).get(part) or next(filter(None, others), {})
            node = _resolved(schema, inner, "") if isinstance(inner, dict) else {}
    return list(node.get("properties", {}))


def _resolved(schema: Mapping[str, Any], node: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The node itself; where it has alternatives, the mapping or list among them (of the kind that is named)."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    choices = [_resolved(schema, choice, kind) for key in ("anyOf", "oneOf", "allOf") for choice in node.get(key, ())]
    shaped = [choice for choice in choices if "properties" in choice or "items" in choice]
    return next((choice for choice in shaped if kind in choice.get("required", ())), shaped[0] if shaped else node)
