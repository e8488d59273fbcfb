# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that a process has loaded: whether one that starts now would load the same."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator

from .places import file_of, search_files

_REPLACED = " (deleted)"
"""What the kernel writes after the name of a file that runs and is not there any more."""
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
        files = (file_of(sys.modules.get(name)) for name in new)
        self.add(file for file in files if file)
        self.add(path or "." for path in sys.path)
        self.add(search_files())
        for path, replaced in _libraries():
            self.add([path])
            if replaced:
                self._early = path

    def changed(self) -> str | None:
        """A path that is not as it was, or None."""
        if self._early is not None:
            return self._early
        for path, state in self._states.items():
            if _look(path)[0] != state:
                return path
        return None


def _libraries() -> Iterator[tuple[str, bool]]:
    """The files of programs and shared libraries that run here, and whether another one has taken a file's place."""
    found = set()
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, rights, _, _, _, *name = line.rstrip("\n").split(maxsplit=5)
            if "x" in rights and name and name[0].startswith("/"):
                found.add(name[0])
    for mapped in found:
        path = mapped.removesuffix(_REPLACED)
        if path == mapped or os.path.exists(path):
            yield path, path != mapped


def _look(path: str) -> tuple[_State, int]:
    """What tells one version from another, and when the file or its place was last changed (nanoseconds)."""
    try:
        found = os.stat(path)
    except OSError:
        return None, 0
    return (found.st_mtime_ns, found.st_size, found.st_ino), found.st_ctime_ns
