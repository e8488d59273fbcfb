# SPDX-License-Identifier: GPL-3.0-or-later
"""From a connection to a play: receive, decline or agree, become the guard, and tell the play's end."""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress

from .. import tree
from ..channel import BEGIN, Broken, Request, without_private
from ..cold import program
from ..handover import DECLINED
from ..inherited import faults
from ..outer import Worker, guarded, note
from ..plan import MARK, Plan
from .fresh import play
from .shown import Shown
from .watched import Watched

STALE = 3
"""Exit code of a fork that has found that the server is not to be used any more."""
_F_SETSIG = 10
"""Not in Python's fcntl (3.11)."""
_NOT_STARTED = 127
"""Exit code of a shell, and of the guard, for a command that cannot be started."""
_SECONDS = 10.0
"""How long a client may take to send its request, and to say the word."""


class Surroundings:
    """What a server was started with."""

    def __init__(
        self, python: list[str], program: str, scratch: str, environment: dict[str, str], watched: Watched
    ) -> None:
        self.python = python
        """The interpreter, with its options."""
        self.program = program
        self.scratch = scratch
        """Stands for a play's private directory in the server's environment."""
        self.environment = environment
        self.watched = watched
        self.refusal: str | None = None
        """Why no play can be started from what is loaded."""
        self.shown = Shown(MARK, environment.get(MARK, ""))


class Client(Worker):
    """Whom a play is for: the other end of a connection. That it is closed is its death."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def watch(self) -> None:
        """From now on, have this process get ``tree.ORPHANED`` when the connection is closed."""
        descriptor = self._connection.fileno()
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, _F_SETSIG, int(tree.ORPHANED))
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)

    def lives(self) -> bool:
        """Whether it has not been closed yet."""
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        return not poll.poll(0)

    def clear(self, private: str) -> None:
        """Do what the worker would have done, unless it lives and does it: only its end of the connection is gone."""
        with suppress(OSError):
            tree.remove_unheld(private)

    def leave(self) -> None:
        """In a process that the guard started: hold nothing by which the guard is known to the worker."""
        self._connection.close()


def serve(connection: socket.socket, around: Surroundings) -> None:
    """Do all of it in this fork of the server, and end this process."""
    code = 1
    try:
        connection.settimeout(_SECONDS)
        kept = _open() - {connection.fileno()}
        request, descriptors = Request.received(connection)
        stale = around.watched.changed()
        refusal = f"{stale} has changed" if stale else around.refusal or _unlike(request, around, kept)
        moved = _Moved(connection, request.numbers, descriptors)
        refusal = refusal or _taken_over(request, moved)
        if refusal is not None:
            connection.sendall(f"-{refusal}\n".encode("utf-8", "replace"))
            code = STALE if stale else 0
            return
        connection.sendall(b"+%d\n" % os.getpid())
        if connection.recv(1) == BEGIN:
            connection.settimeout(None)
            _guard(moved.arrive(), around, request)
        code = 0
    except (OSError, Broken):
        pass  # the client has gone, or runs the plain command: nothing has begun
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _open() -> set[int]:
    """The descriptors of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that listed them
            os.fstat(int(name))
            found.add(int(name))
    return found


def _unlike(request: Request, around: Surroundings, kept: set[int]) -> str | None:
    """Why a play that is started here would not be as with the plain command."""
    if request.arguments[0] != around.program:
        return f"it has {around.program} loaded"
    theirs = without_private(request.environment, request.private)
    ours = without_private(around.environment, around.scratch)
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            return f"it was started with another {name} in its environment"
    if any(number > 2 and number in kept for number in request.numbers):
        return "a descriptor of the play is in use here"
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and not _can_be_written(handler.baseFilename):
            return f"the log {handler.baseFilename} cannot be written"
    return None


def _can_be_written(path: str) -> bool:
    """Ansible's own conditions for a log."""
    if os.path.isdir(path):
        return False
    return (os.path.exists(path) and os.access(path, os.W_OK)) or os.access(os.path.dirname(path), os.W_OK)


def _guard(connection: socket.socket, around: Surroundings, request: Request) -> None:
    """Be the guard of the play that was asked for, and tell its status when it has ended."""
    os.umask(request.umask)
    _take_signals(request)
    around.shown.write_value(request.environment.get(MARK, ""))
    os.environ.clear()
    os.environ.update(request.environment)

    def run() -> None:
        words = [*around.python, *request.arguments]
        around.shown.write_arguments(words)
        sys.orig_argv[:] = words
        play(request.arguments, lambda error: _be_plain(request, error))

    status = guarded(Client(connection), request.private, Plan.of(request.options), run)
    with suppress(OSError):
        connection.sendall(b"=%d\n" % status)


def _be_plain(request: Request, error: BaseException) -> None:
    """In the play's own process, before anything was played: be the plain command, which says what is wrong."""
    with suppress(OSError):
        note(request.private, "cold", f"{DECLINED}\nit could not begin: {type(error).__name__}: {error}")
    program(request.arguments)()
    os._exit(_NOT_STARTED)


class _Moved:
    """The connection and the play's descriptors, out of the way of the numbers that these are to have."""

    def __init__(self, connection: socket.socket, numbers: list[int], descriptors: list[int]) -> None:
        self._connection = connection
        self._numbers = numbers
        self._directory, *self._sent = descriptors
        self._moved: list[int] = []

    def move(self) -> None:
        """Be in the working directory, and have the descriptors where none has to give way. Raises OSError."""
        os.fchdir(self._directory)
        above = max(self._numbers, default=2) + 1
        self._moved = [
            fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, above) for each in (self._connection.fileno(), *self._sent)
        ]
        for each in (self._directory, *self._sent):
            os.close(each)

    def arrive(self) -> socket.socket:
        """Have them where they are to be, in place of the server's own streams. Returns the connection."""
        self._connection.close()
        connection, *moved = self._moved
        for number, each in zip(self._numbers, moved, strict=True):
            os.dup2(each, number)
            os.close(each)
        for number in {0, 1, 2}.difference(self._numbers):
            os.close(number)
        return socket.socket(fileno=connection)


def _taken_over(request: Request, moved: _Moved) -> str | None:
    """Take over of what a process inherits all that may be refused. Returns why that cannot be."""
    try:
        moved.move()
        most = request.limits[resource.RLIMIT_NOFILE][0]
        if most != resource.RLIM_INFINITY and max(request.numbers, default=0) >= most:
            return "a descriptor of the play is beyond its limit"
        for number, (soft, hard) in request.limits.items():
            if resource.getrlimit(number) != (soft, hard):
                resource.setrlimit(number, (soft, hard))
        if os.getpriority(os.PRIO_PROCESS, 0) != request.niceness:
            os.setpriority(os.PRIO_PROCESS, 0, request.niceness)
        os.sched_setaffinity(0, request.affinity)
    except (OSError, ValueError) as error:
        return f"it may not have what the worker has now: {error}"
    return None


def _take_signals(request: Request) -> None:
    """The dispositions that a Python has when it was started where the client was."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP} - faults():
        ignored = number in request.ignored or number in (signal.SIGPIPE, signal.SIGXFSZ)
        with suppress(OSError, ValueError):  # glibc keeps two for itself
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    if signal.SIGINT not in request.ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, request.blocked)
