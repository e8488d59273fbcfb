# SPDX-License-Identifier: GPL-3.0-or-later
"""The history of the tables, through Alembic: upgrade a database, or tell how far it is."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from relengq.database import Database
from relengq.errors import DatabaseUnavailable

_ONE_UPGRADE_AT_A_TIME = 0x72656C65
"""PostgreSQL's advisory lock for upgrades ("rele"): hosts that start together take turns."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def head() -> str:
    """The revision that this version of relengq needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise DatabaseUnavailable("The installation of relengq has no migrations.", hint="Install it again.")
    return revision


def current(database: Database) -> str | None:
    """The revision of the database, or None when it has no tables yet. May raise DatabaseUnavailable."""
    if database.missing:
        return None
    with database.read() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


def upgrade(database: Database) -> None:
    """Bring the database to ``head()``. Safe to call from several processes at once, and when nothing is to do."""
    config = _config()
    try:
        # Begun here, so that Alembic does not begin and commit a transaction for each migration, between which another
        # process could go on from where this one stands.
        with database.engine.connect().execution_options(relengq_write=True) as connection, connection.begin():
            if not database.sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ONE_UPGRADE_AT_A_TIME})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DatabaseError as error:
        raise DatabaseUnavailable(
            f"The database {database.shown} cannot be upgraded: {error.orig}.",
            hint="Check that it runs and that its directory may be written.",
        ) from error


def require_head(database: Database) -> None:
    """Raise DatabaseUnavailable unless the database is at ``head()``."""
    found = current(database)
    if found != head():
        state = "has no tables yet" if found is None else f"is at revision {found}, not {head()}"
        raise DatabaseUnavailable(
            f"The database {database.shown} {state}.",
            hint="Run 'relengq db upgrade'.",
        )
