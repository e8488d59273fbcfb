# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON Schemas of the files of a site, made from the models that read them, so that editors know every key."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from relengq.errors import NotFound, did_you_mean
from relengq.pools import Pool
from relengq.schedules import Schedule, Schedules
from relengq.settings import Settings
from relengq.workflows import Workflow

KINDS = {
    "workflow": "playbooks/workflows/*.yml",
    "pool": "workers/*.yml",
    "schedules": "beat/*.yml",
    "settings": "relengq.toml",
}
"""The kinds of schemas, and the files that they are for."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    "workflow": TypeAdapter(Workflow),
    "pool": TypeAdapter(Pool),
    "schedules": Schedules,
    "settings": TypeAdapter(Settings),
}
_NOT_IN_FILES = {"workflow": "name", "pool": "name", "settings": "site"}
"""What the models know from elsewhere: a file's name, the directory."""


@cache
def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the kind of file; raises NotFound for another kind than KINDS has."""
    if kind not in KINDS:
        raise NotFound(f"There is no schema '{kind}'.", hint=did_you_mean(kind, KINDS))
    made = _ADAPTERS[kind].json_schema(by_alias=True)
    absent = _NOT_IN_FILES.get(kind)
    if absent:
        made["properties"].pop(absent)
        if absent in made.get("required", ()):
            made["required"].remove(absent)
    _close(made)
    return {"$schema": _DIALECT, "title": f"relengq: {KINDS[kind]}", "description": _description(kind), **_rest(made)}


def _description(kind: str) -> str:
    document = {"workflow": Workflow, "pool": Pool, "schedules": Schedule, "settings": Settings}[kind].__doc__ or ""
    return document.strip().splitlines()[0]


def _rest(made: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in made.items() if key not in ("title", "description")}


def _close(node: Any) -> None:
    """Refuse keys that fit no pattern, and leave out the titles and null defaults that pydantic makes up."""
    if isinstance(node, list):
        for item in node:
            _close(item)
    elif isinstance(node, dict):
        if "patternProperties" in node:
            node.setdefault("additionalProperties", False)
        if isinstance(node.get("title"), str) and "$defs" not in node:
            node.pop("title")
        if node.get("default", 0) is None:
            node.pop("default")
        for item in node.values():
            _close(item)
