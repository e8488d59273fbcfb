# SPDX-License-Identifier: GPL-3.0-or-later
"""Files with bus messages, as people get them: from datagrepper, from ``fedora-messaging record``, or written by hand.

datagrepper gives one object (``/v2/id?is_raw=true``) or ``{"raw_messages": [...]}`` (``/v2/search``, and the old
``/raw`` with ``msg``, ``msg_id`` and ``timestamp``); ``fedora-messaging record`` writes one object a line. Arrays, and
objects behind each other however they are broken into lines, are read as well. A recording in lines is read line by
line; anything else is read whole.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import BinaryIO

from relengq import messages
from relengq.documents import Json
from relengq.errors import UsageFault
from relengq.messages import Message

WHOLE_LIMIT = 256 << 20
"""Bytes of a line, and of what follows an object that goes over several lines."""
_SHOWN = 60
_GZIP = b"\x1f\x8b"
_BLANK = " \t\r\n"


def read(source: bytes | str | BinaryIO, name: str) -> Iterator[Message]:
    """The messages of a file that is called ``name``, in their order.

    Raises UsageFault, at the message in question, for what cannot be read or is no message.
    """
    if isinstance(source, str):
        source = source.encode()
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    for place, value in _values(file, name):
        yield from _messages(value, place)


def _values(file: BinaryIO, name: str) -> Iterator[tuple[str, Json]]:
    """Each JSON value of the file, and where it begins."""
    number = 0
    while line := file.readline(WHOLE_LIMIT + 1):
        number += 1
        text = _text(line, name, number)
        if not text.strip(_BLANK):
            continue
        try:
            value = _decode(text)
        except ValueError:
            yield from _whole(text, file, name, number)
            return
        except (RecursionError, MemoryError):
            raise UsageFault(f"{name}, line {number}: nested too deep.") from None
        yield f"{name}, line {number}", value


def _whole(begin: str, file: BinaryIO, name: str, first: int) -> Iterator[tuple[str, Json]]:
    """Values that do not stand one on a line, from line ``first`` to the end."""
    rest = file.read(WHOLE_LIMIT + 1)
    text = begin + _text(rest, name, first + 1)
    if text.lstrip(_BLANK).startswith("<"):
        raise UsageFault(
            f"{name}, line {first}: this is HTML, not JSON.",
            hint="Ask datagrepper for JSON: curl --header 'Accept: application/json' …",
        )
    decoder, begun, line = json.JSONDecoder(), 0, first
    while (at := _after_blanks(text, begun)) < len(text):
        line += text.count("\n", begun, at)
        place = f"{name}, line {line}"
        try:
            value, begun = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            cut = error.pos >= len(text.rstrip(_BLANK)) or error.msg.startswith("Unterminated")
            raise UsageFault(
                f"{name}, line {first + error.lineno - 1}, column {error.colno}: this is not JSON: {error.msg}.",
                hint="Was the file cut off?" if cut else None,
            ) from None
        except ValueError as error:
            raise UsageFault(f"{place}: {error}.") from None
        except (RecursionError, MemoryError):
            raise UsageFault(f"{place}: nested too deep.") from None
        yield place, value
        line += text.count("\n", at, begun)


def _decode(text: str) -> Json:
    value: Json = json.loads(text)
    return value


def _after_blanks(text: str, at: int) -> int:
    """The next place that is not blank; a comma or the separator of JSON text sequences counts as blank."""
    while at < len(text) and text[at] in f"{_BLANK},\x1e":
        at += 1
    return at


def _text(content: bytes, name: str, line: int) -> str:
    if len(content) > WHOLE_LIMIT:
        raise UsageFault(
            f"{name}, line {line}: more than the limit of {WHOLE_LIMIT >> 20} MiB that are no messages in lines.",
            hint="Write one message a line, as 'fedora-messaging record' does.",
        )
    try:
        return content.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise UsageFault(
            f"{name}, line {line}: byte {content[error.start]:#04x} is not UTF-8.",
            hint="It is compressed: zcat FILE | relengq trigger -" if content.startswith(_GZIP) else None,
        ) from None


def _messages(value: Json, place: str) -> Iterator[Message]:
    if isinstance(value, dict) and "raw_messages" in value:
        value = value["raw_messages"]
        if not isinstance(value, list):
            raise UsageFault(f"{place}: 'raw_messages' is no list.")
        place = f"{place}, raw_messages"
    if not isinstance(value, list):
        yield _message(value, place)
        return
    for at, item in enumerate(value, 1):
        yield _message(item, f"{place}, message {at}")


def _message(value: Json, place: str) -> Message:
    """One message out of an object. The old names (msg, msg_id, timestamp) are taken where the others are absent."""
    if not isinstance(value, dict):
        raise UsageFault(f"{place}: this is no message, but {_shown(value)}.", hint="A message is a JSON object.")
    topic, headers = value.get("topic"), value.get("headers")
    message_id = value["id"] if value.get("id") is not None else value.get("msg_id")
    body = "body" if "body" in value else "msg"
    missing = [key for key in ("topic", "body") if key not in value and not (key == "body" and "msg" in value)]
    if missing:
        absent = " and ".join(f"no '{key}'" for key in missing)
        raise UsageFault(f"{place}: this is no message: it has {absent}.", hint=_told(value))
    if not isinstance(topic, str) or not topic:
        raise UsageFault(f"{place}: the topic is no text but {_shown(topic)}.")
    if headers is not None and not isinstance(headers, dict):
        raise UsageFault(f"{place}: the headers are no object but {_shown(headers)}.")
    if message_id is not None and not isinstance(message_id, str):
        raise UsageFault(f"{place}: the id is no text but {_shown(message_id)}.")
    try:
        raw = json.dumps(value[body]).encode()
    except (RecursionError, MemoryError):
        raise UsageFault(f"{place}: the body is nested too deep.") from None
    known: dict[object, object] = dict((headers or {}).items())
    sent_at = _moment(value.get("timestamp"))
    if sent_at and "sent-at" not in known:
        known["sent-at"] = sent_at
    return messages.delivered(topic, message_id, known, raw)


def _moment(told: Json) -> str | None:
    """A ``timestamp`` (seconds since 1970, or already ISO 8601) as the header ``sent-at`` has it."""
    if isinstance(told, str):
        return told
    if isinstance(told, bool) or not isinstance(told, int | float):
        return None
    try:
        return datetime.fromtimestamp(told, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def _told(value: Mapping[str, Json]) -> str | None:
    """What an object says that is an answer, but not a message."""
    if isinstance(error := value.get("error"), str):
        return f"It says: {messages.clean(error, _SHOWN)}."
    return f"It has: {', '.join(messages.clean(key, _SHOWN) for key in list(value)[:8])}." if value else None


def _shown(value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
