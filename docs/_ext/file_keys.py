# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference of settings and of the keys of files, from the JSON Schemas that ``relengq schema`` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rst import heading, indented, prose, table

from relengq import site

Node = Mapping[str, Any]

_NOUNS = {
    "string": "string", "integer": "whole number", "number": "number", "boolean": "true or false",
    "array": "list", "object": "mapping",
}  # fmt: skip
_BOUNDS = {
    "minimum": "at least {}", "exclusiveMinimum": "more than {}", "maximum": "at most {}",
    "minLength": "at least {} characters", "maxLength": "at most {} characters",
    "minItems": "at least {} entries", "maxItems": "at most {} entries",
    "minProperties": "at least {} entries", "maxProperties": "at most {} entries",
}  # fmt: skip
_TITLES = {
    "Access": "access", "Announcement": "announce", "Approval": "approval", "Concurrency": "concurrency",
    "InputSpec": "inputs.NAME", "MessageTrigger": "on", "Retry": "retry", "WaitFor": "wait_for",
    "Retention": "retention",
    "PlaybookStep": "Steps with playbook", "ApprovalStep": "Steps with approval", "WaitForStep": "Steps with wait_for",
    "Limits": "limits", "SecretSource": "secrets.NAME", "Ansible": "ansible", "Schedule": "Keys of a schedule",
}  # fmt: skip
_PATHS = {**dict.fromkeys(("PlaybookStep", "ApprovalStep", "WaitForStep"), "steps"), "Schedule": "NAME"}
"""Parts whose keys are known by something else than their title."""


def settings() -> Iterator[str]:
    """Every setting, with its default and the variable that overrules it."""
    schema = site.schema("settings")
    yield from (".. confval:: site", "", "   The site's directory: the variable ``RELENGQ_SITE``, else the working")
    yield from ("   directory. It is no key of the file.", "")
    for name, node in schema["properties"].items():
        yield from (f".. confval:: {name}", f"   :type: {Kinds(schema).of(node)}")
        yield from (f"   :default: ``{_value(node.get('default'))}``", "")
        yield from indented([prose(node["description"]), "", f"Variable: ``RELENGQ_{name.upper()}``.", ""])


def keys(kind: str) -> Iterator[str]:
    """Every key of a kind of file: first those at its top, then those of each part."""
    schema = site.schema(kind)
    kinds = Kinds(schema, kind)
    if "properties" in schema:
        yield from heading("At the top", "-", f"keys-{kind}")
        yield from _entries(schema, kinds)
    parts = {name: part for name, part in schema["$defs"].items() if "properties" in part}
    steps = {name: parts[name] for name in _TITLES if name in parts and name.endswith("Step")}
    shared = _shared(list(steps.values()))
    if shared:
        yield from heading("Every step", "-", f"keys-{kind}-step")
        yield from ("What a step of any kind may have.", "")
        yield from _entries({"properties": shared, "required": ["name"]}, kinds)
    for name, part in {**steps, **parts}.items():
        yield from heading(_TITLES[name], "-", kinds.label(name))
        yield from (prose(part["description"]), "")
        own = {key: node for key, node in part["properties"].items() if key not in shared or name not in steps}
        yield from _entries({**part, "properties": own}, kinds)


def _shared(parts: list[Node]) -> dict[str, Node]:
    """The keys that all kinds of steps have."""
    if not parts:
        return {}
    first, *others = (part["properties"] for part in parts)
    return {key: node for key, node in first.items() if all(other.get(key) == node for other in others)}


def _entries(part: Node, kinds: Kinds) -> Iterator[str]:
    """The keys of one part as a list of definitions."""
    for key, node in part["properties"].items():
        facts = [kinds.of(node)]
        if key in part.get("required", ()):
            facts.append("required")
        elif "default" in node and node["default"] not in ("", {}, [], None) and not _nothing(node["default"]):
            facts.append(f"default ``{_value(node['default'])}``")
        text = node.get("description") or kinds.description(node)
        yield from (f"``{key}``", f"   *{facts[0]}*" if "`" not in facts[0] else f"   {facts[0]}")
        yield from (f"   ({', '.join(facts[1:])})" if facts[1:] else "", "", *indented([prose(text), ""]))


def _nothing(default: object) -> bool:
    """Whether the default is a part of which nothing is set."""
    return isinstance(default, dict)


def _value(value: object) -> str:
    """A value as a file has it."""
    return json.dumps(value, ensure_ascii=False)


class Kinds:
    """Says in words what a schema accepts."""

    def __init__(self, schema: Node, kind: str = "settings") -> None:
        self._parts: Node = schema.get("$defs", {})
        self._kind = kind

    def label(self, name: str) -> str:
        """The label of the section that has a part's keys."""
        return f"keys-{self._kind}-{name.lower()}"

    def description(self, node: Node) -> str:
        """The description of the part that a key refers to."""
        text: str = self._parts[node["$ref"].rpartition("/")[2]]["description"]
        return text

    def of(self, node: Node) -> str:
        """What the node accepts, as a phrase."""
        if "$ref" in node:
            return self._part(node["$ref"].rpartition("/")[2])
        for several in ("anyOf", "oneOf"):
            if several in node:
                return self._one_of([each for each in node[several] if each.get("type") != "null"])
        if "enum" in node:
            return "one of " + ", ".join(f"``{value}``" for value in node["enum"])
        kinds = node.get("type")
        if isinstance(kinds, list):
            return _several(kinds)
        return self._single(str(kinds), node)

    def _part(self, name: str) -> str:
        part = self._parts[name]
        if "properties" in part:
            return f"a mapping, see :ref:`{_TITLES[name]} <{self.label(name)}>`"
        return self.of(part) if part else "any value"

    def _one_of(self, nodes: list[Node]) -> str:
        patterns = [str(node.get("pattern", "")) for node in nodes]
        if any("[smhdwy]" in pattern for pattern in patterns):
            return "duration: 30s, 5m, 1h30m, 2d, or seconds"
        if any("[KMGT]" in pattern for pattern in patterns):
            return "size: 512MiB, 4GiB, or bytes"
        said = list(dict.fromkeys(self.of(node) for node in nodes))
        return " or ".join(text for text in said if not any(f"each entry: {text}" in other for other in said))

    def _single(self, kind: str, node: Node) -> str:
        bounds = [text.format(f"{node[key]:,}") for key, text in _BOUNDS.items() if node.get(key)]
        if kind == "array":
            words = f"list, each entry: {self.of(node['items'])}"
        elif kind == "object":
            inner = [*node.get("patternProperties", {}).values(), node.get("additionalProperties") or {}]
            words = f"mapping of names, each to: {self.of(next(filter(None, inner)))}"
        elif kind == "None":
            return "any value"
        else:
            words = _NOUNS[kind]
            bounds += [f"matching ``{node['pattern']}``"] if "pattern" in node else []
        bounds = [text for text in bounds if text not in ("at least 1 characters", "at least 1 entries")]
        return f"{words} ({'; '.join(bounds)})" if bounds else words


def _several(kinds: list[str]) -> str:
    if set(kinds) == {"string", "boolean", "array"}:
        return "condition"
    if set(kinds) == {"array", "string"}:
        return "list of values, or a template that gives one"
    return " or ".join(_NOUNS[kind] for kind in kinds)


def bounds() -> Iterator[str]:
    """Every bound on a key of a file or on a setting, in one table."""
    rows = []
    for kind, files in site.KINDS.items():
        for key, name, value in sorted(set(_bounds(site.schema(kind), ""))):
            rows.append((f"``{files}``", f"``{key}``", _BOUNDS[name].format(value)))
    yield from table(("File", "Key", "Bound"), rows, "30 40 30")


def _bounds(node: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """Key, kind and number of each bound below the node. Durations have theirs in the table of limits."""
    if isinstance(node, list):
        for item in node if "[smhdwy]" not in str(node) else ():
            yield from _bounds(item, path)
    if not isinstance(node, dict):
        return
    for name in _BOUNDS:
        if isinstance(node.get(name), int | float) and node[name] not in (0, 1) and path:
            yield path, name, f"{node[name]:,}"
    for name, part in node.get("$defs", {}).items():
        yield from _bounds(part, _PATHS.get(name, _TITLES.get(name, name)))
    for key, inner in node.get("properties", {}).items():
        yield from _bounds(inner, f"{path}.{key}" if path else key)
    yield from _bounds(node.get("items"), f"{path}[]")
    for group in ("anyOf", "oneOf", "additionalProperties"):
        yield from _bounds(node.get(group), path)
    for inner in node.get("patternProperties", {}).values():
        yield from _bounds(inner, path)
