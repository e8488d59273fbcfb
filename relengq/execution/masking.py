# SPDX-License-Identifier: GPL-3.0-or-later
"""Masking of secret values in whatever leaves an execution, also where a value is cut between two pieces."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

from relengq.documents import Json

MASK = "********"
_SHORTEST = 3
"""Shorter values are not masked: they are in every second word, and masking them would tell them."""
_SHORTEST_PART = 8
"""Shortest line of a value, or stable part of its base64 form, that is masked by itself."""
_BASE64_LINE = 76
"""Columns at which base64(1) breaks its lines."""


class Mask:
    """Replaces secret values in plain, base64, URL-quoted and JSON-escaped form.

    Of a value with several lines (a private key) each longer line counts as secret too, because output shows
    it indented or line by line.
    """

    def __init__(self, hidden: Iterable[str]) -> None:
        needles = {form for value in hidden if len(value.strip()) >= _SHORTEST for form in _forms(value)}
        self._needles = sorted(needles, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._needles))) if needles else None

    def text(self, text: str) -> str:
        """The text with every secret masked."""
        return self._pattern.sub(MASK, text) if self._pattern else text

    def json(self, value: Json) -> Json:
        """The value with every secret masked, in keys, strings and numbers alike."""
        if self._pattern is None or value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.json(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.json(each) for each in value]
        return MASK if str(value) in self._needles else value

    def stream(self) -> MaskedStream:
        """A masker for text that comes in pieces."""
        return MaskedStream(self)

    def split(self, text: str) -> tuple[str, str]:
        """The masked text that may go out, and the rest that could be the beginning of a secret."""
        if self._pattern is None:
            return text, ""
        cut = self._open_end(text)
        parts, last = [], 0
        for found in self._pattern.finditer(text):
            if found.start() >= cut:
                break
            parts += [text[last : found.start()], MASK]
            last = found.end()
        cut = max(cut, last)
        parts.append(text[last:cut])
        return "".join(parts), text[cut:]

    def _open_end(self, text: str) -> int:
        """Where the earliest secret begins that the end of the text cuts."""
        cut = len(text)
        for needle in self._needles:
            start = text.find(needle[0], max(0, len(text) - len(needle) + 1), cut)
            while start >= 0:
                if needle.startswith(text[start:]):
                    cut = start
                    break
                start = text.find(needle[0], start + 1, cut)
        return cut


class MaskedStream:
    """Masks a text that comes in pieces; holds back no more than what could still become a secret."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._held = ""

    def feed(self, text: str) -> str:
        """The masked text that can go out now."""
        out, self._held = self._mask.split(self._held + text)
        return out

    def end(self) -> str:
        """The masked rest, when nothing more comes."""
        rest, self._held = self._held, ""
        return self._mask.text(rest)


def _forms(value: str) -> Iterator[str]:
    lines = [line.strip() for line in value.splitlines()]
    parts = [line for line in lines if len(line) >= _SHORTEST_PART] if len(lines) > 1 else []
    for plain in {value, value.strip(), *parts}:
        yield plain
        yield json.dumps(plain)[1:-1]
        yield json.dumps(plain, ensure_ascii=False)[1:-1]
        data = plain.encode("utf-8", "replace")
        yield from {quote(data), quote(data, safe=""), quote_plus(data)}
        for coded in _base64_forms(data):
            yield coded
            yield coded.replace("+", "-").replace("/", "_")


def _base64_forms(data: bytes) -> Iterator[str]:
    """The value's base64 by itself, and what of it is stable within a longer text (``user:password``)."""
    whole = base64.b64encode(data).decode()
    yield whole
    if len(whole) > _BASE64_LINE:
        pieces = (whole[at : at + _BASE64_LINE] for at in range(0, len(whole), _BASE64_LINE))
        yield from (piece for piece in pieces if len(piece) >= _SHORTEST_PART)
    for before in range(3):
        coded = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        # A character of base64 has six bits: those that share bits with a neighbouring byte are left out.
        stable = coded[(0, 2, 3)[before] : len(coded) - bool((before + len(data)) % 3)]
        if len(stable) >= _SHORTEST_PART:
            yield stable
