# SPDX-License-Identifier: GPL-3.0-or-later
"""The reaper: starts what is guarded, and adopts and ends whatever descends from it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios
from collections.abc import Callable, Collection
from contextlib import suppress

from . import kernel, tree
from .groups import Group
from .mounts import own_proc

READY = b"+"
"""What the reaper tells the guard first, unless it cannot do its work here; its child's status follows."""


class Reaper:
    """One play's reaper, from its fork on; ``inside`` a PID namespace as its process 1."""

    def __init__(self, *, inside: bool, private: str, groups: Collection[Group], what: Callable[[], None]) -> None:
        self._inside = inside
        self._private = private
        self._groups = groups
        self._what = what

    def serve(self, writer: int, mask: Collection[int]) -> None:
        """Do all of it and end this process."""
        try:
            kernel.signal_at_parents_death(signal.SIGKILL if self._inside else tree.ORPHANED)
            if _closed(writer):
                return
            if self._inside:
                own_proc()
            else:
                kernel.adopt_orphans()
            os.write(writer, READY)
            child = os.fork()
            if not child:
                os.close(writer)
                self._start(mask)
            status = tree.watch(child, self._overdue)
            status = tree.end_all(child, status, self._groups)
            if tree.orphaned():
                self._clear()
            else:
                os.write(writer, b"" if status is None else str(status).encode())
        except OSError:
            # The guard sees that nothing was told; when it has gone, nobody has to be told anything.
            return
        finally:
            os._exit(0)

    def _overdue(self) -> bool:
        return tree.overdue(os.path.join(self._private, "until"))

    def _start(self, mask: Collection[int]) -> None:
        """In the child: be what is guarded, with everything as the guard inherited it."""
        parent = 1 if self._inside else os.getppid()
        try:
            os.setsid()
            with suppress(OSError):
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            kernel.signal_at_parents_death(signal.SIGKILL)
            if os.getppid() != parent:
                return
            for group in self._groups:
                if not group.join():
                    os.write(2, f"ERROR! The control group {group.directory} cannot be joined.\n".encode())
                    return
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._what()
        finally:
            os._exit(127)

    def _clear(self) -> None:
        """The guard was killed: do what it would have done, unless the worker lives and does it."""
        # Whoever waits for this process to end the play need not wait any longer.
        os.unlink(os.path.join(self._private, "guard.pid"))
        for group in self._groups:
            group.remove()
        tree.remove_unheld(self._private)


def _closed(writer: int) -> bool:
    """Whether nobody reads any more: the guard died before this process asked for a signal at its death."""
    poll = select.poll()
    poll.register(writer, 0)
    return bool(poll.poll(0))
