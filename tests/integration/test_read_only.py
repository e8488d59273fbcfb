# SPDX-License-Identifier: GPL-3.0-or-later
"""A PostgreSQL server that may not be written to for a while, as a standby or one whose disk is full: it is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from relengq.engine.keeper import Keeper
from relengq.errors import DatabaseUnavailable
from relengq.testing import Bench

pytestmark = pytest.mark.postgresql
CHAIN = "steps: [{name: one, playbook: hello.yml}, {name: two, playbook: hello.yml}]\n"


@pytest.fixture
def bench(make_postgresql_bench: Callable[..., Bench]) -> Bench:
    return make_postgresql_bench(chain=CHAIN)


@pytest.fixture
def writable(bench: Bench) -> Iterator[Callable[[bool], None]]:
    """Says of the database's new connections whether they may write; those of the bench are new then."""
    url = bench.installation.database.url
    with psycopg.connect(
        host=str(url.query["host"]), user=url.username, dbname="postgres", autocommit=True
    ) as connection:

        def switch(may: bool) -> None:
            connection.execute(
                f"ALTER DATABASE {url.database} SET default_transaction_read_only = {'off' if may else 'on'}"  # type: ignore[arg-type]
            )
            if not may:
                bench.installation.database.close()

        yield switch


def test_it_is_away_until_it_may_be_written_to(bench: Bench, writable: Callable[[bool], None]) -> None:
    run_id = bench.start("chain")
    held = bench.claim()
    assert held is not None
    writable(False)
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        bench.finish(held)
    writable(True)
    bench.finish(held)
    assert bench.steps(run_id) == {"one": "succeeded", "two": "queued"}


def test_a_lease_outlives_it(bench: Bench, writable: Callable[[bool], None]) -> None:
    bench.start("chain")
    held = bench.claim()
    assert held is not None
    keeper = Keeper(bench.installation, held, since=time.monotonic())
    writable(False)
    before = keeper.until()
    with capture_logs() as logs:
        keeper._renew()
    assert [line["event"] for line in logs] == ["lease.database_away"]
    assert keeper.until() == before
    writable(True)
    keeper._renew()
    assert keeper.until() > before
    assert keeper.stop() is None


def test_a_connection_that_waits_for_an_answer_is_probed(bench: Bench) -> None:
    with bench.installation.database.read() as session:
        session.execute(text("SELECT 1"))
        driver = session.connection().connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        given = driver.info.get_parameters()
    assert int(given["keepalives_idle"]) + int(given["keepalives_interval"]) * int(given["keepalives_count"]) <= 15
