# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases whose time is set, as NTP or a person at the wrong console does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from relengq.database import Database


def set_ahead(monkeypatch: pytest.MonkeyPatch, ahead: Callable[[], timedelta]) -> None:
    """Let every database be ``ahead()`` of the time from now on."""
    now, moment = Database.now, Database.moment

    def shifted_now(self: Database, session: Session | None = None) -> datetime:
        return now(self, session) + ahead()

    def shifted_moment(self: Database, later: timedelta = timedelta(0)) -> ColumnElement[datetime]:
        return moment(self, later + ahead())

    monkeypatch.setattr(Database, "now", shifted_now)
    monkeypatch.setattr(Database, "moment", shifted_moment)
