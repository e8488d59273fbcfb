# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ids: ten characters that sort by time and that a person can type."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: no i, l, o or u, so nothing that is misread."""
_EPOCH = datetime(2025, 1, 1, tzinfo=UTC)
_TIME_CHARACTERS = 8
_RANDOM_CHARACTERS = 2


def new_id(moment: datetime) -> str:
    """An id for a run made at ``moment``: milliseconds since 2025 in eight characters (until 2059), two random ones.

    Two runs of one millisecond may get the same id (1 in 1024); whoever inserts it tries again.
    """
    milliseconds = max(0, int((moment - _EPOCH).total_seconds() * 1000))
    return encode(milliseconds, _TIME_CHARACTERS) + "".join(secrets.choice(ALPHABET) for _ in range(_RANDOM_CHARACTERS))


def encode(number: int, width: int) -> str:
    """``number`` in base 32, filled with zeros to ``width`` characters."""
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def normal(text: str) -> str:
    """What a person typed, as an id is written: lower case, with i, l and o read as the digits they look like."""
    return text.strip().lower().translate(str.maketrans("ilo", "110"))
