# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference of announcements, from the schemas that consumers have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rst import documented, heading, prose, table

from relengq_messages import RunFinishedV1, RunStartedV1, RunWaitingV1, StepFinishedV1
from relengq_messages.messages import RelengqMessage

CLASSES: tuple[type[RelengqMessage], ...] = (RunStartedV1, RunFinishedV1, RunWaitingV1, StepFinishedV1)
_NOUNS = {
    "string": "text", "integer": "whole number", "boolean": "true or false", "array": "list of texts",
    "object": "mapping", "null": "null",
}  # fmt: skip

Node = Mapping[str, Any]


def bodies() -> Iterator[str]:
    """Every topic with its class and each field of its body; what all have comes once."""
    shared = set.intersection(*(set(kind.body_schema["properties"]) for kind in CLASSES))
    yield from heading("Every announcement", "-", "announcement-every")
    common = RunStartedV1.body_schema["properties"]
    yield from _fields({name: node for name, node in common.items() if name in shared})
    for kind in CLASSES:
        yield from heading(f"``{kind.topic}``", "-", f"announcement-{kind.__name__.lower()}")
        yield from (f"{documented(kind.__doc__ or '')} Class ``relengq_messages.{kind.__name__}``.", "")
        own = {name: node for name, node in kind.body_schema["properties"].items() if name not in shared}
        if own:
            yield from _fields(own)
        else:
            yield from ("Its body has the fields of every announcement, and no others.", "")


def _fields(properties: Mapping[str, Node]) -> Iterator[str]:
    rows = [(f"``{name}``", _kind(node), prose(node["description"])) for name, node in _flat(properties, "")]
    yield from table(("Field", "Value", "Meaning"), rows, "30 25 45")


def _flat(properties: Mapping[str, Node], path: str) -> Iterator[tuple[str, Node]]:
    for name, node in properties.items():
        yield f"{path}{name}", node
        yield from _flat(node.get("properties", {}), f"{path}{name}.")


def _kind(node: Node) -> str:
    if "enum" in node:
        return "one of " + ", ".join(f"``{value}``" for value in node["enum"])
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    words = [_NOUNS[kind] for kind in kinds]
    if "pattern" in node:
        words[0] = "time in ISO 8601"
    return " or ".join(words)
