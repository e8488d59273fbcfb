# SPDX-License-Identifier: GPL-3.0-or-later
"""How RPM orders versions, and when a provide answers a requirement.

The rules are those of rpm's own ``rpmvercmp`` and ``rpmdsCompare`` (rpm-version(7), rpm's rpmver.c).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SEGMENT = re.compile(r"~|\^|[0-9]+|[a-zA-Z]+")
_END = (0,)
_SENSES = {"EQ": "=", "LT": "<", "GT": ">", "LE": "<=", "GE": ">="}


def version_key(version: str) -> tuple[tuple, ...]:
    """A key that sorts version (or release) strings as rpm does.

    What may stand at a place, lowest first: a tilde, the end, a caret, letters, a number.
    """
    return (*map(_segment_key, _SEGMENT.findall(version)), _END)


def _segment_key(segment: str) -> tuple:
    if segment == "~":
        return (-1,)
    if segment == "^":
        return (1,)
    if segment[0].isdigit():
        digits = segment.lstrip("0")
        return (3, len(digits), digits)
    return (2, segment)


class Evr(NamedTuple):
    """Epoch, version and release; a release of None in a dependency means any."""

    epoch: str | None
    version: str
    release: str | None

    @classmethod
    def parse(cls, text: str) -> Evr:
        """Read ``[epoch:]version[-release]``."""
        epoch, colon, rest = text.rpartition(":")
        version, dash, release = rest.partition("-")
        return cls(epoch if colon else None, version, release if dash else None)

    @property
    def key(self) -> tuple:
        """Sorts as rpm sorts packages of one name."""
        return (int(self.epoch or 0), version_key(self.version), version_key(self.release or ""))

    def __str__(self) -> str:
        text = self.version if self.release is None else f"{self.version}-{self.release}"
        return text if self.epoch in (None, "", "0") else f"{self.epoch}:{text}"


class Range(NamedTuple):
    """What versions a dependency means: a sense (``<``, ``<=``, ``=``, ``>=``, ``>``) and an EVR. ANY has none."""

    sense: str
    evr: Evr | None

    @classmethod
    def of(cls, flags: str | None, epoch: str | None, version: str | None, release: str | None) -> Range:
        """From a dependency as createrepo_c gives it."""
        if not flags or version is None:
            return ANY
        return cls(_SENSES[flags], Evr(epoch, version, release))

    def overlaps(self, other: Range) -> bool:
        """Whether some version lies in both; a side without a version overlaps all."""
        if self.evr is None or other.evr is None:
            return True
        mine, theirs = self.evr.key, other.evr.key
        if self.evr.release is None or other.evr.release is None:
            mine, theirs = mine[:2], theirs[:2]
        if mine < theirs:
            return ">" in self.sense or "<" in other.sense
        if mine > theirs:
            return "<" in self.sense or ">" in other.sense
        return bool(set(self.sense) & set(other.sense))

    def __str__(self) -> str:
        return f" {self.sense} {self.evr}" if self.evr else ""


ANY = Range("", None)
