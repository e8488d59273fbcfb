# SPDX-License-Identifier: GPL-3.0-or-later
"""Bus messages as relengq sees them: an id, a topic, headers, and a body that is read only when somebody asks for it.

Whatever comes from the bus is hostile until checked. Making a Message never fails; reading its body may.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from encodings.aliases import aliases
from functools import cached_property
from typing import NoReturn

from relengq.documents import Json
from relengq.errors import MessageFault
from relengq.storable import is_storable, storable

BODY_LIMIT = 64 << 20
"""Bytes of a body that is read at all."""
NESTING_LIMIT = 100
"""How deep a body may be nested: what expressions make of it is stored, and they have the same limit."""
_ID_CHARACTERS = 255
_TOPIC_CHARACTERS = 255
_HEADERS_LIMIT = 1000
_TEXT_LIMIT = 10_000
_WORD = re.compile("[a-z0-9]+")
_CODECS = frozenset(
    ("ascii", "latin_1", "utf_8", "utf_8_sig", "utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le")
)
"""Python's codecs that a body is read with. Of others, some need hours for what may be sent (punycode)."""


@dataclass(frozen=True)
class Message:
    """One message. ``raw`` is the body as it came; ``encoding`` what the sender says it is in."""

    id: str
    topic: str
    headers: dict[str, Json] = field(default_factory=dict)
    raw: bytes = b"{}"
    encoding: str = "utf-8"

    @property
    def body(self) -> dict[str, Json]:
        """The body. Raises MessageFault when it is no JSON object in its encoding, too large, or nested too deep."""
        if isinstance(self._read, str):
            raise MessageFault(self._read)
        return self._read

    @cached_property
    def _read(self) -> dict[str, Json] | str:
        """The body, or the sentence that says why there is none: whoever asks, it is read once."""
        try:
            return _object(self.raw, self.encoding)
        except MessageFault as fault:
            return fault.message

    @property
    def sent_at(self) -> datetime | None:
        """When the sender says that it was sent, or None when it does not say so in ISO 8601."""
        told = self.headers.get("sent-at")
        try:
            moment = datetime.fromisoformat(told) if isinstance(told, str) else None
        except ValueError:
            return None
        if moment is None or not 1 < moment.year < 9999:
            return None  # in another time zone it may be no date at all
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment

    def context(self) -> dict[str, Json]:
        """What expressions see of it: ``msg``, ``topic``, ``headers``, ``id`` and ``sent_at``. Raises MessageFault."""
        sent_at = self.sent_at
        return {
            "msg": self.body,
            "topic": self.topic,
            "headers": self.headers,
            "id": self.id,
            "sent_at": sent_at.isoformat() if sent_at else None,
        }


def delivered(
    topic: object, message_id: object, headers: Mapping[object, object] | None, raw: bytes, encoding: object = None
) -> Message:
    """A message as a broker delivers it, with anything at all in its properties.

    One without a usable id gets one made of its content, so that a second delivery of it can be recognised.
    """
    plain_topic = clean(topic, _TOPIC_CHARACTERS)
    plain_headers = {
        clean(key, _ID_CHARACTERS): _plain(value, NESTING_LIMIT // 10)
        for key, value in list((headers or {}).items())[:_HEADERS_LIMIT]
    }
    usable = isinstance(message_id, str) and 0 < len(message_id) <= _ID_CHARACTERS and is_storable(message_id)
    own = str(message_id) if usable else _made_of(plain_topic, plain_headers, raw)
    return Message(
        own, plain_topic, plain_headers, raw, encoding if isinstance(encoding, str) and encoding else "utf-8"
    )


def clean(value: object, limit: int = _TEXT_LIMIT) -> str:
    """The value as text that every database keeps, cut to ``limit`` characters."""
    text = (
        value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else str(value)
    )
    return storable(text[:limit])


def _object(raw: bytes, encoding: str) -> dict[str, Json]:
    """The object that a body is. Raises MessageFault."""
    if len(raw) > BODY_LIMIT:
        raise MessageFault(f"the body has {len(raw)} bytes; the limit is {BODY_LIMIT}")
    codec = _ENCODINGS.get(_spelled(encoding))
    if codec is None:
        raise MessageFault(f"the body's encoding '{encoding[:60]}' is none of UTF-8, UTF-16, UTF-32, ASCII and Latin-1")
    try:
        value = json.loads(raw.decode(codec), parse_constant=_no_constant)
    except UnicodeError:
        raise MessageFault(f"the body is not text in {encoding[:60]}") from None
    except ValueError as error:
        raise MessageFault(f"the body is not JSON: {str(error)[:200]}") from None
    except (RecursionError, MemoryError):
        raise MessageFault(f"the body is nested deeper than the limit of {NESTING_LIMIT}") from None
    if not isinstance(value, dict):
        raise MessageFault(f"the body is {_kind(value)}, not an object")
    if _deeper(value, NESTING_LIMIT):
        raise MessageFault(f"the body is nested deeper than the limit of {NESTING_LIMIT}")
    return value


def _spelled(encoding: str) -> str:
    """The name of an encoding, which people spell in many ways, in one."""
    return "_".join(_WORD.findall(encoding.lower()))


# Not Python's own look-up: it remembers every name that it is asked for, and a sender may make up any number.
_ENCODINGS = {_spelled(name): codec for name, codec in aliases.items() if codec in _CODECS}
_ENCODINGS |= {codec: codec for codec in _CODECS}


def _plain(value: object, depth: int) -> Json:
    """A header's value as JSON; what AMQP has beyond that (bytes, decimals, times) as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else str(value)
    if isinstance(value, Mapping) and depth:
        return {
            clean(key, _ID_CHARACTERS): _plain(item, depth - 1) for key, item in list(value.items())[:_HEADERS_LIMIT]
        }
    if isinstance(value, list | tuple) and depth:
        return [_plain(item, depth - 1) for item in value[:_HEADERS_LIMIT]]
    return clean(value)


def _made_of(topic: str, headers: Mapping[str, Json], raw: bytes) -> str:
    sent_at = headers.get("sent-at")
    return "sha256:" + hashlib.sha256(b"\0".join((topic.encode(), str(sent_at).encode(), raw))).hexdigest()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")


def _kind(value: Json) -> str:
    if value is None:
        return "null"
    return (
        "an array" if isinstance(value, list) else f"the {'text' if isinstance(value, str) else 'value'} {value!r:.60}"
    )


def _deeper(value: Json, limit: int) -> bool:
    """Whether lists and objects are nested deeper than the limit. Without recursion, since the depth is not known."""
    level: list[Json] = [value]
    for _ in range(limit):
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True
