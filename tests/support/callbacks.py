# SPDX-License-Identifier: GPL-3.0-or-later
"""Callbacks for the stock consumer: a plain one, and listeners that are killed at a certain moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from fedora_messaging.message import Message as LibraryMessage

from relengq.listener import Listener
from relengq.messages import Message


def note(message: LibraryMessage) -> None:
    """What anybody's callback may be: it writes down which messages it got."""
    with Path(os.environ["NOTES"]).open("a") as file:
        file.write(f"{message.id}\n")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KilledBeforeCommit(Listener):
    """The power goes when everything is done except the commit."""

    def _commit(self, batch: Sequence[Message]) -> None:
        self._installation.database.before_commit.append(lambda _: _die())
        super()._commit(batch)


class KilledBeforeAck(Listener):
    """The power goes between the commit and the acknowledgement."""

    def take(self, batch: Sequence[Message], stale: Callable[[], bool]) -> bool:
        super().take(batch, stale)
        _die()
        return True


class Slow(Listener):
    """A commit that takes longer than the broker waits for a sign of life."""

    def _commit(self, batch: Sequence[Message]) -> None:
        print("the slow commit begins", flush=True)
        self._over.wait(float(os.environ["SLOW_SECONDS"]))
        super()._commit(batch)
