# SPDX-License-Identifier: GPL-3.0-or-later
"""Ambiguous commits: the transaction is in the database, and who committed it is told that the connection broke.

``CommitProxy`` stands between processes and a PostgreSQL server::

    with commit_proxy(postgresql_server.directory) as proxy:
        url = proxy.url("relengq")                            # for RELENGQ_DATABASE_URL
        proxy.faults.lose_answer(having="attempt succeeded")  # the next commit that wrote so happens, and nobody hears
        proxy.faults.lose_commit(times=3)                     # the next three commits never reach the server
        proxy.faults.every(10)                                # until told otherwise, every tenth answer is lost
        proxy.faults.done                                     # what was done: [("answer", "attempt succeeded"), …]

``CommitHook`` does the same to the connections of one Database in this process, of SQLite or PostgreSQL.
"""

from __future__ import annotations

import socket
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from relengq.database import Database
from tests.support.proxies import Door

_COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
"""PostgreSQL's protocol: a simple query. Nothing follows it before its answer has come."""
_SOCKET = ".s.PGSQL.5432"
What = Literal["answer", "commit"]


@dataclass
class _Order:
    what: What
    times: int
    having: str


@dataclass
class Faults:
    """Which commits go wrong. Safe to use from any thread."""

    done: list[tuple[What, str]] = field(default_factory=list)
    """What went wrong so far: whether the answer or the commit was lost, and what it was looked for by."""
    _orders: list[_Order] = field(default_factory=list)
    _period: int = 0
    _seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def lose_answer(self, times: int = 1, having: str = "") -> None:
        """Let so many commits happen and the client not hear of it; only of transactions that said ``having``."""
        with self._lock:
            self._orders.append(_Order("answer", times, having))

    def lose_commit(self, times: int = 1, having: str = "") -> None:
        """Let so many commits not happen; the client sees the very same error."""
        with self._lock:
            self._orders.append(_Order("commit", times, having))

    def every(self, period: int) -> None:
        """Lose the answer of every ``period``-th commit, whatever it says; 0: none."""
        with self._lock:
            self._period, self._seen = period, 0

    def judge(self, said: bytes) -> What | None:
        """What is to go wrong with the commit of a transaction that said all this to the server."""
        with self._lock:
            for order in self._orders:
                if order.times > 0 and order.having.encode() in said:
                    order.times -= 1
                    self.done.append((order.what, order.having))
                    return order.what
            self._seen += 1
            if self._period and self._seen % self._period == 0:
                self.done.append(("answer", ""))
                return "answer"
            return None


class CommitProxy(Door):
    """A PostgreSQL server's unix socket under another directory, or a TCP port of ``host`` with ``port``."""

    def __init__(
        self, server_directory: Path, directory: Path, port: int | None = None, host: str = "127.0.0.1"
    ) -> None:
        super().__init__()
        self.faults = Faults()
        self.directory = directory
        self.port = port
        self._host = host
        self._server = str(server_directory / _SOCKET)

    def url(self, database: str, user: str = "postgres", host: str = "127.0.0.1") -> str:
        """The database's URL by way of the proxy."""
        place = f"{host}:{self.port}" if self.port else ""
        more = "" if self.port else f"?host={self.directory}"
        return f"postgresql+psycopg://{user}@{place}/{database}{more}"

    def via(self, url: str) -> str:
        """The URL of a database of the same server, by way of the proxy."""
        return self.url(url.partition("?")[0].rpartition("/")[2])

    def listener(self) -> socket.socket:
        if self.port:
            return socket.create_server((self._host, self.port))
        (self.directory / _SOCKET).unlink(missing_ok=True)
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(self.directory / _SOCKET))
        made.listen()
        return made

    def connected(self) -> socket.socket:
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(self._server)
        except OSError:
            far.close()
            raise
        return far

    def forward(self, near: socket.socket, far: socket.socket) -> None:
        lost = threading.Event()
        for work in (self._to_server, self._to_client):
            threading.Thread(target=work, args=(near, far, lost), daemon=True).start()

    def _to_server(self, near: socket.socket, far: socket.socket, lost: threading.Event) -> None:
        said = bytearray()

        def forward(data: bytes) -> bool:
            said.extend(data)
            if said.endswith(_COMMIT):
                what = self.faults.judge(bytes(said))
                said.clear()
                if what == "commit":
                    return False
                if what == "answer":
                    lost.set()
            elif data.startswith(b"Q") and b"ROLLBACK" in data:
                said.clear()
            far.sendall(data)
            return True

        self._pump(near, far, forward)

    def _to_client(self, near: socket.socket, far: socket.socket, lost: threading.Event) -> None:
        def forward(data: bytes) -> bool:
            if lost.is_set():  # the server has answered, so it is done
                return False
            near.sendall(data)
            return True

        self._pump(far, near, forward)

    def _pump(self, source: socket.socket, target: socket.socket, forward: Callable[[bytes], bool]) -> None:
        self._sockets.add(source)
        with suppress(OSError):
            while (data := source.recv(65536)) and forward(data):
                pass
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._sockets.discard(source)
        source.close()


@contextmanager
def commit_proxy(server_directory: Path, port: int | None = None) -> Iterator[CommitProxy]:
    """A proxy in front of the PostgreSQL server whose socket is in this directory; open, and shut at the end."""
    with tempfile.TemporaryDirectory(prefix="relengq-") as name:
        made = CommitProxy(server_directory, Path(name), port)
        made.open()
        try:
            yield made
        finally:
            made.shut()


class CommitHook:
    """The same faults for the connections of one Database in this process. Use as a context."""

    def __init__(self, database: Database) -> None:
        self.faults = Faults()
        self._engine = database.engine

    def __enter__(self) -> Faults:
        event.listen(self._engine, "before_cursor_execute", self._said)
        event.listen(self._engine, "begin", self._begun)
        event.listen(self._engine, "commit", self._commit)
        return self.faults

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "before_cursor_execute", self._said)
        event.remove(self._engine, "begin", self._begun)
        event.remove(self._engine, "commit", self._commit)

    def _begun(self, connection: Connection) -> None:
        connection.info["said"] = bytearray()

    def _said(self, connection: Connection, _: object, statement: str, parameters: object, *more: object) -> None:
        connection.info.setdefault("said", bytearray()).extend(f"{statement} {parameters!r}\n".encode())

    def _commit(self, connection: Connection) -> None:
        what = self.faults.judge(bytes(connection.info.get("said", b"")))
        if what is not None:
            driver = connection.connection.driver_connection
            assert driver is not None
            if what == "answer":
                driver.commit()
            else:
                driver.rollback()
            cause = sqlite3.OperationalError("disk I/O error")
            raise OperationalError("COMMIT", None, cause, connection_invalidated=False)
