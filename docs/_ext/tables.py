# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of the reference: states, limits, what expressions may use, and the keys of printed JSON."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import get_args, get_type_hints

import json_keys
from rst import attribute_docs, table

import relengq
from relengq.expressions.sandbox import environment
from relengq.site.checks import expressions as known
from relengq.site.checks import uses
from relengq.states import TRANSITIONS, AttemptState, RunState, StepState

STATES: dict[str, type[RunState | StepState | AttemptState]] = {
    "run": RunState,
    "step": StepState,
    "attempt": AttemptState,
}
LIMIT = re.compile(r"(?!_)(\w+_LIMIT|LONGEST|INT_BOUND|MAX_\w+|[A-Z]+_BYTES)$")
"""How constants are named that bound something."""
NOT_LIMITS = {"BATCH_BYTES", "CHUNK_BYTES"}
"""Constants of that form which nobody meets: how output is cut into pieces."""
_BIG = {1 << 20: "MiB", 1 << 10: "KiB"}


def states(kind: str) -> Iterator[str]:
    """Each state of a run, step or attempt, what it means, and what may follow it."""
    found = STATES[kind]
    docs = attribute_docs("relengq.states")
    rows = []
    for state in found:
        following = sorted(TRANSITIONS[found][state], key=list(found).index)
        after = ", ".join(f"``{each}``" for each in following) or "nothing: it is final"
        rows.append((f"``{state}``", docs[found.__name__, state.name], after))
    yield from table(("State", "Meaning", "What may follow"), rows, "15 50 35")


def limit_constants() -> Iterator[tuple[str, str, int | float]]:
    """Module, name and value of each constant that bounds something a person can meet."""
    for info in pkgutil.walk_packages(relengq.__path__, "relengq."):
        if ".migrations" in info.name or info.name == "relengq.__main__":
            continue
        module = importlib.import_module(info.name)
        own = {name for group, name in attribute_docs(info.name) if not group}
        for name, value in vars(module).items():
            if name in own and LIMIT.match(name) and name not in NOT_LIMITS and isinstance(value, int | float):
                yield info.name, name, value


def limits() -> Iterator[str]:
    """Every limit with its number."""
    rows = []
    for module, name, value in limit_constants():
        meaning = attribute_docs(module)["", name]
        rows.append((_amount(name, value, meaning), meaning, f"``{module}.{name}``"))
    yield from table(("Limit", "Of what", "In the code"), rows, "15 50 35")


def _amount(name: str, value: int | float, meaning: str) -> str:
    if meaning.startswith("Bytes") or name.endswith("BYTES"):
        for size, unit in _BIG.items():
            if value >= size and value % size == 0:
                return f"{int(value) // size} {unit}"
    return f"{value:,}"


def expressions(part: str) -> Iterator[str]:
    """What expressions may use: ``filters``, ``tests``, ``methods`` or ``names``."""
    makers = {"filters": _filters, "tests": _tests, "names": _names}
    yield from makers[part]()


def _filters() -> Iterator[str]:
    yield from (", ".join(f"``{name}``" for name in sorted(environment().filters)) + ".", "")


def _tests() -> Iterator[str]:
    yield from (", ".join(f"``{name}``" for name in sorted(environment().tests)) + ".", "")


def _names() -> Iterator[str]:
    """Where which first word may stand, from what ``relengq check`` allows."""
    everywhere = sorted(uses.MESSAGE | uses.STEP | uses.START | uses.VARS | {"matrix", "step"})
    rows = []
    for root in everywhere:
        places = [
            "steps, outputs and announcements" if root in uses.STEP else "",
            "steps that have a matrix" if root == "matrix" else "",
            "``announce`` of a step" if root == "step" else "",
            "``concurrency.group``" if root in uses.START else "",
            "``on`` and ``wait_for``" if root in uses.MESSAGE else "",
            "``vars`` of a step" if root in uses.VARS else "",
        ]
        rows.append((f"``{root}``", "; ".join(filter(None, places)), _members(root)))
    yield from table(("Name", "Known in", "Has"), rows, "15 40 45")


def _members(root: str) -> str:
    members = {
        "run": known._OF_RUN,  # noqa: SLF001 -- the one list of them
        "site": known._OF_SITE,  # noqa: SLF001
        "step": known._OF_THE_STEP,  # noqa: SLF001
        "steps": [f"NAME.{word}" for word in known._OF_STEP],  # noqa: SLF001
        "outputs": ["KEY", "STEP.KEY", "STEP.INSTANCE.KEY"],
        "inputs": ["NAME"],
        "matrix": ["AXIS"],
        "secrets": ["NAME"],
    }
    return ", ".join(f"``{root}.{word}``" for word in members.get(root, ())) or "what the message brings"


def fields(path: str) -> Iterator[str]:
    """The keys that a class gives in JSON, with the types of their values."""
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    rows = [
        (f"``{field}``", _type(str(hint) if get_args(hint) else hint.__name__), json_keys.meaning(module, name, field))
        for field, hint in get_type_hints(found).items()
        if field in found.__dataclass_fields__
    ]
    yield from table(("Key", "Value", "Meaning"), rows, "20 30 50")


def _type(hint: str) -> str:
    """A Python type as a person would say it."""
    text = re.sub(r"(\w+\.)+", "", hint)
    for pattern, words in json_keys.TYPES.items():
        text = re.sub(pattern, words, text)
    return text
