# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish messages, each with the broker's confirmation.

The connection is made by the first message that is published, in the process that publishes it: a reactor that was
started before a fork would hang in the child. From then on it is kept, and made again when it goes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import jsonschema
import pika
from fedora_messaging import api, config, exceptions
from fedora_messaging.message import Message as LibraryMessage
from fedora_messaging.signals import publish_signal
from fedora_messaging.twisted.factory import FedoraMessagingFactoryV2

from relengq.bus import configuration
from relengq.bus.schemas import GROUP
from relengq.documents import Json
from relengq.errors import BusUnavailable, MessageFault, MessageRejected, SiteFault
from relengq.workflows import TOPIC_LIMIT

PACKAGE = "relengq_messages"
_BASE = "base.message"
_PUBLISH_SECONDS = 10
"""For how long the broker may take to confirm a message."""
_LONGEST_DELAY = 30
"""Seconds between two attempts to connect, at most. The library's own grow to an hour."""
_QUIET = ("fedora_messaging", "pika", "twisted")
_NAMED = ("user", "usernames"), ("group", "groups"), ("rpm", "packages")
"""Headers by which consumers filter, and the accessors that name what they are about."""


@dataclass(frozen=True)
class Outgoing:
    """A message that is to be sent. ``schema`` is None for one that has no schema of its own."""

    id: str
    topic: str
    """Without the prefix, which the configuration has."""
    body: dict[str, Json]
    severity: int
    sent_at: datetime
    schema: str | None = None


class Publisher:
    """Publishes by the configuration in a file. ``publish`` may be called by several threads at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ready = False
        self._lock = threading.Lock()
        self._confirmed: set[str] = set()
        self._classes: dict[str, type[LibraryMessage]] = {}

    def publish(self, outgoing: Outgoing) -> None:
        """Send it, and return when the broker has it in its keeping; that nobody wants it is no fault.

        Raises BusUnavailable when there is no confirmation in time, and MessageRejected when the broker does not take
        this message: then it may have been sent all the same. Raises MessageFault when it can never be sent.
        """
        self._prepare()
        message = self._made(outgoing)
        try:
            api.publish(message, timeout=_PUBLISH_SECONDS)
        except (exceptions.PublishTimeout, exceptions.ConnectionException) as error:
            raise BusUnavailable(
                f"{_broker()} did not confirm a message within {_PUBLISH_SECONDS}s ({error})"
            ) from None
        except exceptions.PublishForbidden as error:
            raise MessageRejected(f"the broker does not let this user send to {message.topic}: {error}") from None
        except exceptions.PublishReturned as error:
            raise MessageRejected(f"the broker did not take it (is a queue full?): {error}") from None
        except Exception as error:  # the library's own trouble, for instance with a connection that has just gone
            raise MessageRejected(f"{type(error).__name__}: {error}") from None
        with self._lock:
            confirmed = outgoing.id in self._confirmed
            self._confirmed.discard(outgoing.id)
        if not confirmed:
            # The library returns as if all was well when another thread's time ran out on the same lost connection.
            raise BusUnavailable(f"{_broker()} was lost before it confirmed a message")

    def _prepare(self) -> None:
        """Have the library take its configuration, once. Raises BusUnavailable while the file cannot be used."""
        with self._lock:
            if self._ready:
                return
            try:
                configuration.load(self._path)
            except SiteFault as fault:
                raise BusUnavailable(str(fault)) from None
            for name in _QUIET:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            FedoraMessagingFactoryV2.maxDelay = _LONGEST_DELAY
            publish_signal.connect(self._note)
            self._ready = True

    def _note(self, _: object, message: LibraryMessage) -> None:
        """Remember that a message was confirmed; the library calls this before ``api.publish`` returns."""
        with self._lock:
            self._confirmed.add(message.id)

    def _made(self, outgoing: Outgoing) -> LibraryMessage:
        """The library's message. Raises MessageFault when it does not fit its schema or its topic is too long."""
        cls = LibraryMessage if outgoing.schema is None else self._class(outgoing.schema)
        # With properties given, the library does not load the schemas of all packages, of which one may be broken.
        properties = pika.BasicProperties(
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
            headers={},
            message_id=outgoing.id,
            priority=config.conf["publish_priority"],
        )
        message = cls(outgoing.body, topic=outgoing.topic, properties=properties, severity=outgoing.severity)
        prefix = str(config.conf["topic_prefix"] or "").rstrip(".")
        if len(f"{prefix}.{outgoing.topic}".encode()) > TOPIC_LIMIT + (not prefix):
            raise MessageFault(f"its topic has more than {TOPIC_LIMIT} bytes with the prefix {prefix}")
        try:
            message.validate()
        except jsonschema.ValidationError as error:
            place = "".join(f"[{part!r}]" for part in error.absolute_path)
            raise MessageFault(f"it does not fit the schema {outgoing.schema}: {place} {error.message}") from None
        properties.headers.update(_headers(outgoing, message))
        return message

    def _class(self, schema: str) -> type[LibraryMessage]:
        """The class that has this schema. Raises BusUnavailable when its package is not installed."""
        if schema not in self._classes:
            try:
                (point,) = entry_points(group=GROUP, name=schema)
                self._classes[schema] = point.load()
            except (ValueError, ImportError) as error:
                raise BusUnavailable(
                    f"the schema {schema} is not installed here ({error})",
                    hint="Install relengq-messages, on each host that has a clock: pip install ./messages.",
                ) from None
        return self._classes[schema]


def _headers(outgoing: Outgoing, message: LibraryMessage) -> Mapping[str, Any]:
    """The headers that fedora-messaging's wire format asks for."""
    package = {"fedora_messaging_schema_package": PACKAGE} if outgoing.schema else {}
    return {
        "fedora_messaging_schema": outgoing.schema or _BASE,
        **package,
        "fedora_messaging_severity": outgoing.severity,
        "sent-at": outgoing.sent_at.astimezone(UTC).isoformat(timespec="seconds"),
        "priority": config.conf["publish_priority"] or 0,
        **dict.fromkeys(_about(message), True),
    }


def _about(message: LibraryMessage) -> Iterator[str]:
    for word, accessor in _NAMED:
        yield from (f"fedora_messaging_{word}_{name}" for name in getattr(message, accessor))


def _broker() -> str:
    """Where the broker is, without a password."""
    parameters = pika.URLParameters(config.conf["amqp_url"])
    exchange = config.conf["publish_exchange"]
    return f"the bus at {parameters.host}:{parameters.port} (exchange {exchange})"
