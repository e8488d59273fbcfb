# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that a process has loaded: whether one that starts now would load the same."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable

_State = tuple[int, int, int] | None


class Watched:
    """Files and directories as they were when they were added."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}
        self._modules: set[str] = set()
        self._began = time.time_ns()
        self._early: str | None = None

    def add(self, paths: Iterable[str]) -> None:
        """Watch these too. One that does not exist must not come to be."""
        for path in paths:
            if path not in self._states:
                state, changed = _look(path)
                self._states[path] = state
                if changed > self._began:
                    # It may have been read before or after.
                    self._early = path

    def add_modules(self) -> None:
        """Watch all that has been imported, and the directories where other versions of it could come to be."""
        new = sys.modules.keys() - self._modules
        self._modules |= new
        files = (getattr(sys.modules.get(name), "__file__", None) for name in new)
        self.add(file for file in files if file)
        self.add(path or "." for path in sys.path)

    def changed(self) -> str | None:
        """A path that is not as it was, or None."""
        if self._early is not None:
            return self._early
        for path, state in self._states.items():
            if _look(path)[0] != state:
                return path
        return None


def _look(path: str) -> tuple[_State, int]:
    """What tells one version from another, and when the file or its place was last changed (nanoseconds)."""
    try:
        found = os.stat(path)
    except OSError:
        return None, 0
    return (found.st_mtime_ns, found.st_size, found.st_ino), found.st_ctime_ns
