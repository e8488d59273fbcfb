# SPDX-License-Identifier: GPL-3.0-or-later
"""What a process takes over from the one that starts it, as words that the two can compare.

A ``sitecustomize``, say, may change it while Python starts. That would be done again for each play, which is told apart
from what the worker has only where both are known.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
from collections.abc import Iterable

_PYTHONS = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Signals that Python ignores itself, and what it starts does not."""
_GLIBCS = frozenset({32, 33})
"""Signals that glibc keeps for its threads."""
_FATAL = frozenset({signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL})


def inherited() -> dict[str, str]:
    """The state of this thread, by the names that people have for its parts. Raises OSError."""
    status = _status()
    return {
        "umask": status.get("Umask", ""),
        "limits": " ".join(f"{name}={soft}:{hard}" for name, soft, hard in _limits()),
        "niceness": str(os.getpriority(os.PRIO_PROCESS, 0)),
        "processors": status.get("Cpus_allowed_list", ""),
        "ignored signals": _numbers(_signals(status["SigIgn"]) - _PYTHONS),
        "blocked signals": _numbers(_signals(status["SigBlk"])),
    }


def touched() -> set[int]:
    """The signals that would do something else in a Python that has just started. Raises OSError.

    Not those that are ignored, unless Python handles them; and not those for which faulthandler is there.
    """
    found = _signals(_status()["SigCgt"]) - _GLIBCS - faults()
    found.discard(signal.SIGINT)
    if signal.getsignal(signal.SIGINT) not in (signal.default_int_handler, signal.SIG_IGN):
        found.add(signal.SIGINT)
    return found | {number for number in _PYTHONS if signal.getsignal(number) is not signal.SIG_IGN}


def faults() -> frozenset[int]:
    """The signals for which faulthandler has handlers, as with PYTHONFAULTHANDLER."""
    return _FATAL if faulthandler.is_enabled() else frozenset()


def _status() -> dict[str, str]:
    """Of this thread: the mask of signals is its own (see proc(5))."""
    with open("/proc/thread-self/status", encoding="utf-8", errors="replace") as file:
        pairs = (line.split(":", 1) for line in file if ":" in line)
        return {name: value.strip() for name, value in pairs}


def _limits() -> list[tuple[str, int, int]]:
    return sorted(
        (name.removeprefix("RLIMIT_"), *resource.getrlimit(number))
        for name, number in vars(resource).items()
        if name.startswith("RLIMIT_") and isinstance(number, int)
    )


def _signals(mask: str) -> set[int]:
    bits = int(mask, 16)
    return {number for number in range(1, signal.NSIG) if bits >> (number - 1) & 1}


def _numbers(found: Iterable[int]) -> str:
    return ",".join(map(str, sorted(found)))
