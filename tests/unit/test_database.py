# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

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
