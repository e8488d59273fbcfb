# SPDX-License-Identifier: GPL-3.0-or-later
"""Real servers for tests: private, on free ports or unix sockets, owned by the test run."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest

from tests.support.processes import Process
from tests.support.waiting import wait_until

HOST = "127.0.0.1"

S = TypeVar("S", "RedisServer", "RabbitMQServer", "PostgreSQLServer")


_PORTS = range(15_000, 32_000)
"""Below those that the kernel gives to clients (net.ipv4.ip_local_port_range), which come and go all the time."""


def free_port() -> int:
    """A TCP port of the loopback that nobody uses, nor is likely to use before the caller does."""
    while True:
        # Not from random: Hypothesis seeds that in the same way in each process of a test run.
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


def _program(*names: str, also: str = "") -> Path:
    """A program of PATH, else of the directories that match ``also``; without it the test fails."""
    for name in names:
        elsewhere = sorted(Path("/").glob(f"{also.removeprefix('/')}/{name}"), reverse=True) if also else []
        if found := shutil.which(name) or next(iter(elsewhere), None):
            return Path(found)
    pytest.fail(f"There is no {' or '.join(names)} on this machine; 'make test' says what to install.")


def _answers(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((HOST, port)) == 0


class RedisServer(Process):
    """A redis or valkey server on a free TCP port. Its data survives a restart."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(directory),
            "save": "",
            "appendonly": "yes",
        }
        arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
        super().__init__([_program("redis-server", "valkey-server"), *arguments], directory, name="redis")

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def ready(self) -> None:
        self.wait_for_log("Ready to accept connections")


class RabbitMQServer(Process):
    """A RabbitMQ node of its own, beside any other: own name, ports, directories and port mapper (epmd).

    It takes five to ten seconds to start, so tests share one. ``parameters`` are those of its application
    ``rabbit``: consumer_timeout in milliseconds, for instance.
    """

    def __init__(self, directory: Path, **parameters: int) -> None:
        self.port, distribution, mapper = free_port(), free_port(), free_port()
        for name in ("data", "logs", "home"):
            (directory / name).mkdir(exist_ok=True)
        (directory / "rabbitmq.conf").write_text(f"listeners.tcp.1 = {HOST}:{self.port}\n")
        environment = {
            "HOME": str(directory / "home"),
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": f"relengq-{uuid.uuid4().hex[:8]}@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": " ".join(f"-rabbit {key} {parameters[key]}" for key in parameters),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            # The start script then becomes the server, instead of staying between it and us.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        # The start script of /usr/sbin would change to the user rabbitmq and its directories.
        program = _program("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")
        super().__init__([program], directory, environment, name="rabbitmq")
        # The server would start a port mapper that stays behind.
        self._mapper = Process([_program("epmd"), "-port", str(mapper)], directory, self.environment, name="epmd")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}//"

    def start(self) -> None:
        if not self._mapper.running:
            self._mapper.start()
            port = int(self.environment["ERL_EPMD_PORT"])
            wait_until(lambda: _answers(port), what="the port mapper answers")
        super().start()

    def ready(self) -> None:
        self.wait_for_log("Server startup complete", 240)

    def stop(self, timeout: float = 20.0) -> None:
        super().stop(timeout)
        self._mapper.stop()


class PostgreSQLServer(Process):
    """A PostgreSQL server on a unix socket. It refuses to run as root, so root starts it as another user."""

    def __init__(self, directory: Path) -> None:
        programs = "/usr/lib/postgresql/*/bin"
        self._initdb = _program("initdb", also=programs)
        self._dump = _program("pg_dump", also=programs)
        self._owner = _unprivileged_user() if os.getuid() == 0 else None
        self.data = directory / "data"
        options = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")
        settings = [part for option in options for part in ("-c", option)]
        argv = [_program("postgres", also=programs), "-D", self.data, "-k", directory, "-h", "", *settings]
        super().__init__(argv, directory, {"LC_ALL": "C.UTF-8"}, name="postgresql")
        if self._owner is not None:
            os.chown(directory, self._owner.pw_uid, self._owner.pw_gid)

    def command(self) -> list[str]:
        # The kernel forgets the wish to die with the parent when the user changes, so setpriv makes it
        # afterwards.
        return [*self._as_owner("--pdeathsig", "KILL"), *self.argv] if self._owner else super().command()

    def _as_owner(self, *options: str) -> list[str]:
        if self._owner is None:
            return []
        user = ["--reuid", str(self._owner.pw_uid), "--regid", str(self._owner.pw_gid), "--clear-groups"]
        return ["setpriv", *user, *options, "--"]

    def create(self) -> None:
        """Make the data directory."""
        argv = [self._initdb, "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        argv += ["--no-locale"]
        done = subprocess.run(
            [*self._as_owner(), *map(str, argv)],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def ready(self) -> None:
        self.wait_for_log("database system is ready to accept connections")

    def stop(self, timeout: float = 10.0) -> None:
        # SIGTERM would wait for clients; SIGINT is PostgreSQL's fast shutdown.
        self.signal(signal.SIGINT)
        super().stop(timeout)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.directory}"

    def execute(self, statement: str) -> None:
        with psycopg.connect(f"host={self.directory} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[arg-type]

    def dump(self, database: str) -> bytes:
        """Everything in a database, as pg_dump writes it."""
        argv = [self._dump, "-h", self.directory, "-U", "postgres", database]
        return subprocess.run(list(map(str, argv)), capture_output=True, check=True).stdout

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """The URL of a new, empty database, which is dropped afterwards."""
        name = f"t{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _unprivileged_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.fail("PostgreSQL does not run as root, and there is no user postgres or nobody.")


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory with a short path, for unix sockets, that other users may pass through."""
    with tempfile.TemporaryDirectory(prefix="relengq-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def running(server: S) -> Iterator[S]:
    """The server, started and ready; stopped afterwards."""
    server.start()
    try:
        server.ready()
        yield server
    finally:
        server.stop()
