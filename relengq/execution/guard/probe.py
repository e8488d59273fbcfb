# SPDX-License-Identifier: GPL-3.0-or-later
"""Try out what this host permits, in a process of its own that nothing else depends on."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from . import kernel
from .groups import MEMORY_V2, PREFIX, Group, hierarchy
from .mounts import mounts, own_proc

_SIZE = 1 << 30
_DELEGATED = ("user.delegate", "trusted.delegate")
"""How systemd marks a group that it leaves to a service."""


def tell() -> None:
    """Print what was found, as JSON: a directory or "" for each means, and why not."""
    found: dict[str, str] = {}
    found["namespace_refused"] = _namespace()
    found["root_private"] = "" if _root_is_shared() else "yes"
    found["group"], found["group_refused"] = _group("")
    found["memory_v2"], found["memory_v2_refused"] = _memory_v2(found["group"])
    found["memory_v1"], found["memory_v1_refused"] = _group("memory")
    print(json.dumps(found))  # this is what the worker reads


def _namespace() -> str:
    """Why there is no PID namespace, "" when there is."""
    try:
        back = kernel.new_pid_namespace()
    except OSError as error:
        return str(error.strerror)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            own_proc()
        except OSError as error:
            os.write(writer, str(error.strerror).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    kernel.back_to_pid_namespace(back)
    return os.read(reader, 1000).decode()


def _root_is_shared() -> bool:
    shared = False
    for each in mounts():
        if each.point == "/":
            shared = each.shared
    return shared


def _group(controller: str) -> tuple[str, str]:
    """Where groups for plays can be made ("" for nowhere), and why not."""
    place = hierarchy(controller)
    if place is None:
        return "", "no such control groups are mounted"
    top, own = place
    parent = own if controller else _delegated(top, own)
    group = Group(f"{parent}/{PREFIX}probe-{os.getpid()}")
    if not group.make():
        return "", f"{parent} may not be written"
    try:
        if not (group.limit(_SIZE) if controller else group.kills):
            return "", "the kernel is too old" if not controller else f"{parent} has no limits"
        return (parent, "") if _joins(group) else ("", f"processes may not be moved into groups below {parent}")
    finally:
        group.remove()


def _joins(group: Group) -> bool:
    child = os.fork()
    if not child:
        os._exit(0 if group.join() else 1)
    return not os.waitpid(child, 0)[1]


def _delegated(top: str, own: str) -> str:
    """The highest group above (or at) this process's own that is left to it: only there may others be made."""
    best = place = own
    while place.startswith(top):
        if _is_delegated(place):
            best = place
        if place == top:
            break
        place = os.path.dirname(place)
    return best


def _is_delegated(directory: str) -> bool:
    for name in _DELEGATED:
        with suppress(OSError):
            return os.getxattr(directory, name) == b"1"
    return os.geteuid() != 0 and os.access(directory, os.W_OK) and os.access(f"{directory}/cgroup.procs", os.W_OK)


def _memory_v2(parent: str) -> tuple[str, str]:
    """Where groups have a memory controller, and why not."""
    if not parent:
        return "", "no control group may be made"
    if "memory" not in _read(f"{parent}/cgroup.controllers"):
        return "", f"{parent} has no memory controller"
    refused = _enable(parent)
    return ("", refused) if refused else (parent, "")


def _enable(parent: str) -> str:
    if "memory" in _read(f"{parent}/cgroup.subtree_control"):
        return ""
    if not os.path.exists(f"{parent}/{MEMORY_V2}"):
        return f"{parent} is the root of all groups, and its settings are the host's"
    try:
        with open(f"{parent}/cgroup.subtree_control", "w", encoding="ascii") as file:
            file.write("+memory")
    except OSError as error:
        return f"the memory controller of {parent} cannot be used: {error.strerror} (is the worker itself in it?)"
    return ""


def _read(path: str) -> list[str]:
    with suppress(OSError), open(path, encoding="ascii") as file:
        return file.read().split()
    return []
