# SPDX-License-Identifier: GPL-3.0-or-later
"""What every verb is called with, and the text that may reach a terminal. Imports little, since every call pays it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, among them those that turn the direction of text around."""


@dataclass
class Options:
    """The options before the verb."""

    verbose: int = 0

    @property
    def site(self) -> Path:
        """The site's directory."""
        return Path(os.environ.get("RELENGQ_SITE") or ".").resolve()


def one_line(text: str) -> str:
    """Text from anywhere as one line that a terminal can show: no control characters, single blanks."""
    return " ".join(_CONTROL.sub(" ", text).split())


def clean(text: str) -> str:
    """Text from anywhere without control characters; blanks stay as they are."""
    return _CONTROL.sub(" ", text)


def printable(text: str) -> str:
    """Text from anywhere without control characters; newlines and tabs stay."""
    return _CONTROL.sub(lambda found: found[0] if found[0] in "\n\t" else "\N{REPLACEMENT CHARACTER}", text)


def escaped(text: str) -> str:
    """JSON text in which every control character is written as JSON's escape; only newlines stay, between values."""
    return _CONTROL.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)
