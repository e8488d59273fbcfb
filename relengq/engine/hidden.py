# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be masked of one attempt: secrets, what is inside of them, and what expressions make of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from relengq.documents import Json
from relengq.execution import Mask
from relengq.expressions import Path

_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "none", "null"})
"""Words that are in every second line of output, and tell nothing."""


class Hidden:
    """The texts to mask in whatever leaves an attempt; they grow while secrets are found and expressions rendered.

    Of what is derived from a secret, texts count: neither numbers, nor words such as "true", nor a text that is the
    value of an input that is no secret.
    """

    def __init__(self, shown: Mapping[str, Json], inputs: Mapping[str, Json]) -> None:
        """Begin with the run's inputs: as they are shown, and the values of the secret ones."""
        self._inputs = frozenset(inputs)
        self._open = {text for name, value in shown.items() if name not in inputs for text in texts(value)}
        self._texts: dict[str, None] = {}
        self._take(leaves(inputs))

    def secrets(self, values: Iterable[str]) -> None:
        """Hide secrets of the pool."""
        self._take(values)

    def rendered(self, reads: Iterable[Path], value: Json) -> None:
        """Hide what an expression has given, when it reads a secret."""
        if any(self._secret(path) for path in reads):
            self._derived(texts(value))

    @property
    def values(self) -> tuple[str, ...]:
        """All that is known so far, the secrets themselves first."""
        return tuple(self._texts)

    def mask(self) -> Mask:
        """A mask for all that is known so far."""
        return Mask(self._texts)

    def _take(self, values: Iterable[str]) -> None:
        whole = list(values)
        self._texts |= dict.fromkeys(whole)
        for value in whole:
            self._derived(_inside(value))

    def _derived(self, found: Iterable[str]) -> None:
        self._texts |= {text: None for text in found if text not in self._open and text.lower() not in _WORDS}

    def _secret(self, path: Path) -> bool:
        """Whether what stands under this name is a secret or has one in it."""
        if path[0] == "inputs":
            return bool(self._inputs) and (len(path) == 1 or path[1] in self._inputs)
        return path[0] == "secrets"


def _inside(secret: str) -> Iterator[str]:
    """The texts in a secret that is a JSON object or array."""
    if secret.lstrip()[:1] not in ("{", "["):
        return
    try:
        value: Json = json.loads(secret)
    except (ValueError, RecursionError):
        return
    yield from texts(value)


def texts(value: Json) -> Iterator[str]:
    """Every text in a value."""
    return (each for each in _leaves(value) if isinstance(each, str))


def leaves(values: Mapping[str, Json]) -> tuple[str, ...]:
    """Every text and number in secret inputs, as a text."""
    found = _leaves(dict(values))
    return tuple(str(value) for value in found if value is not None and not isinstance(value, bool))


def _leaves(whole: Json) -> Iterator[Json]:
    rest: list[Json] = [whole]
    while rest:
        value = rest.pop()
        if isinstance(value, list):
            rest += value
        elif isinstance(value, dict):
            rest += value.values()
        else:
            yield value
