# SPDX-License-Identifier: GPL-3.0-or-later
"""What a database is called for people, and who may write to it."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from relengq.database import Database


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://relengq:hunter2@db/relengq", "postgresql+psycopg://relengq:***@db/relengq"),
        ("postgresql+psycopg:///relengq?password=hunter2", "postgresql+psycopg:///relengq?password=hidden"),
        ("postgresql+psycopg://db/relengq?sslpassword=hunter2", "postgresql+psycopg://db/relengq?sslpassword=hidden"),
        ("sqlite:////srv/relengq/relengq.db", "sqlite:////srv/relengq/relengq.db"),
    ],
)
def test_no_password_of_the_database_is_shown(url: str, shown: str) -> None:
    assert Database(url).shown == shown


def test_who_begins_to_write_is_the_only_one_from_then_on(sqlite_url: str) -> None:
    database, other = Database(sqlite_url), create_engine(sqlite_url, connect_args={"timeout": 0})
    with database.write(), other.connect() as connection, pytest.raises(OperationalError, match="locked"):
        connection.execute(text("DELETE FROM workers"))
    with other.connect() as connection:
        connection.execute(text("DELETE FROM workers"))
    other.dispose()
    database.close()
