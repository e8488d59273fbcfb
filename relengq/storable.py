# SPDX-License-Identifier: GPL-3.0-or-later
"""Text that every database takes. PostgreSQL has no NUL in text and JSON, and no half of a surrogate pair."""

from __future__ import annotations

import re

from pydantic import JsonValue as Json

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_REFUSED = re.compile("[\0\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Whether every database keeps the text as it is."""
    return _REFUSED.search(text) is None


def storable(text: str) -> str:
    """The text without what PostgreSQL refuses; each such character becomes U+FFFD."""
    return _REFUSED.sub(_REPLACEMENT, text)


def storable_json(value: Json) -> Json:
    """The value with every string and key storable."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable(key): storable_json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [storable_json(each) for each in value]
    return value
