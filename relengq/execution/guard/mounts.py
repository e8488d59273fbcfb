# SPDX-License-Identifier: GPL-3.0-or-later
"""What /proc/self/mountinfo says (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from . import kernel


class Mount:
    """One mount of this process's mount namespace."""

    def __init__(self, line: str) -> None:
        before, _, after = line.partition(" - ")
        fields, last = before.split(), after.split()
        self.root, self.point = _plain(fields[3]), _plain(fields[4])
        self.shared = any(each.startswith("shared:") for each in fields[6:])
        self.kind = last[0]
        self.options = last[-1]


def mounts() -> Iterator[Mount]:
    """All mounts; of several at one place the last is the one that is seen."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            yield Mount(line)


def own_proc() -> None:
    """In process 1 of a PID namespace: show it, and what it starts, the namespace's processes in /proc.

    What is mounted below /proc (binfmt_misc, a container engine's masks) and how /proc is mounted (hidepid) stay as
    they are, and so do all other mounts. Raises OSError.
    """
    options, below = "", list[str]()
    for each in mounts():
        if each.point == "/proc":
            options, below = each.options, []
        elif each.point.startswith("/proc/"):
            below.append(each.point)
    kernel.new_mount_namespace()
    held = []
    for point in below:
        with suppress(OSError):
            held.append((point, os.open(point, os.O_PATH)))
    kernel.mount_proc(",".join(each for each in options.split(",") if each not in {"rw", "ro"}))
    for point, descriptor in held:
        with suppress(OSError):
            kernel.bind(f"/proc/self/fd/{descriptor}", point)
        os.close(descriptor)


def _plain(field: str) -> str:
    """A path as it is: spaces, tabs, newlines and backslashes are written as octal numbers."""
    for written, meant in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(written, meant)
    return field
