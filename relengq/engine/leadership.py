# SPDX-License-Identifier: GPL-3.0-or-later
"""A named lease in SQL: of any number of processes that want it, one holds it at a time."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, or_, update
from sqlalchemy.exc import IntegrityError

from relengq.engine.installation import Installation
from relengq.errors import DatabaseUnavailable
from relengq.models import Lease

CLOCK = "clock"
"""The lease of the process that is the clock."""


def hold(installation: Installation, name: str, holder: str, seconds: float) -> bool:
    """Take or renew the lease. Returns whether ``holder`` has it now. May raise DatabaseUnavailable."""
    database = installation.database
    with database.write() as session:
        now = database.now(session)
        until = now + timedelta(seconds=seconds)
        too_far = until + timedelta(seconds=seconds)  # the database's time has been set back since
        taken = session.execute(
            update(Lease)
            .where(Lease.name == name, or_(Lease.holder == holder, Lease.until < now, Lease.until > too_far))
            .values(holder=holder, until=until, fence=Lease.fence + 1)
            .returning(Lease.name)
        ).one_or_none()
        if taken is not None:
            return True
        if session.get(Lease, name) is not None:
            return False
        try:
            with session.begin_nested():
                session.add(Lease(name=name, holder=holder, fence=1, until=until))
        except IntegrityError:
            return False
        return True


def give_up(installation: Installation, name: str, holder: str) -> None:
    """Let another one take the lease at once."""
    with installation.database.write() as session:
        session.execute(delete(Lease).where(Lease.name == name, Lease.holder == holder))


def writable(installation: Installation) -> bool:
    """Whether the database can be written to just now, as who renews a lease has to."""
    renewed = update(Lease).where(Lease.name == CLOCK).values(fence=Lease.fence)
    try:
        with installation.database.write() as session:
            session.execute(renewed)
    except DatabaseUnavailable:
        return False
    return True


def leader(installation: Installation, name: str) -> tuple[str, datetime] | None:
    """Who holds the lease and until when, or None when nobody does."""
    database = installation.database
    with database.read() as session:
        lease = session.get(Lease, name)
        if lease is None or lease.until < database.now(session):
            return None
        return lease.holder, lease.until
