# SPDX-License-Identifier: GPL-3.0-or-later
"""Lengths of time as people write them: ``30s``, ``5m``, ``1h30m``, ``2d``, ``1y`` (365 days), or seconds."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

LONGEST = 3650 * 86400
"""Seconds of the longest duration (ten years): beyond it a calendar's dates would overflow."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|[smhdwy])", re.ASCII)
_PATTERN = r"^([0-9]{1,12}(\.[0-9]{1,6})?(ms|[smhdwy]))+$"


def parse(value: object) -> float:
    """The seconds that ``value`` means; raises ValueError with a sentence for people."""
    seconds = _seconds(value)
    if not math.isfinite(seconds) or seconds < 0 or seconds > LONGEST:
        raise ValueError(f"{value!r} is not between 0 and {LONGEST // 86400}d")
    return seconds


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(min(value, LONGEST + 1))
    parts = _PART.findall(value) if isinstance(value, str) else []
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ValueError("a duration is written like 30s, 5m, 1h30m, 2d, or as a number of seconds")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _positive(value: object) -> float:
    seconds = parse(value)
    if seconds == 0:
        raise ValueError("a duration here is longer than 0")
    return seconds


def _schema(bounds: dict[str, object]) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _PATTERN},
                {"type": "number", "maximum": LONGEST, **bounds},
            ],
            "examples": ["30s", "5m", "1h30m", "2d"],
        }
    )


Duration = Annotated[float, BeforeValidator(_positive), _schema({"exclusiveMinimum": 0})]
"""A length of time longer than nothing, in seconds."""


def kept(value: object) -> float:
    """For how long something is kept, in seconds: as ``parse``, and nothing at all means 0, which is for ever."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]*\s*", value, re.ASCII):
        return parse(int(value.strip() or 0))
    return parse(value)


Kept = Annotated[float, BeforeValidator(kept), _schema({"minimum": 0})]
"""For how long something is kept, in seconds; 0: for ever."""

Pause = Annotated[float, BeforeValidator(parse), _schema({"minimum": 0})]
"""A length of time that may be nothing, in seconds."""


def human(seconds: float) -> str:
    """The duration as a person says it, in at most two units: ``0.4s``, ``42s``, ``1m30s``, ``3d4h``."""
    if seconds < 0:
        return f"-{human(-seconds)}"
    if round(seconds, 1) < 10 and round(seconds, 1) != int(seconds):
        return f"{seconds:.1f}s"
    rest = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return "".join(parts[:2]) or "0s"
