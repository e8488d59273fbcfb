# SPDX-License-Identifier: GPL-3.0-or-later
"""Which secrets of pools can be had on this host. Values are looked at, and never shown."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import select

from relengq.doctor.findings import Finding, Findings, Level
from relengq.engine.installation import Installation
from relengq.models import Worker
from relengq.pools import Pool
from relengq.runs.timeline import ALIVE
from relengq.secrets import Missing, Surroundings, examine, exposed, password_file, withheld


def secrets(installation: Installation) -> Findings:
    """The secrets of the pools that have a worker on this host, as that worker sees them; without any, of all pools."""
    with installation.database.read() as session:
        now = installation.database.now(session)
        rows = session.scalars(select(Worker).where(Worker.seen_at > now - ALIVE)).all()
    here = {row.pool: row for row in rows if row.host == socket.gethostname() and row.pool}
    for name, pool in sorted(installation.site.pools.items()):
        if not pool.secrets or (here and name not in here):
            continue
        worker = here.get(name)
        environment: Mapping[str, str] | None = os.environ if worker is None else _environment(worker.pid)
        if environment is None:
            yield Finding(
                Level.WARN, f"secrets of {name}", "not looked at: the worker here is another user's",
                "Call doctor as the user of the worker.",
            )  # fmt: skip
            continue
        around = Surroundings(installation.settings.site, environment, withheld(installation.site.pools.values()))
        yield from _of_pool(pool, around, Level.WARN if worker is None else Level.BAD)
        yield from _exposed(pool, around)


def _of_pool(pool: Pool, around: Surroundings, level: Level) -> Findings:
    found = dict(examine(pool, around))
    there = sorted(name for name, reason in found.items() if reason is None)
    if there:
        yield Finding(Level.OK, f"secrets of {pool.name}", f"can be had here: {', '.join(there)}")
    for name, reason in sorted(found.items()):
        if reason is not None:
            todo = f"See workers/{pool.name}.yml; a step that needs it fails here."
            yield Finding(level, f"secret {name} of {pool.name}", reason, todo)


def _exposed(pool: Pool, around: Surroundings) -> Findings:
    paths = [around.path(source.file) for source in pool.secrets.values() if source.file is not None]
    for source in pool.secrets.values():
        if source.credential is not None:
            try:
                paths.append(around.credential(source.credential))
            except Missing:
                continue  # has been told as the reason why it cannot be had
    if (password := password_file(pool, around)) is not None:
        paths.append(Path(password))
    for path in dict.fromkeys(paths):
        if exposed(path):
            message = f"others than its owner and group may use {path}, or its group may write it"
            yield Finding(Level.WARN, f"secrets of {pool.name}", message, f"chmod 600 {path}")


def _environment(pid: int) -> dict[str, str] | None:
    """The environment that a process was started in, or None when this user may not see it."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    pairs = (os.fsdecode(each).partition("=") for each in data.split(b"\0") if b"=" in each)
    return {name: value for name, _, value in pairs}
