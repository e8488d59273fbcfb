# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests' own faults: a commit that happens unheard, and one that is lost, look the same to who commits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import select

from relengq.database import Database
from relengq.errors import DatabaseUnavailable
from relengq.models import Lease
from tests.support.commits import CommitHook, Faults, commit_proxy
from tests.support.servers import PostgreSQLServer


@contextmanager
def faulty(request: pytest.FixtureRequest) -> Iterator[tuple[Database, Faults]]:
    if request.param == "sqlite":
        database = Database(request.getfixturevalue("sqlite_url"))
        with CommitHook(database) as faults:
            yield database, faults
        database.close()
        return
    server: PostgreSQLServer = request.getfixturevalue("postgresql_server")
    with commit_proxy(server.directory) as proxy:
        database = Database(proxy.via(request.getfixturevalue("postgresql_url")))
        yield database, proxy.faults
        database.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def faulty_database(request: pytest.FixtureRequest) -> Iterator[tuple[Database, Faults]]:
    with faulty(request) as made:
        yield made


def _write(database: Database, name: str) -> None:
    with database.write() as session:
        session.add(Lease(name=name, holder="x", fence=1, until=database.now(session)))


def _names(database: Database) -> list[str]:
    with database.read() as session:
        return sorted(session.scalars(select(Lease.name)))


def test_an_answer_is_lost_and_a_commit_is_lost(faulty_database: tuple[Database, Faults]) -> None:
    database, faults = faulty_database
    _write(database, "before")
    faults.lose_answer(having="unheard")
    _write(database, "heard")
    with pytest.raises(DatabaseUnavailable):
        _write(database, "unheard")
    assert _names(database) == ["before", "heard", "unheard"]
    faults.lose_commit()
    with pytest.raises(DatabaseUnavailable):
        _write(database, "lost")
    _write(database, "after")
    assert _names(database) == ["after", "before", "heard", "unheard"]
    assert faults.done == [("answer", "unheard"), ("commit", "")]


def test_every_so_many_th(faulty_database: tuple[Database, Faults]) -> None:
    database, faults = faulty_database
    faults.every(3)
    for number in range(6):
        if number % 3 == 2:
            with pytest.raises(DatabaseUnavailable):
                _write(database, str(number))
        else:
            _write(database, str(number))
    assert _names(database) == list("012345")
