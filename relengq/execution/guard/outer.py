# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard itself, between the worker and the reaper. It knows how to guard; what is guarded is a callable."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import termios
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from . import kernel, memory, tree
from .groups import PREFIX, Group
from .plan import Plan
from .reaper import READY, Reaper

_REAPER_SECONDS = tree.GRACE + 1.0
"""How long a reaper that was asked to end everything is waited for before it is killed."""


class Worker:
    """Whom the play is for: the process that started this one. The play ends when it dies."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def watch(self) -> None:
        """From now on, have this process get ``tree.ORPHANED`` when the worker dies."""
        kernel.signal_at_parents_death(tree.ORPHANED)

    def lives(self) -> bool:
        """Whether it has not died yet."""
        return os.getppid() == self._pid

    def clear(self, private: str) -> None:
        """Do what it would have done: remove the play's private directory."""
        # Its threads die one by one: with a short tree the worker may still be there when all else is gone.
        tree.remove(private)

    def leave(self) -> None:
        """In a process that the guard started: hold nothing by which the guard is known to the worker."""


def guarded(worker: Worker, private: str, plan: Plan, what: Callable[[], None]) -> int:
    """Call ``what`` in a process of its own, under guard, to its end. Returns its wait status (see wait(2)).

    ``private`` is the play's directory. The calling process is the guard, and has one thread.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, tree.WATCHED)
    kernel.adopt_orphans()
    worker.watch()
    if not worker.lives():
        worker.clear(private)
        return 0
    leave_terminal()
    guard = _Guard(worker, private, plan)
    guard.start(what, mask)
    status = guard.watch()
    guard.close()
    if not worker.lives() or tree.orphaned():
        worker.clear(private)
    return status


class _Guard:
    """The guard's part of one play."""

    def __init__(self, worker: Worker, private: str, plan: Plan) -> None:
        self._worker = worker
        self._private = private
        self._plan = plan
        self._until = os.path.join(private, "until")
        self._limits: Group | None = None
        self._groups = self._make_groups()
        self._exceeded = False

    def _make_groups(self) -> list[Group]:
        """The control groups of the play, as far as they can be made."""
        plan, name = self._plan, PREFIX + os.path.basename(self._private)
        wanted = dict.fromkeys(each for each in (plan.group, plan.memory_group) if each is not None)
        if wanted:
            note(self._private, "groups", "".join(f"{directory}/{name}\n" for directory in wanted))
        made = []
        for directory in wanted:
            group = Group(f"{directory}/{name}")
            if not group.make():
                continue
            made.append(group)
            if plan.limit is not None and directory == plan.memory_group and group.limit(plan.limit):
                self._limits = group
        return made

    def start(self, what: Callable[[], None], mask: Collection[int]) -> None:
        """Start the reaper, in a PID namespace if that is wanted and works, and tell the worker whom to signal."""
        if not (self._plan.namespace and self._start_inside(what, mask)):
            self._fork(what, mask)
        note(self._private, "guard.pid", f"{os.getpid()} {self._reaper}")

    def _start_inside(self, what: Callable[[], None], mask: Collection[int]) -> bool:
        try:
            back = kernel.new_pid_namespace()
        except OSError:
            return False
        if self._fork(what, mask, back):
            os.close(back)
            return True
        os.waitpid(self._reaper, 0)
        os.close(self._reader)
        kernel.back_to_pid_namespace(back)
        return False

    def _fork(self, what: Callable[[], None], mask: Collection[int], back: int | None = None) -> bool:
        """Whether the reaper has begun its work, inside the PID namespace from which there is a way ``back``."""
        self._reader, writer = os.pipe()
        self._reaper = os.fork()
        if not self._reaper:
            os.close(self._reader)
            if back is not None:
                os.close(back)
            self._worker.leave()
            Reaper(inside=back is not None, private=self._private, groups=self._groups, what=what).serve(writer, mask)
        os.close(writer)
        return os.read(self._reader, len(READY)) == READY

    def watch(self) -> int:
        """Wait for the end of the play, or bring it about. Returns the status of what was guarded."""
        if tree.watch(self._reaper, self._over) is None:
            tree.send(self._reaper, signal.SIGTERM)
            if not self._ends_within(_REAPER_SECONDS):
                tree.send(self._reaper, signal.SIGKILL)
                self._ends_within(tree.LAST_RESORT)
        tree.end_all(self._reaper, 0, self._groups, grace=0)
        told = os.read(self._reader, 100) if _readable(self._reader) else b""
        return int(told) if told else signal.SIGKILL

    def close(self) -> None:
        """Say whether memory was the reason, and remove the groups."""
        if self._exceeded or (self._limits is not None and self._limits.exceeded()):
            with suppress(OSError):
                note(self._private, "memory", "")
        for group in self._groups:
            group.remove()

    def _over(self) -> bool:
        limit = self._plan.limit
        if self._limits is not None:
            self._exceeded = self._limits.exceeded()
        elif limit is not None:
            self._exceeded = memory.more_than(limit, tree.descendants())
        return self._exceeded or tree.overdue(self._until)

    def _ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while tree.reap(self._reaper) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            signal.sigtimedwait({signal.SIGCHLD}, left)
        return True


def note(private: str, name: str, text: str) -> None:
    """Leave a file for the worker, whole or not at all. Raises OSError."""
    path = os.path.join(private, name)
    with open(f"{path}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.rename(f"{path}.new", path)


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def leave_terminal() -> None:
    """Give the terminal up for the command's session to take, and leave the worker's process group."""
    if os.getsid(0) == os.getpid():
        with suppress(OSError):
            fcntl.ioctl(0, termios.TIOCNOTTY)
            # Giving it up sends the leader SIGHUP, which is not meant for the command.
            signal.sigtimedwait({signal.SIGHUP, signal.SIGCONT}, 0)
    with suppress(OSError):
        os.setsid()


def end_as(status: int) -> None:
    """End as the command did: with its exit code, or by its signal."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))
