# SPDX-License-Identifier: GPL-3.0-or-later
"""Hand a play over to a server that has Ansible loaded, and stand for it until its end.

To the worker this process then *is* the play: its signals go on to the play's guard, its end is the play's end, and
when it dies the guard notices that (its connection is closed) and ends the play with everything that it started.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
from contextlib import suppress

from . import tree
from .channel import BEGIN, Broken, Request, connected, line
from .outer import Worker, leave_terminal, note
from .plan import Plan

ANSWER_SECONDS = 10.0
"""How long a server may take to answer: it may still be loading, on a busy machine."""
DECLINED, FAILED = "declined", "failed"
"""Whether a server said why it does not start a play."""
_SIGNALS = tree.PASSED | {signal.SIGTERM, tree.ORPHANED}
_NAMES = frozenset(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}


class NotTaken(Exception):
    """The server is not there or declines; its text says why. Nothing has begun."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}\n{reason}")


def handed_over(worker: Worker, private: str, plan: Plan, command: list[str]) -> int:
    """Have the server run the command, to its end. Returns its wait status. Raises NotTaken."""
    # Whoever wants to stop the play before its guard has begun stops this process.
    note(private, "guard.pid", f"{os.getpid()} {os.getpid()}")
    request = _request(private, plan, command)
    caught = _Caught()
    try:
        connection = connected(plan.warm or "", ANSWER_SECONDS)
        guard = _agreed(connection, request)
        caught.begin()
        worker.watch()
        if not worker.lives():
            tree.remove(private)
            os._exit(0)
        leave_terminal()
        connection.sendall(BEGIN)
    except NotTaken:
        caught.end()
        raise
    except (OSError, Broken) as error:
        caught.end()
        raise NotTaken(FAILED, _reason(error)) from error
    return _stand(connection, guard, caught.reader)


def _reason(error: OSError | Broken) -> str:
    if isinstance(error, TimeoutError):
        return f"the server did not answer within {ANSWER_SECONDS:.0f} seconds"
    if isinstance(error, OSError):
        return f"the server cannot be reached: {error.strerror}"
    return f"the server ended: {error}"


def _request(private: str, plan: Plan, command: list[str]) -> Request:
    limits = {
        number: resource.getrlimit(number)
        for name, number in vars(resource).items()
        if name.startswith("RLIMIT_") and isinstance(number, int)
    }
    umask = os.umask(0o077)
    os.umask(umask)
    ignored = [int(each) for each in _NAMES if signal.getsignal(each) is signal.SIG_IGN]
    blocked = [int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
    return Request(
        arguments=command,
        environment=dict(os.environ),
        private=private,
        options=plan.words(),
        numbers=_inherited(),
        umask=umask,
        limits=limits,
        # Python ignores these two itself, and what it starts does not.
        signals=([each for each in ignored if each not in (signal.SIGPIPE, signal.SIGXFSZ)], blocked),
        niceness=os.getpriority(os.PRIO_PROCESS, 0),
        affinity=sorted(os.sched_getaffinity(0)),
    )


def _inherited() -> list[int]:
    """The descriptors that a command started here would have."""
    found = []
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        with suppress(OSError):  # the one that listed them
            if os.get_inheritable(number):
                found.append(number)
    return found


def _agreed(connection: socket.socket, request: Request) -> int:
    """A pidfd of the guard that waits for the word to begin. Raises NotTaken, OSError or Broken."""
    directory = os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        request.send(connection, directory)
    finally:
        os.close(directory)
    answer = line(connection)
    if not answer.startswith(b"+"):
        raise NotTaken(DECLINED, answer[1:].decode("utf-8", "replace"))
    return os.pidfd_open(int(answer[1:]))


class _Caught:
    """Signals that are read from ``reader`` between ``begin`` and ``end``, and not handled in any other way."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        for descriptor in (self.reader, self._writer):
            os.set_blocking(descriptor, False)
        # What was ignored as this process began stays ignored.
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._handlers = {number: each for number, each in handlers.items() if each is not signal.SIG_IGN}
        self._mask: set[signal.Signals] | None = None

    def begin(self) -> None:
        """From now on."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self._handlers:
            signal.signal(number, lambda *_: None)
        self._mask = {signal.Signals(each) for each in signal.pthread_sigmask(signal.SIG_UNBLOCK, self._handlers)}

    def end(self) -> None:
        """As it was before."""
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)
        os.close(self.reader)
        os.close(self._writer)


def _stand(connection: socket.socket, guard: int, signals: int) -> int:
    """Pass signals on until the play has ended. Returns its wait status; SIGKILL's when the guard could not tell."""
    connection.settimeout(None)
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    poll.register(signals, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if signals in ready:
            for number in os.read(signals, 256):
                if number == tree.ORPHANED:
                    os._exit(0)  # which closes the connection, so the guard ends the play
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(guard, number)
        if connection.fileno() in ready:
            try:
                return int(line(connection)[1:])
            except (Broken, OSError):
                return signal.SIGKILL
