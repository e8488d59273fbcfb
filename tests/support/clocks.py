# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases whose time is set, as NTP or a person at the wrong console does."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from relengq import beat
from relengq.database import Database
from relengq.engine import timekeeping


def set_ahead(monkeypatch: pytest.MonkeyPatch, ahead: Callable[[], timedelta]) -> None:
    """Let every database be ``ahead()`` of the time from now on."""
    now, moment = Database.now, Database.moment

    def shifted_now(self: Database, session: Session | None = None) -> datetime:
        return now(self, session) + ahead()

    def shifted_moment(self: Database, later: timedelta = timedelta(0)) -> ColumnElement[datetime]:
        return moment(self, later + ahead())

    monkeypatch.setattr(Database, "now", shifted_now)
    monkeypatch.setattr(Database, "moment", shifted_moment)


class Time:
    """The time of a database and of who keeps it, which passes by itself and otherwise as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = timedelta()
        """How far the database's time is from right."""
        self._passed = timedelta()
        set_ahead(monkeypatch, lambda: self.ahead + self._passed)
        own = SimpleNamespace(monotonic=lambda: time.monotonic() + self._passed.total_seconds(), time=time.time)
        for module in (timekeeping, beat):
            monkeypatch.setattr(module, "time", own)

    def passes(self, seconds: float) -> None:
        """Let so much time go by."""
        self._passed += timedelta(seconds=seconds)
