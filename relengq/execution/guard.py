# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: PTH104, PTH112, PTH114, PTH118, PTH106, PTH123, PTH208
# Started for every play: importing pathlib would be most of its start-up time.
"""The process between a worker and ``ansible-playbook``: nothing that a play started outlives the play.

Run as a file by ``python -I -S -E``, with the standard library only. It starts the command in a session of
its own and passes standard streams, working directory, environment, signals and exit status through, so that
the command behaves as if the worker had started it. When the command ends, when SIGTERM comes, when the
worker dies, or when it stood still for so long that another may take its step (see ``lifeline``), every
process that descends from the command gets SIGTERM, and after ``GRACE`` seconds SIGKILL.

It finds them all because it is a *child subreaper* (prctl(2)): whoever daemonises or calls setsid(2) is
handed to the guard instead of to init and stays in its tree. It notices the worker's death by
PR_SET_PDEATHSIG, and then also removes the play's private directory, which nobody else would.

Not covered: processes of another user (a local ``become``), which the kernel does not let it kill; and what
others start on request (systemd-run, at, a container engine's daemon). If the guard itself is killed with
SIGKILL, the kernel kills ``ansible-playbook`` at once, and the worker sweeps the rest (see
``processes.sweep``).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import sys
import termios
import time
from contextlib import suppress

GRACE = 0.4
"""Seconds between SIGTERM and SIGKILL: enough to write a status or remove a lock, and well within a second.
"""
_LAST_RESORT = 10.0
"""After so many seconds of SIGKILL the guard gives up on what remains (uninterruptible sleep on a dead disk).
"""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ORPHANED = signal.SIGRTMIN
"""What the kernel sends when the worker dies: not SIGTERM, which the living worker sends to stop the play."""
_LOOK_SECONDS = 1.0
"""How often the guard looks until when the play may go on."""
_PASSED = {
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
    signal.SIGWINCH,
}
_WATCHED = _PASSED | {signal.SIGTERM, signal.SIGCHLD, _ORPHANED}


def run(parent: int, pid_file: str, private: str, command: list[str]) -> int:
    """Run the command to its end, then end what it left. Returns its wait status (see wait(2))."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, _ORPHANED)
    if os.getppid() != parent:
        _remove(private)
        return 0
    _leave_terminal()
    child = os.fork()
    if not child:
        _become(command, mask)
    _announce(pid_file)
    status = _watch(child, os.path.join(private, "until"))
    status = _end_all(child, status)
    if os.getppid() != parent or _ORPHANED in signal.sigpending():
        # Its threads die one by one: with a short tree the worker may still be there when all else is gone.
        _remove(private)
    return status


def _watch(child: int, until: str) -> int | None:
    """Pass signals on until the command ends (its status) or the play is to be stopped (None)."""
    while not _overdue(until):
        found = signal.sigtimedwait(_WATCHED, _LOOK_SECONDS)
        if found is None:
            continue
        number = found.si_signo
        if number == _ORPHANED:
            _signal(os.getpid(), _ORPHANED)  # stays pending, for whoever asks later
        if number in (signal.SIGTERM, _ORPHANED):
            return None
        if number != signal.SIGCHLD:
            _signal(child, number)
        elif (status := _reap(child)) is not None:
            return status
    return None


def _overdue(until: str) -> bool:
    """Whether the moment has passed (monotonic, in a file) that a living worker puts off again and again."""
    with suppress(OSError, ValueError), open(until, encoding="ascii") as file:
        return time.monotonic() > float(file.read())
    return False


def _end_all(child: int, status: int | None) -> int:
    """End every descendant, politely first. Returns the command's status."""
    asked: set[int] = set()
    started = time.monotonic()
    while tree := _descendants():
        elapsed = time.monotonic() - started
        if elapsed > _LAST_RESORT:
            break
        if elapsed > GRACE:
            refused = [pid for pid in tree if not _signal(pid, signal.SIGKILL)]
            if len(refused) == len(tree):
                break
        for pid in set(tree) - asked:
            _signal(pid, signal.SIGTERM)
            _signal(pid, signal.SIGCONT)
            asked.add(pid)
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)
        ended = _reap(child)
        status = ended if status is None else status
    ended = _reap(child)
    status = ended if status is None else status
    return signal.SIGKILL if status is None else status


def _descendants() -> list[int]:
    """Every living process below this one, parents first."""
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


def _reap(child: int) -> int | None:
    """Collect all that ended; the command's status when it is among them."""
    found = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid == child:
                found = status
    return found


def _signal(pid: int, number: int) -> bool:
    """Send a signal; False when that is not allowed. A process that is already gone is fine."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def _become(command: list[str], mask: set[int | signal.Signals]) -> None:
    """In the child: turn into the command, with everything as this process inherited it."""
    guard = os.getppid()
    try:
        os.setsid()
        with suppress(OSError):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            # Python ignores these two, and an ignored signal stays ignored through execve(2).
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        os.write(2, f"ERROR! {command[0]} cannot be started: {error.strerror}\n".encode())
    os._exit(127)


def _leave_terminal() -> None:
    """Give the terminal up for the command's session to take, and leave the worker's process group."""
    if os.getsid(0) == os.getpid():
        with suppress(OSError):
            fcntl.ioctl(0, termios.TIOCNOTTY)
            # Giving it up sends the leader SIGHUP, which is not meant for the command.
            signal.sigtimedwait({signal.SIGHUP, signal.SIGCONT}, 0)
    with suppress(OSError):
        os.setsid()


def _announce(pid_file: str) -> None:
    """Tell the worker which process to signal."""
    with open(f"{pid_file}.new", "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
    os.rename(f"{pid_file}.new", pid_file)


def _remove(directory: str) -> None:
    """Remove a directory and all in it; what cannot be removed stays."""
    for parent, directories, files in os.walk(directory, topdown=False):
        for name in [*files, *directories]:
            path = os.path.join(parent, name)
            with suppress(OSError):
                (os.rmdir if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)
    with suppress(OSError):
        os.rmdir(directory)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)


def _end_as(status: int) -> None:
    """End as the command did: with its exit code, or by its signal."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _end_as(run(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]))
