# SPDX-License-Identifier: GPL-3.0-or-later
"""Providers of secrets that are installed beside relengq.

A provider is a callable under an entry point of the group ``relengq.secret_providers``::

    [project.entry-points."relengq.secret_providers"]
    safe = "acme_safe:from_safe"

A pool names it, ``TOKEN: {provider: safe, options: {item: koji}}``, and each attempt that needs the secret calls
``from_safe("TOKEN", {"item": "koji"})``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Protocol

from relengq.documents import Json
from relengq.errors import SecretFault
from relengq.secrets.finding import Missing, sound

GROUP = "relengq.secret_providers"
_SECONDS = 30.0
"""How long a provider may take: the attempt can be neither cancelled nor timed out meanwhile."""


class Provider(Protocol):
    """Finds a secret. It may be called in any thread, in many processes at once."""

    def __call__(self, name: str, options: Mapping[str, Json]) -> str:
        """The secret of this name. ``options`` are those of the pool's file.

        Raises SecretFault with a sentence for people, which must not have a value in it. Of any other exception
        only the type is told, because its text might.
        """


def provided(name: str, provider: str, options: Mapping[str, Json]) -> str:
    """What an installed provider says. Raises Missing."""
    called = _load(provider)
    answers: list[object] = []

    def call() -> None:
        try:
            answers.append(called(name, options))
        except BaseException as error:  # else the thread would tell the log of it, with the text
            answers.append(error)

    thread = threading.Thread(target=call, name="secret-provider", daemon=True)
    thread.start()
    thread.join(_SECONDS)
    if not answers:
        raise Missing(f"the provider '{provider}' has not answered within {_SECONDS:g} seconds")
    answer = answers[0]
    if isinstance(answer, str):
        return sound(answer.encode("utf-8", "surrogatepass"))
    if isinstance(answer, SecretFault):
        raise Missing(f"the provider '{provider}' says: {str(answer).rstrip('.')}")
    if isinstance(answer, BaseException):
        raise Missing(f"the provider '{provider}' failed with {type(answer).__name__}")
    raise Missing(f"the provider '{provider}' gave no text but {type(answer).__name__}")


def _load(provider: str) -> Provider:
    found = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    for point in found:
        if point.name == provider:
            try:
                loaded: Provider = point.load()
            except (Exception, SystemExit) as error:
                raise Missing(f"the provider '{provider}' cannot be loaded: {type(error).__name__}") from None
            return loaded
    names = ", ".join(dict.fromkeys(point.name for point in found)) or "none"
    raise Missing(f"the provider '{provider}' is not installed on this worker (installed: {names})")
