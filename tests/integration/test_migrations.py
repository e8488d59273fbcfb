# SPDX-License-Identifier: GPL-3.0-or-later
"""The migrations make exactly the tables that the models say, on both databases."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, text

from relengq import migrations
from relengq.database import Database
from relengq.errors import DatabaseUnavailable
from relengq.models import Base
from tests.support.servers import PostgreSQLServer


def test_the_tables_are_those_of_the_models(database: Database) -> None:
    with database.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    assert migrations.current(database) == migrations.head()
    migrations.require_head(database)


UPGRADE = "import sys; from relengq import database, migrations; migrations.upgrade(database.Database(sys.argv[1]))"


def upgrade_four_times_at_once(url: str) -> None:
    children = [subprocess.Popen([sys.executable, "-c", UPGRADE, url]) for _ in range(4)]
    assert [child.wait(60) for child in children] == [0, 0, 0, 0]
    database = Database(url)
    migrations.require_head(database)
    database.close()


def test_upgrades_at_once_take_turns(tmp_path: Path) -> None:
    upgrade_four_times_at_once(f"sqlite:///{tmp_path / 'new.db'}")


def test_no_other_upgrade_comes_between_two_migrations(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    database = Database(url)
    begun: list[str] = []

    def let_another_in(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("BEGIN"):
            begun.append(statement)
            if len(begun) > 1:
                subprocess.run([sys.executable, "-c", UPGRADE, url], check=True)

    event.listen(database.engine, "before_cursor_execute", let_another_in)
    migrations.upgrade(database)
    assert begun
    migrations.require_head(database)
    database.close()


@pytest.mark.postgresql
def test_upgrades_at_once_take_turns_on_postgresql(postgresql_server: PostgreSQLServer) -> None:
    postgresql_server.execute("CREATE DATABASE upgraded")
    upgrade_four_times_at_once(postgresql_server.url("upgraded"))


def test_a_database_of_another_version_is_refused_with_advice(sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseUnavailable, match=r"is at revision 9999, not .* Run 'relengq db upgrade'"):
        migrations.require_head(sqlite_database)


@pytest.mark.postgresql
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_is_refused_with_advice(
    postgresql_server: PostgreSQLServer, tmp_path: Path, encoding: str
) -> None:
    """In SQL_ASCII the driver has bytes for text, which upsets everybody who expects text."""
    name = f"in_{encoding.lower()}"
    postgresql_server.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    done = subprocess.run(
        [sys.executable, "-m", "relengq", "db", "upgrade"],
        env={**os.environ, "RELENGQ_SITE": str(tmp_path), "RELENGQ_DATABASE_URL": postgresql_server.url(name)},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert f"has the encoding {encoding}; relengq needs UTF8" in " ".join(done.stderr.split())
    assert "createdb --template=template0 --encoding=UTF8" in " ".join(done.stderr.split())
    assert "bug" not in done.stderr
    database = Database(postgresql_server.url(name))
    with pytest.raises(DatabaseUnavailable, match="needs UTF8"), database.read():
        pass
    database.close()
