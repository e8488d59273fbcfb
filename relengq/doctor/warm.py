# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pools may start plays from a process that has Ansible loaded, and which such processes run here."""

from __future__ import annotations

from relengq.doctor.findings import Finding, Findings, Level
from relengq.engine.installation import Installation
from relengq.engine.orders import warm_directory
from relengq.execution.servers import refusals, running

_SUBJECT = "warm Ansible"


def warm(installation: Installation) -> Findings:
    """Each pool, with its servers on this host; and why servers start no plays."""
    pools = sorted(installation.site.pools.values(), key=lambda pool: pool.name)
    parts, plain = [], []
    for pool in pools:
        if pool.ansible.warm == "off":
            parts.append(f"{pool.name}: off")
            continue
        directory = warm_directory(installation, pool)
        plain += [f"{pool.name}: {reason}" for reason in refusals(directory)]
        count = len(running(directory))
        servers = "no server runs here now" if not count else f"servers that run here: {count}"
        parts.append(f"{pool.name}: auto, {servers}")
    yield Finding(Level.OK, _SUBJECT, "; ".join(parts) or "no pools")
    for reason in plain:
        todo = "Plays are as ever, but start more slowly. Mend it, or say 'ansible: {warm: off}' in the pool's file."
        yield Finding(Level.WARN, _SUBJECT, f"a server starts no plays: {reason}", todo)
