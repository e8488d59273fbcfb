# SPDX-License-Identifier: GPL-3.0-or-later
"""The forms in which a secret value shows up in output: as it is, encoded, escaped and quoted."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import yaml

SHORTEST = 3
"""Shorter values are not masked: they are in every second word, and masking them would tell them."""
_SHORTEST_LINE = 8
"""Shortest line of a value with several lines that is masked by itself."""
_SHORTEST_STABLE = 6
"""Shortest part of a value's base64 that is masked within a longer text's."""
_LONGEST_NESTED = 128
"""Longest value of which quoting within quoting is spelt out. What is longer is found with its quotes left out."""
_BASE64_LINE = 76
"""Columns at which base64(1) breaks its lines."""
_UNQUOTED = ("/", "", "!~*'()", ";,/?:@&=+$-_.!~*'()#")
"""What is left as it is in URLs: by Python's two ways, and by JavaScript's encodeURIComponent and encodeURI."""
_HEX = re.compile(r"%[0-9A-F]{2}|\\(?:u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|U[0-9A-Fa-f]{8})")
_SHELL = re.compile(r"([^\w@%+=:,./-])", re.ASCII)


def forms(value: str) -> set[str]:
    """Every text that gives the value away; none when the value is too short."""
    if len(value.strip()) < SHORTEST:
        return set()
    lines = [line.strip() for line in value.splitlines()]
    parts = [line for line in lines if len(line) >= _SHORTEST_LINE] if len(lines) > 1 else []
    found: set[str] = set()
    for whole in {value, value.strip()}:
        found.update(_nested(whole) if len(whole) <= _LONGEST_NESTED else _escaped(whole))
        found.update(*map(_of_bytes, {whole, *_json(whole)}))
    for part in parts:
        found.update(_escaped(part), _of_bytes(part))
    # Hexadecimal digits come in either case.
    for form in list(found):
        if _HEX.search(form):
            found.add(_HEX.sub(lambda digits: digits[0][:2] + digits[0][2:].lower(), _lower_percent(form)))
            found.add(_HEX.sub(lambda digits: digits[0][:2] + digits[0][2:].upper(), form))
    return {form for form in found if len(form.strip()) >= SHORTEST}


def _lower_percent(form: str) -> str:
    return re.sub(r"%[0-9A-F]{2}", lambda digits: digits[0].lower(), form)


def _nested(plain: str) -> set[str]:
    """As it is and escaped, once and twice, and all of that within JSON, as which Ansible prints whatever it has."""
    twice = _each_escaped(_each_escaped({plain}))
    return twice | {within for form in twice for within in _json(form)}


def _each_escaped(texts: set[str]) -> set[str]:
    return {form for text in texts for form in _escaped(text)}


def _escaped(plain: str) -> Iterator[str]:
    """As it is, and as JSON, Python, YAML, HTML and shells write it."""
    yield plain
    for once in _json(plain):
        yield once
        yield once.replace("/", "\\/")
        yield from _json(once)
        yield _for_html(once, "<>&")
        yield _for_html(once, "<>&'")
    yield from _python(plain)
    if plain.isprintable() and not plain.isascii():  # else it is as in JSON
        yield from (_yaml(plain, unicode=True), _yaml(plain, unicode=False))
    yield plain.replace("'", "''")
    yield from _html(plain)
    quoted = shlex.quote(plain)
    yield quoted[1:-1] if quoted.startswith("'") else quoted
    yield plain.replace("'", "'\\''")
    yield _SHELL.sub(r"\\\1", plain)
    yield re.sub(r'(["\\$`])', r"\\\1", plain)


def _json(text: str) -> Iterator[str]:
    for ascii_only in (True, False):
        yield json.dumps(text, ensure_ascii=ascii_only)[1:-1]


def _python(plain: str) -> Iterator[str]:
    """Python's literals, by themselves and within a longer text: one that has the other quote escapes this one."""
    for rest in ("", '"'):
        longer = plain + rest
        for literal in (repr(longer), ascii(longer), repr(longer.encode("utf-8", "replace"))[1:]):
            yield literal[1 : -1 - len(rest)]


def _html(plain: str) -> Iterator[str]:
    """With the names and numbers that Python, markupsafe and XML give to quotes."""
    yield html.escape(plain, quote=False)
    once = html.escape(plain)
    yield once
    yield once.replace("&#x27;", "&apos;")
    yield once.replace("&#x27;", "&#39;")
    yield once.replace("&#x27;", "&#39;").replace("&quot;", "&#34;")


def _for_html(text: str, characters: str) -> str:
    """JSON as it is written where it may stand in HTML."""
    for character in characters:
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _yaml(plain: str, *, unicode: bool) -> str:
    written = yaml.dump(plain, default_style='"', allow_unicode=unicode, width=len(plain) * 12 + 100)
    return str(written).rstrip("\n")[1:-1]


def _of_bytes(plain: str) -> Iterator[str]:
    """Quoted for URLs, and in base64 of both alphabets."""
    data = plain.encode("utf-8", "replace")
    for left in _UNQUOTED:
        yield quote(data, safe=left)
    yield quote_plus(data)
    for coded in _base64(data):
        yield coded
        yield coded.replace("+", "-").replace("/", "_")


def _base64(data: bytes) -> Iterator[str]:
    """The value's base64 by itself, and what of it is stable within a longer text (``user:password``)."""
    whole = base64.b64encode(data).decode()
    yield whole
    if len(whole) > _BASE64_LINE:
        pieces = (whole[at : at + _BASE64_LINE] for at in range(0, len(whole), _BASE64_LINE))
        yield from (piece for piece in pieces if len(piece) >= _SHORTEST_LINE)
    for before in range(3):
        coded = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        # A character of base64 has six bits: those that share bits with a neighbouring byte are left out.
        stable = coded[(0, 2, 3)[before] : len(coded) - bool((before + len(data)) % 3)]
        if len(stable) >= _SHORTEST_STABLE:
            yield stable
