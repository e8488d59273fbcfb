# SPDX-License-Identifier: GPL-3.0-or-later
"""Schemas of messages, as installed packages declare them in the entry-point group ``fedora.messages``.

fedora-messaging loads all of them when the first message comes, and dies of one package whose files are not there.
Here only the schema that a message names is loaded, and one that cannot be had is as good as none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import jsonschema
import pika
import structlog
from fedora_messaging.message import Message as BaseMessage
from jsonschema.exceptions import best_match
from referencing import Registry

from relengq.errors import MessageFault
from relengq.messages import Message, clean

GROUP = "fedora.messages"
HEADER = "fedora_messaging_schema"
_BASE = "base.message"
_SAID = 300
"""Characters of a fault that are told."""

_log = structlog.get_logger(__name__)


class _Validator(Protocol):
    def iter_errors(self, instance: object) -> Iterable[jsonschema.ValidationError]:
        """Each way in which the value does not fit."""


@dataclass(frozen=True)
class _Schema:
    """The validators of one message class."""

    name: str
    headers: _Validator
    body: _Validator


class Schemas:
    """The schemas that are installed here. What is installed later is seen after a restart."""

    def __init__(self, found: Callable[[], Iterable[EntryPoint]] = lambda: entry_points(group=GROUP)) -> None:
        self._find = found
        self._loaded: dict[str, _Schema | None] = {}
        self._lock = threading.Lock()

    @cached_property
    def _declared(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in self._find()}

    @cached_property
    def _base(self) -> _Schema:
        return _compiled(_BASE, BaseMessage)

    def validate(self, message: Message) -> None:
        """Raise MessageFault when headers or body do not fit the schema that the message names.

        A message that names none, or one that is not installed or cannot be loaded, has only its headers checked, as
        every message of fedora-messaging must have them.
        """
        _check(self._base.headers, dict(message.headers), "the headers do not fit the schema of all messages")
        named = message.headers.get(HEADER)
        schema = self._get(named) if isinstance(named, str) else None
        if schema is not None:
            _check(schema.headers, dict(message.headers), f"the headers do not fit the schema {schema.name}")
            _check(schema.body, message.body, f"the body does not fit the schema {schema.name}")

    def _get(self, name: str) -> _Schema | None:
        point = self._declared.get(name)
        if point is None or name == _BASE:
            return None
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = _load(point)
            return self._loaded[name]


def _load(point: EntryPoint) -> _Schema | None:
    """A declared schema; None, with a line in the log, when its package does not let itself be used."""
    try:
        return _compiled(point.name, point.load())
    except (Exception, SystemExit) as error:
        package = point.dist.name if point.dist else None
        _log.warning(
            "schema.not_usable", schema=point.name, package=package, error=f"{type(error).__name__}: {error}",
            consequence="messages with this schema are not checked against it",
        )  # fmt: skip
        return None


def _compiled(name: str, cls: type[BaseMessage]) -> _Schema:
    # With properties given, making a message does not load all other schemas.
    message = cls(body={}, properties=pika.BasicProperties(headers={}))
    return _Schema(clean(name), _validator(message.headers_schema), _validator(message.body_schema))


def _validator(schema: dict[str, Any]) -> _Validator:
    """A validator that fetches nothing from anywhere. Raises SchemaError when the schema is none."""
    cls = jsonschema.validators.validator_for(schema)
    cls.check_schema(schema)
    made: _Validator = cls(schema, registry=Registry())
    return made


def _check(validator: _Validator, value: object, what: str) -> None:
    try:
        error = best_match(validator.iter_errors(value))
    except Exception as failed:  # a reference that leads nowhere, or a value that the schema's own code cannot bear
        raise MessageFault(f"{what}: {type(failed).__name__}: {clean(str(failed), _SAID)}") from None
    if error is not None:
        place = "".join(f"[{part!r}]" for part in error.absolute_path)
        raise MessageFault(f"{what}: {place + ': ' if place else ''}{clean(error.message, _SAID)}")
