# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pools may start plays from a process that has Ansible loaded, and which such processes run here."""

from __future__ import annotations

from relengq.doctor.findings import Finding, Findings, Level
from relengq.engine.installation import Installation
from relengq.engine.orders import warm_directory
from relengq.execution.servers import running

_SUBJECT = "warm Ansible"


def warm(installation: Installation) -> Findings:
    """One finding: each pool, with its servers on this host."""
    pools = sorted(installation.site.pools.values(), key=lambda pool: pool.name)
    parts = []
    for pool in pools:
        if pool.ansible.warm == "off":
            parts.append(f"{pool.name}: off")
            continue
        count = len(running(warm_directory(installation, pool)))
        servers = "no server runs here now" if not count else f"servers that run here: {count}"
        parts.append(f"{pool.name}: auto, {servers}")
    yield Finding(Level.OK, _SUBJECT, "; ".join(parts) or "no pools")
