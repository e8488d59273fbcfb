# SPDX-License-Identifier: GPL-3.0-or-later
"""A workflow's file as its checks see it: whatever can be made out of it, even where other parts are faulty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pydantic import ValidationError

from relengq.documents import Document, Json, Loc
from relengq.inputs import InputSpec
from relengq.workflows import kind_of


@dataclass(frozen=True)
class StepPart:
    """One step as the file has it."""

    loc: Loc
    body: Mapping[str, Json]
    position: int

    @property
    def name(self) -> str:
        """Its name, or an empty string."""
        name = self.body.get("name")
        return name if isinstance(name, str) else ""

    @property
    def kind(self) -> str | None:
        """Its kind, or None when that cannot be told."""
        return kind_of(dict(self.body))

    @property
    def axes(self) -> Mapping[str, Json]:
        """Its matrix."""
        return mapping(self.body.get("matrix"))

    @property
    def declared(self) -> list[str] | None:
        """The names of outputs that it declares, or None when it may set any."""
        names = self.body.get("outputs")
        return [name for name in names if isinstance(name, str)] if isinstance(names, list) else None


@dataclass(frozen=True)
class WorkflowFile:
    """A file of ``playbooks/workflows/``."""

    name: str
    document: Document

    @property
    def body(self) -> Mapping[str, Json]:
        """The file's keys."""
        return mapping(self.document.data)

    @cached_property
    def steps(self) -> list[StepPart]:
        """The steps of the chain, then those of ``finally``."""
        places = [(key, at, item) for key in ("steps", "finally") for at, item in enumerate(items(self.body.get(key)))]
        return [
            StepPart((key, at), item, position)
            for position, (key, at, item) in enumerate(places)
            if isinstance(item, dict)
        ]

    @property
    def input_names(self) -> list[str]:
        """The names of all inputs, also of those whose declaration is faulty."""
        return list(mapping(self.body.get("inputs")))

    @property
    def secrets(self) -> list[str]:
        """The names of the secrets that the workflow needs."""
        return [name for name in items(self.body.get("secrets")) if isinstance(name, str)]

    def secrets_of(self, step: StepPart) -> list[str]:
        """The names of the secrets that a step gets: all, unless it says which; other kinds than playbook none."""
        if step.kind != "playbook":
            return []
        own = step.body.get("secrets")
        return self.secrets if own is None else [name for name in items(own) if isinstance(name, str)]

    @cached_property
    def specs(self) -> dict[str, InputSpec]:
        """The inputs whose declaration holds by itself."""
        found: dict[str, InputSpec] = {}
        for name, body in mapping(self.body.get("inputs")).items():
            try:
                spec = InputSpec.model_validate(body)
            except ValidationError:
                continue
            found[name] = spec
        return found

    @cached_property
    def sound_specs(self) -> dict[str, InputSpec]:
        """The inputs whose declaration does not contradict itself either: values can be checked against them."""
        return {name: spec for name, spec in self.specs.items() if not any(spec.contradictions())}

    def triggers(self) -> Iterator[tuple[Loc, Mapping[str, Json]]]:
        """The message triggers, with their places."""
        for at, item in enumerate(items(self.body.get("on"))):
            if isinstance(item, dict):
                yield ("on", at), item


def mapping(value: Json) -> Mapping[str, Json]:
    """The value when it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Json) -> list[Json]:
    """The value when it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def texts(value: Json, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """Every string in the value, through lists and mappings, with its place."""
    if isinstance(value, str):
        yield loc, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, (*loc, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from texts(item, (*loc, at))
