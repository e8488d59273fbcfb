# SPDX-License-Identifier: GPL-3.0-or-later
"""The servers that the tests stand on are real, private, and go away with the test run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
from kombu import Connection
from redis import Redis

from tests.support.processes import alive
from tests.support.servers import PostgreSQLServer, RabbitMQServer, RedisServer, short_directory
from tests.support.waiting import wait_until


def test_redis_keeps_its_data_over_a_restart(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        server.ready()
        with Redis.from_url(server.url) as client:
            client.set("kept", "1")
        server.kill()
        server.start()
        server.ready()
        with Redis.from_url(server.url) as client:
            assert client.get("kept") == b"1"
    finally:
        server.stop()


def test_postgresql_gives_each_test_a_database_of_its_own(postgresql_server: PostgreSQLServer) -> None:
    with postgresql_server.database() as one, postgresql_server.database() as other:
        assert one != other
        with psycopg.connect(one.replace("+psycopg", "")) as connection:
            connection.execute("CREATE TABLE only_here (id int)")
        with psycopg.connect(other.replace("+psycopg", "")) as connection:
            assert connection.execute("SELECT to_regclass('only_here')").fetchone() == (None,)


@pytest.mark.rabbitmq
def test_rabbitmq_takes_and_gives_a_message(rabbitmq_server: RabbitMQServer) -> None:
    with Connection(rabbitmq_server.url) as connection, connection.SimpleQueue("greetings") as queue:
        queue.put({"hello": "world"})
        message = queue.get(timeout=10)
        message.ack()
    assert message.payload == {"hello": "world"}


_KILLED_RUN = """
import sys, tempfile, time
from pathlib import Path
from tests.support.servers import PostgreSQLServer, RabbitMQServer, RedisServer

servers = []
for kind in (RedisServer, PostgreSQLServer, RabbitMQServer):
    directory = Path(sys.argv[1]) / kind.__name__
    directory.mkdir()
    server = kind(directory)
    if kind is PostgreSQLServer:
        server.create()
    server.start()
    server.ready()
    servers.append(server)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.rabbitmq
def test_nothing_stays_behind_when_a_test_run_is_killed() -> None:
    """The servers of a test run that gets SIGKILL end with it, whatever they have started themselves."""
    with short_directory() as directory:
        run = subprocess.Popen(
            [sys.executable, "-c", _KILLED_RUN, str(directory)],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert run.stdout is not None
        with run.stdout:
            assert run.stdout.readline() == b"ready\n"
        children = [each.pid for each in psutil.Process(run.pid).children(recursive=True)]
        assert len(children) >= 4
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        wait_until(lambda: not any(map(alive, children)), 20, "all servers ended")
