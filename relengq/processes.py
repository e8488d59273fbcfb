# SPDX-License-Identifier: GPL-3.0-or-later
"""Child processes that do not outlive this one, even when it is killed with SIGKILL.

Linux sends a process the signal that it asked for when its parent dies (prctl(2), PR_SET_PDEATHSIG). Two
things in that page matter here: the parent is the *thread* that forked, so children are started from
threads that last; and the wish survives execve(2), so a small Python of its own asks and then becomes the
program. (``preexec_fn`` would run Python code after a fork in a process that has threads: it can
deadlock, and warns since Python 3.12.)

Run as a file, this module is that small Python; it therefore imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Have the kernel send ``signum`` to this process when its parent ends (on Linux only)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)


def bound(argv: Sequence[str], signum: int = signal.SIGKILL) -> list[str]:
    """The command line that runs ``argv``, whose program PATH has, and ends it when this process ends.

    The child keeps its process id, so the caller's Popen is the program's own.
    """
    return [sys.executable, "-I", "-S", __file__, str(int(signum)), str(os.getpid()), *argv]


def _become(signum: int, parent: int, argv: list[str]) -> None:
    die_with_parent(signum)
    if os.getppid() != parent:
        # The parent died before the wish was made.
        sys.exit(128 + signum)
    try:
        os.execvp(argv[0], argv)  # noqa: S606
    except OSError as error:
        sys.exit(f"{argv[0]}: {error.strerror}")


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
