# SPDX-License-Identifier: GPL-3.0-or-later
"""What every part of the engine works with: the settings, the database, the site, and the way to the broker."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from relengq.announcements.outbox import Outbox
from relengq.celery import enqueue
from relengq.content import Revision, revision
from relengq.database import Database
from relengq.documents import Json
from relengq.engine import context
from relengq.models import Run
from relengq.runs.census import Census
from relengq.secretbox import SecretBox
from relengq.settings import Settings
from relengq.site import Site, SiteCache


@dataclass(frozen=True)
class Parcel:
    """One attempt on its way to the broker. It carries ids only."""

    attempt_id: int
    task_id: str
    queue: str
    label: str


Send = Callable[[Parcel], None]
"""Hands a parcel to the broker. Raises BrokerUnavailable."""


class Installation:
    """One installation of relengq as this process sees it."""

    def __init__(self, settings: Settings, database: Database | None = None, send: Send | None = None) -> None:
        self.settings = settings
        self.database = database or Database(settings.database_url)
        self.secrets = SecretBox(settings.secret_key_file)
        self.send: Send = send or _send
        self.census = Census()
        self._site = SiteCache(settings.site, whole=not settings.content_anywhere)
        if settings.bus_config is not None:
            self.database.before_commit.append(Outbox(self._sees, settings.bus_config))

    def _sees(self, run: Run, matrix: Mapping[str, Json] | None) -> context.Context:
        return context.build(run, run.steps, site=self.settings.site, state_dir=self.settings.state_dir, matrix=matrix)

    @property
    def site(self) -> Site:
        """The site's files, read again when they have changed."""
        return self._site.get()

    def revision(self) -> Revision | None:
        """The commit that the site is at now."""
        return revision(self.settings.site)

    def now(self) -> datetime:
        """The database's time."""
        return self.database.now()


def _send(parcel: Parcel) -> None:
    enqueue(parcel.attempt_id, task_id=parcel.task_id, queue=parcel.queue, label=parcel.label)


@functools.cache
def current() -> Installation:
    """The installation of this process: its working directory's site, or ``$RELENGQ_SITE``."""
    return Installation(Settings.load())


def at(site: Path) -> Installation:
    """The installation whose site is in this directory."""
    return Installation(Settings.load(site))
