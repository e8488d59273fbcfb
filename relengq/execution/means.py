# SPDX-License-Identifier: GPL-3.0-or-later
"""By which means this host lets a worker see to it that nothing of a play is left, and that it keeps its limits."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from relengq.execution.guard.plan import Plan

GUARD = Path(__file__).with_name("guard") / "__main__.py"
_PROBE_SECONDS = 30.0


class Means(StrEnum):
    """What ends the processes of a play, the strongest first."""

    NAMESPACE = "namespace"
    """A PID namespace: the kernel itself, whatever has died before, and whoever the processes belong to."""
    CGROUP = "cgroup"
    """The reaper with a control group (version 2): processes of other users as well, while the reaper lives."""
    PROCESS = "process"
    """The reaper alone: the worker's own user's processes."""


@dataclass(frozen=True)
class Host:
    """What the host permits this user: a directory for each kind of control groups, "" for none, and why not."""

    namespace_refused: str
    """Why there is no PID namespace for a play; empty when there is."""
    root_private: str
    """Not empty: what a play in a PID namespace mounts on the host is seen by that play alone."""
    group: str
    group_refused: str
    memory_v2: str
    memory_v2_refused: str
    memory_v1: str
    memory_v1_refused: str

    def means(self, strongest: Means = Means.NAMESPACE) -> Means:
        """The strongest means that works here and is no stronger than ``strongest``."""
        if strongest is Means.NAMESPACE and not self.namespace_refused:
            return Means.NAMESPACE
        return Means.CGROUP if strongest is not Means.PROCESS and self.group else Means.PROCESS

    @property
    def memory(self) -> str:
        """Where the kernel keeps limits of memory; "": the guard has to look."""
        return self.memory_v2 or self.memory_v1

    def plan(self, strongest: Means = Means.NAMESPACE, limit: int | None = None, *, warm: str | None = None) -> Plan:
        """How to guard a play that may use ``limit`` bytes of memory, and that a server at ``warm`` may start."""
        means = self.means(strongest)
        return Plan(
            namespace=means is Means.NAMESPACE,
            group=self.group if means is Means.CGROUP else None,
            memory_group=(self.memory or None) if limit is not None else None,
            limit=limit,
            warm=warm,
        )


@functools.cache
def host() -> Host:
    """Try it out, once for this process, in another one: takes about as long as Python takes to start."""
    isolated = [sys.executable, "-I", "-S", "-E", str(GUARD), "--probe"]
    try:
        told = subprocess.run(isolated, check=True, capture_output=True, timeout=_PROBE_SECONDS, text=True)
        return Host(**json.loads(told.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        why = f"it could not be tried: {error}"
        return Host(why, "", "", why, "", why, "", why)
