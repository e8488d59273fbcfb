# SPDX-License-Identifier: GPL-3.0-or-later
"""Header tables that pika cannot decode.

A float that is no number, a time after the year 9999 or a table nested too deep raises in pika, inside the reactor:
the connection dies, the message comes back at the next one, and so on for ever. Here such a message arrives all the
same, without the headers that cannot be had and with one more that says so.
"""

from __future__ import annotations

import struct
from functools import wraps

from pika import data, spec

MARKER = "relengq-undecodable"
"""The header that names what could not be decoded."""
_NUMBERS = {b"f": (">f", 4), b"d": (">d", 8), b"T": (">Q", 8)}
"""Kinds that have values which pika cannot take, though they are well-formed."""
_SIZED = (b"F", b"A")
"""Kinds that say how long they are: tables and arrays."""
_HEADERS = spec.BasicProperties.FLAG_HEADERS
_TEXTS = (spec.BasicProperties.FLAG_CONTENT_TYPE, spec.BasicProperties.FLAG_CONTENT_ENCODING)


def tolerate() -> None:
    """Have pika decode the properties of messages leniently, in this process."""
    strict = spec.BasicProperties.decode
    if getattr(strict, "lenient", False):
        return

    @wraps(strict)
    def decode(self: spec.BasicProperties, encoded: bytes, offset: int = 0) -> spec.BasicProperties:
        try:
            return strict(self, encoded, offset)
        except Exception:
            start, end = _table(encoded, offset)
            strict(self, encoded[offset:start] + bytes(4) + encoded[end:])
            self.headers = lenient(encoded[start + 4 : end])
            return self

    decode.lenient = True  # type: ignore[attr-defined]
    spec.BasicProperties.decode = decode


def lenient(table: bytes) -> dict[str | bytes, object]:
    """The entries of a header table (without its length) that can be had, and the marker when others cannot."""
    found: dict[str | bytes, object] = {}
    lost: list[str] = []
    offset = 0
    while offset < len(table):
        key, offset = data.decode_short_string(table, offset)
        try:
            found[key], offset = data.decode_value(table, offset)
        except Exception:
            kind, offset = table[offset : offset + 1], offset + 1
            if kind in _NUMBERS:
                form, size = _NUMBERS[kind]
                found[key] = str(struct.unpack_from(form, table, offset)[0])
                offset += size
                continue
            lost.append(repr(key))
            if kind not in _SIZED:
                break  # where the next entry begins is not known
            offset += 4 + struct.unpack_from(">I", table, offset)[0]
    return found | {MARKER: ", ".join(lost)} if lost else found


def _table(encoded: bytes, offset: int) -> tuple[int, int]:
    """Where the header table begins, with its length, and where it ends. Raises when there is none."""
    flags = struct.unpack_from(">H", encoded, offset)[0]
    offset += 2
    if not flags & _HEADERS or flags & 1:
        raise ValueError("these properties have no header table that could be left out")
    for flag in _TEXTS:
        if flags & flag:
            _, offset = data.decode_short_string(encoded, offset)
    size = struct.unpack_from(">I", encoded, offset)[0]
    return offset, offset + 4 + size
