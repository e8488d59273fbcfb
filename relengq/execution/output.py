# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes ansible-runner's event marks out of the output of ansible-playbook, as a stream and in constant
memory.

ansible-runner's callback puts a mark before and after what it prints for an event: ``ESC[K``, base64 in
pieces each followed by ``ESC[nD``, and ``ESC[K``. The base64 is ``{"uuid": …}`` (the event itself lies in a
file) or ``{}``. The format is that of ``EventContext.dump`` in ansible_runner's ``awx_display.py``.
Everything else is output.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

_EDGE = b"\x1b[K"
_PIECE = rb"[A-Za-z0-9+/=]{1,78}\x1b\[\d{1,2}D"
_MARK = re.compile(rb"\x1b\[K((?:" + _PIECE + rb")+)\x1b\[K")
_BEGUN = re.compile(rb"\x1b\[K(?:" + _PIECE + rb")*(?:[A-Za-z0-9+/=]{1,78})?(?:\x1b(?:\[(?:\d{0,2}|K)?)?)?\Z")
_LONGEST_MARK = 2048
"""Longer ones are not ansible-runner's, which has nothing but an identifier in them."""
_IDENTIFIER = re.compile(r"[0-9A-Za-z_-]{1,100}")


@dataclass(frozen=True)
class Mark:
    """The event of this identifier happened here in the output."""

    uuid: str


class Splitter:
    """Splits bytes that come in pieces into text and marks. Bytes that are not UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._held = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> Iterator[str | Mark]:
        """What this piece completes, in order."""
        data = self._held + data
        begin, end = 0, len(data)
        edge = data.find(_EDGE)
        while edge >= 0:
            found = _MARK.match(data, edge)
            if found and (mark := _read(found[1])) is not None:
                yield from self._text(data[begin:edge])
                yield from _event(mark)
                begin = found.end()
                edge = data.find(_EDGE, begin)
            elif len(data) - edge <= _LONGEST_MARK and _BEGUN.match(data, edge):
                end = edge
                break
            else:
                edge = data.find(_EDGE, edge + 1)
        if end == len(data):
            end -= next((size for size in (2, 1) if data.endswith(_EDGE[:size], begin)), 0)
        self._held = data[end:]
        yield from self._text(data[begin:end])

    def end(self) -> Iterator[str | Mark]:
        """The rest, when nothing more comes."""
        held, self._held = self._held, b""
        if text := self._decoder.decode(held, final=True):
            yield text

    def _text(self, data: bytes) -> Iterator[str]:
        if data and (text := self._decoder.decode(data)):
            yield text


def _read(pieces: bytes) -> dict[str, object] | None:
    try:
        mark = json.loads(base64.b64decode(re.sub(rb"\x1b\[\d+D", b"", pieces), validate=True))
    except (ValueError, binascii.Error):
        return None
    return mark if isinstance(mark, dict) else None


def _event(mark: dict[str, object]) -> Iterator[Mark]:
    uuid = mark.get("uuid")
    if isinstance(uuid, str) and _IDENTIFIER.fullmatch(uuid):
        yield Mark(uuid)
