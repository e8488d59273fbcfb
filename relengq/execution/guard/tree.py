# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes below this one: watch over the first of them, and end them all. Guard and reaper both do."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from .groups import Group

GRACE = 0.4
"""Seconds between SIGTERM and SIGKILL: enough to write a status or remove a lock, and well within a second."""
LAST_RESORT = 10.0
"""After so many seconds of SIGKILL nobody waits for what remains (uninterruptible sleep on a dead disk)."""
ORPHANED = signal.SIGRTMIN
"""What the kernel sends when the parent dies: not SIGTERM, which a living one sends to stop the play."""
_ABANDONED_SECONDS = 10.0
"""How long a worker that was killed together with the guard may take to be gone."""
LOOK_SECONDS = 1.0
"""How often somebody looks whether the play may go on."""
PASSED = frozenset(
    {
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGCONT,
        signal.SIGWINCH,
    }
)
WATCHED = PASSED | {signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM, ORPHANED}


def watch(child: int, over: Callable[[], bool]) -> int | None:
    """Pass signals on until the child ends (its status, see wait(2)) or the play is to be stopped (None)."""
    # Not sigtimedwait(): when the process is stopped and goes on, it may return what no signal has sent.
    signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)
    while not over():
        number = signal.sigwaitinfo(WATCHED).si_signo
        if number == ORPHANED:
            send(os.getpid(), ORPHANED)  # stays pending, for whoever asks later
        if number in (signal.SIGTERM, ORPHANED):
            return None
        if number in PASSED:
            send(child, number)
        elif number == signal.SIGCHLD and (status := reap(child)) is not None:
            return status
    return None


def orphaned() -> bool:
    """Whether the parent of this process has died."""
    return ORPHANED in signal.sigpending()


def overdue(until: str) -> bool:
    """Whether the moment has passed (monotonic, in a file) that a living worker puts off again and again."""
    with suppress(OSError, ValueError), open(until, encoding="ascii") as file:
        return time.monotonic() > float(file.read())
    return False


def end_all(child: int, status: int | None, groups: Collection[Group] = (), grace: float = GRACE) -> int | None:
    """End every descendant, politely first. Returns the child's status, None when it is not known."""
    asked: set[int] = set()
    started = time.monotonic()
    while tree := descendants():
        elapsed = time.monotonic() - started
        if elapsed > LAST_RESORT:
            break
        if elapsed > grace:
            refused = [pid for pid in tree if not send(pid, signal.SIGKILL)]
            for group in groups:
                group.kill()
            if len(refused) == len(tree) and not any(group.kills for group in groups):
                break
        for pid in set(tree) - asked:
            send(pid, signal.SIGTERM)
            send(pid, signal.SIGCONT)
            asked.add(pid)
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)
        ended = reap(child)
        status = ended if status is None else status
    ended = reap(child)
    return ended if status is None else status


def descendants() -> list[int]:
    """Every living process below this one, parents first."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []  # who has no children has no descendants: they would have been adopted
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The name in parentheses may hold anything; state and parent follow its last parenthesis.
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state not in b"ZX":
                    children.setdefault(int(parent), []).append(int(name))
    tree = list(children.get(os.getpid(), ()))
    for pid in tree:
        tree.extend(children.get(pid, ()))
    return tree


def reap(child: int) -> int | None:
    """Collect all that ended; the child's status when it is among them."""
    found = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid == child:
                found = status
    return found


def send(pid: int, number: int) -> bool:
    """Send a signal; False when that is not allowed. A process that is already gone is fine."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def remove_unheld(directory: str) -> None:
    """Remove a play's private directory as soon as its worker, which holds a lock on it while it lives, has gone."""
    descriptor = os.open(directory, os.O_RDONLY)
    deadline = time.monotonic() + _ABANDONED_SECONDS
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(directory)
            return
        time.sleep(0.02)


def remove(directory: str) -> None:
    """Remove a directory and all in it; what cannot be removed stays."""
    for parent, directories, files in os.walk(directory, topdown=False):
        for name in [*files, *directories]:
            path = os.path.join(parent, name)
            with suppress(OSError):
                (os.rmdir if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)
    with suppress(OSError):
        os.rmdir(directory)
