# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a whole site: each file by itself, and every name in it against what it should lead to."""

from __future__ import annotations

from pathlib import Path

from relengq.errors import Fault, SiteFault, nearest
from relengq.settings import FILE, Settings
from relengq.site.checks import playbooks, pools, queues, schedules, secrets, triggers
from relengq.site.files import mapping
from relengq.site.load import Site, in_order, load


def check(path: Path) -> tuple[Fault, ...]:
    """Every fault of the site in the directory ``path``, in the order of files and lines.

    Raises NotFound when there is no such directory, and SiteFault when it is no site.
    """
    site = load(path)
    files = list(site.files.values())
    faults = [*site.faults, *_settings(path)]
    served = _served(site)
    for file in files:
        faults += triggers.check(file)
        if served is not None:
            faults += queues.check(file, served)
    faults += pools.check(path, site.pool_documents)
    for file in files:
        faults += secrets.check(file, site.pool_documents)
    faults += playbooks.check(path, files)
    faults += schedules.check(site.calendars, site.files)
    return in_order(faults)


def _served(site: Site) -> set[str] | None:
    """The queues that pools serve, faulty ones as well; None when a file does not let that be told."""
    served: set[str] = set()
    for document in site.pool_documents:
        body = mapping(document.data)
        # Whoever wrote 'queue: a' has said what is served, and hears of the mistake by itself.
        key = "queues" if "queues" in body else nearest("queues", body)
        names = body.get(key) if key else None
        if isinstance(names, str):
            names = [names]
        if not isinstance(names, list):
            return None
        served.update(name for name in names if isinstance(name, str))
    return served


def _settings(path: Path) -> list[Fault]:
    try:
        Settings.load(path)
    except SiteFault as fault:
        return list(fault.faults) or [Fault(FILE, 1, 1, fault.message, fault.hint)]
    return []
