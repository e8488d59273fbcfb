# SPDX-License-Identifier: GPL-3.0-or-later
"""Until when a play may go on: the worker puts the moment off again and again, and the guard looks at it.

A worker that stands still (stopped, frozen, swapped out) can neither renew its lease nor end its play. The guard can:
what it reads is when the lease could run out, so the play has ended before another worker begins the step again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

NAME = "until"
"""The file in the play's private directory; the guard knows the name too."""


class Lifeline:
    """Writes ``until()`` (of ``time.monotonic``) for the guard, whenever it has changed. Raises OSError at first."""

    def __init__(self, private: Path, until: Callable[[], float] | None) -> None:
        self._file = private / NAME
        self._until = until
        self._written: float | None = None
        self._descriptor = None if until is None else os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600)
        self.put_off()

    def __enter__(self) -> Lifeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def put_off(self) -> None:
        """Let the play go on until the moment that holds now."""
        if self._until is None or self._descriptor is None or (moment := self._until()) == self._written:
            return
        self._written = moment
        try:
            # In place and always as long, so that it needs no space on a disk that has become full.
            os.pwrite(self._descriptor, f"{moment:032.6f}".encode(), 0)
        except OSError:
            # No moment is better than one that nobody can put off any more: the worker itself still watches.
            with suppress(OSError):
                self._file.unlink()
