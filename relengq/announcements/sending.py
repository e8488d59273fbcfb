# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of the outbox on their way to the bus. Importing this imports fedora-messaging, which takes a second."""

from __future__ import annotations

from pathlib import Path

from relengq.announcements.announcer import Publish
from relengq.announcements.outbox import OWN
from relengq.bus.publisher import Outgoing, Publisher
from relengq.models import Announcement


def sender(bus_config: Path) -> Publish:
    """What sends rows by fedora-messaging's configuration in this file."""
    publisher = Publisher(bus_config)
    return lambda row: publisher.publish(_outgoing(row))


def _outgoing(row: Announcement) -> Outgoing:
    return Outgoing(
        id=row.message_id,
        topic=row.topic,
        body=row.body,
        severity=row.severity,
        sent_at=row.created_at,  # the same each time, as everything else of a repeat
        schema=None if row.kind == OWN else row.topic,
    )
