# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of the kernel and not in Python's standard library (3.11): prctl, unshare, setns, mount."""

from __future__ import annotations

import ctypes
import os

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNS = 0x00020000
_CLONE_NEWPID = 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MS_BIND, _MS_REC, _MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18


def signal_at_parents_death(number: int) -> None:
    """Have the kernel send this process a signal when the thread that forked it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def set_name(name: str) -> None:
    """Have this process shown under a name, of which the kernel keeps 15 bytes."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, os.fsencode(name), 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of whatever descends from this process and loses its own."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def new_pid_namespace() -> int:
    """Let the next child be process 1 of a new PID namespace. Returns the way back. Raises OSError."""
    descriptor = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        _checked(ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWPID), "unshare")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def back_to_pid_namespace(descriptor: int) -> None:
    """Let the next child be in this process's own PID namespace again. Raises OSError."""
    try:
        _checked(ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWPID), "setns")
    finally:
        os.close(descriptor)


def new_mount_namespace() -> None:
    """Give this process mounts of its own, which share with the others what was shared before. Raises OSError."""
    _checked(ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS), "unshare")


def mount_proc(options: str) -> None:
    """Mount this process's own view of processes over /proc, for its mount namespace alone. Raises OSError."""
    # A mount is propagated by the mount below it: only /proc itself must not do so.
    _mount("none", "/proc", "", _MS_PRIVATE, "")
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)


def bind(source: str, target: str) -> None:
    """Mount what is at ``source`` at ``target`` as well. Raises OSError."""
    _mount(source, target, "", _MS_BIND | _MS_REC, "")


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [each.encode() or None for each in (source, target, kind)]
    _checked(libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None), f"mount on {target}")


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
