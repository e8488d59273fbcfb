# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps a process from forking while one of its threads is where a fork does harm."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class NoForks:
    """While a thread is in ``held()``, another thread that forks waits for it, for ``patience`` seconds at most.

    It does not wait for itself. What begins while a fork is made waits for that.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._reset()
        os.register_at_fork(
            before=_weakly(self._before), after_in_parent=_weakly(self._after), after_in_child=_weakly(self._reset)
        )

    def _reset(self) -> None:
        self._state = threading.Condition(threading.Lock())
        self._holders = 0
        self._own = threading.local()

    @contextmanager
    def held(self) -> Iterator[None]:
        """No other thread forks meanwhile."""
        state = self._state
        with state:
            self._holders += 1
            self._own.count = self._mine() + 1
        try:
            yield
        finally:
            # In a process that was forked within this block there is nothing to give back.
            if state is self._state:
                with state:
                    self._holders -= 1
                    self._own.count = self._mine() - 1
                    state.notify_all()

    def _mine(self) -> int:
        count: int = getattr(self._own, "count", 0)
        return count

    def _before(self) -> None:
        self._state.acquire()
        self._state.wait_for(lambda: self._holders <= self._mine(), self._patience)

    def _after(self) -> None:
        self._state.release()


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Call it as long as there is anybody to call: what is registered for forks stays so for ever."""
    found = weakref.WeakMethod(method)

    def call() -> None:
        if (there := found()) is not None:
            there()

    return call
