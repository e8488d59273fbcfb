# SPDX-License-Identifier: GPL-3.0-or-later
"""How this host lets a worker hold a play's processes together, and how limits of memory are kept."""

from __future__ import annotations

from relengq.doctor.findings import Finding, Findings, Level
from relengq.engine.installation import Installation
from relengq.execution.means import Host, Means, host
from relengq.execution.processes import guard_works

_GUARD = "process guard"
_LIMITS = "memory limits"


def held_together(installation: Installation) -> Findings:
    """Which means is in use for this user on this host, and why none that is stronger."""
    if not guard_works():
        yield Finding(
            Level.BAD, _GUARD, "prctl is refused here: what a play leaves running is not ended with it",
            "Allow prctl(2) in the container's or the service's system call filter.",
        )  # fmt: skip
        return
    found = host()
    allowed = Means(installation.settings.process_guard)
    yield Finding(Level.OK, _GUARD, _means(found, allowed))
    yield Finding(Level.OK, _LIMITS, _limits(found))


def _means(found: Host, allowed: Means) -> str:
    above = f"no PID namespace: {found.namespace_refused or 'process_guard leaves it out'}"
    match found.means(allowed):
        case Means.NAMESPACE:
            mounts = "; what a play mounts on this host goes with it, as / is not shared" if found.root_private else ""
            return f"a PID namespace: the kernel ends a play with all that it started, whoever it belongs to{mounts}"
        case Means.CGROUP:
            return f"a control group below {found.group} and guard processes end whatever a play started ({above})"
        case Means.PROCESS:
            group = f"no control group: {found.group_refused or 'process_guard leaves it out'}"
            return (
                "guard processes (child subreapers) end whatever a play started; processes of another user are not "
                f"covered ({above}; {group})"
            )


def _limits(found: Host) -> str:
    if found.memory:
        version = "version 2" if found.memory_v2 else "version 1"
        return f"the kernel keeps them, by control groups ({version}) below {found.memory}"
    why = f"version 2: {found.memory_v2_refused}; version 1: {found.memory_v1_refused}"
    return f"the guard of a play looks every second (no control groups; {why})"
