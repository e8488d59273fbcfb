# SPDX-License-Identifier: GPL-3.0-or-later
"""The database of an installation: SQLite or PostgreSQL, in transactions that end whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import ColumnElement, DateTime, Executable, Table, create_engine, event, func, literal, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InvalidatePoolError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from relengq.errors import DatabaseUnavailable, SiteFault
from relengq.forks import NoForks

_BUSY_SECONDS = 20
"""For how long a writer waits for SQLite's one write lock before it says so."""
_FRESH_SECONDS = 1.0
"""A connection that was used within this time is taken for sound. If it is not, its transaction fails, as one does
whose connection breaks half-way."""
_USED = "relengq.used"
"""When a connection was used last, in monotonic seconds."""
_BACKENDS = ("sqlite", "postgresql")
_EXAMPLE = "For instance postgresql+psycopg://relengq@db/relengq; empty: SQLite in the state directory."

_READ_ONLY = "25006"
"""PostgreSQL's code for a write where nothing may be written: on a standby, or on a server whose disk is full."""
_POSTGRESQL: dict[str, str | int] = {
    "connect_timeout": 5, "tcp_user_timeout": 15_000, "keepalives_idle": 5, "keepalives_interval": 5,
    "keepalives_count": 2,
}  # fmt: skip
_LIMITS = "-c lock_timeout=20s -c idle_in_transaction_session_timeout=30s"
"""libpq's connection parameters. A process that was stopped inside a transaction must not block the others for ever,
and a connection that went half-open must be noticed: by what is sent on it, and while an answer is waited for."""


class Database:
    """The database of an installation. Every method may raise DatabaseUnavailable.

    ``read`` and ``write`` give a Session in one transaction. ``write`` takes SQLite's write lock at once, so that two
    writers wait for each other instead of failing half-way; on PostgreSQL the rows are locked by the queries.
    """

    def __init__(self, url: str) -> None:
        """Take the URL; nothing is opened yet. Raises SiteFault when it names no database that relengq knows."""
        try:
            self.url = make_url(url)
        except ArgumentError:
            raise SiteFault("The setting database_url is no URL of a database.", hint=_EXAMPLE) from None
        backend = self.url.get_backend_name()
        if backend not in _BACKENDS:
            raise SiteFault(
                f"The setting database_url names '{backend}'; relengq knows {' and '.join(_BACKENDS)}.", hint=_EXAMPLE
            )
        self.sqlite = backend == "sqlite"
        self.before_commit: list[Callable[[Session], None]] = []
        """What is asked, in order, whether it has something to add to a transaction that is about to be committed."""
        self._engine: Engine | None = None
        # SQLite keeps in memory which locks its own process holds. What is copied of that while a thread holds one is
        # never given back in the new process, which would wait for itself for ever.
        self._in_use = NoForks(_BUSY_SECONDS + 5).held if self.sqlite else nullcontext

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine, made on first use so that a forked process makes its own."""
        if self._engine is None:
            try:
                self._engine = self._make()
            except (ModuleNotFoundError, NoSuchModuleError) as error:
                raise SiteFault(
                    f"The driver that the setting database_url names is not installed: {error}.",
                    hint="Install it: pip install 'relengq[postgresql]'.",
                ) from None
        return self._engine

    @property
    def shown(self) -> str:
        """Its address for people, without passwords."""
        hidden = {name: "hidden" for name in self.url.query if "password" in name.lower()}
        return self.url.update_query_dict(hidden).render_as_string(hide_password=True)

    @property
    def missing(self) -> bool:
        """Whether this is an SQLite database whose file nobody has made yet. Only an upgrade makes it."""
        return self.sqlite and bool(self.url.database) and not Path(str(self.url.database)).exists()

    def _make(self) -> Engine:
        if not self.sqlite:
            own = self.url.query.get("options", "")
            engine = create_engine(
                self.url,
                pool_size=5,
                max_overflow=10,
                hide_parameters=True,
                connect_args={**_POSTGRESQL, "options": f"{own if isinstance(own, str) else ''} {_LIMITS}".strip()},
            )
            _Pings(engine)
            # Before SQLAlchemy's own first look at the database, which another encoding upsets.
            event.listen(engine, "connect", self._demand_utf8, insert=True)
            return engine
        if self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = create_engine(self.url, hide_parameters=True, connect_args={"timeout": _BUSY_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _demand_utf8(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        """In SQL_ASCII the driver gives bytes for text, and others have no place for what people and plays write."""
        encoding = connection.info.parameter_status("server_encoding")
        if encoding == "UTF8":
            return
        connection.close()
        raise DatabaseUnavailable(
            f"The database {self.shown} has the encoding {encoding}; relengq needs UTF8.",
            hint="Make it anew: createdb --template=template0 --encoding=UTF8 NAME. An encoding cannot be changed.",
        )

    def forget(self) -> None:
        """Drop connections that were inherited through a fork, without closing them for the parent."""
        if self._engine is not None:
            self._engine.dispose(close=False)
            self._engine = None

    def close(self) -> None:
        """Close all connections."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the database, from its first question on."""
        with self._session({} if self.sqlite else {"isolation_level": "REPEATABLE READ"}) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are committed at the end, or not at all."""
        with self._session({"relengq_write": True}) as session:
            session.connection()  # begins it, and what time it is is asked when this is the one that writes
            yield session
            for addition in self.before_commit:
                addition(session)
            session.commit()

    def execute(self, statement: Executable) -> None:
        """Execute one statement that is a transaction by itself."""
        with self._connection({"relengq_write": True} if self.sqlite else {"isolation_level": "AUTOCOMMIT"}) as bound:
            bound.execute(statement)
            bound.commit()

    @contextmanager
    def _session(self, options: Mapping[str, bool | str]) -> Iterator[Session]:
        with self._connection(options) as bound, Session(bound, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def _connection(self, options: Mapping[str, bool | str]) -> Iterator[Connection]:
        if self.missing:
            raise DatabaseUnavailable(f"The database {self.url} does not exist yet.", hint="Run 'relengq db upgrade'.")
        try:
            with self._in_use(), self.engine.connect() as connection:
                try:
                    yield connection.execution_options(**options)
                except DBAPIError as error:
                    if _read_only(error):  # another server may be the one that is written to by now
                        connection.invalidate(error)
                    raise
        except (DBAPIError, PoolTimeout) as error:
            # SQLite has no class of its own for a file that is no database, or a damaged one.
            known = away(error) or type(error) is DatabaseError
            if not known and not any(sign in str(error) for sign in ("does not exist", "permission denied")):
                raise
            raise DatabaseUnavailable(*_explain(self, error)) from error

    def now(self, session: Session | None = None) -> datetime:
        """The database's time, so that leases do not depend on the clocks of many hosts.

        Without a session, one of its own is used where the database has to be asked.
        """
        if self.sqlite:
            return datetime.now(UTC)
        if session is not None:
            return _clock(session)
        with self.read() as own:
            return _clock(own)

    def moment(self, later: timedelta = timedelta(0)) -> ColumnElement[datetime]:
        """The database's time, or so much ``later``, within the statement that is executed next."""
        if self.sqlite:
            return literal(datetime.now(UTC) + later, DateTime())
        now: ColumnElement[datetime] = func.clock_timestamp(type_=DateTime(timezone=True))
        return now + later if later else now


def _clock(session: Session) -> datetime:
    moment: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    return moment.astimezone(UTC)


def in_utc(moment: datetime) -> datetime:
    """What a statement gave of ``Database.moment``."""
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def away(error: Exception) -> bool:
    """Whether an error says that the database is away or busy, and nothing of what was asked of it."""
    if isinstance(error, OperationalError | PoolTimeout):
        return True
    return isinstance(error, DBAPIError) and (error.connection_invalidated or _read_only(error))


def _read_only(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) == _READ_ONLY


def insert(session: Session, table: type[DeclarativeBase] | Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT of the session's database, which can say ON CONFLICT."""
    return sqlite.insert(table) if session.get_bind().dialect.name == "sqlite" else postgresql.insert(table)


def _explain(database: Database, error: Exception) -> tuple[str]:
    cause = getattr(error, "orig", None) or error
    first = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    where = database.shown
    if "no such table" in first or "no such column" in first or "does not exist" in first:
        return (f"The database {where} is not ready: {first}. Run 'relengq db upgrade'.",)
    return (f"The database {where} is not available: {first}. What was accepted is kept; see 'relengq doctor'.",)


class _Pings:
    """Asks a connection that was not used for a moment whether it is still there; if not, a new one takes its place.

    SQLAlchemy's own ``pool_pre_ping`` asks each time, and who hands a step on makes three transactions at once.
    """

    def __init__(self, engine: Engine) -> None:
        self._dialect = engine.dialect
        event.listen(engine, "connect", self._used)
        event.listen(engine, "checkin", self._used)
        event.listen(engine, "checkout", self._check)

    def _used(self, connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        record.info[_USED] = time.monotonic()

    def _check(self, connection: DBAPIConnection, record: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
        if time.monotonic() - record.info.get(_USED, 0.0) < _FRESH_SECONDS:
            return
        try:
            self._dialect.do_ping(connection)
        except self._dialect.loaded_dbapi.Error as error:
            if not self._dialect.is_disconnect(error, None, None):
                raise
            raise InvalidatePoolError from error


def _prepare_sqlite(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    """Write-ahead log for readers beside a writer; transactions are begun by _begin_sqlite alone."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("relengq_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
