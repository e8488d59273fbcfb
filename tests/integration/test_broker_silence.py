# SPDX-License-Identifier: GPL-3.0-or-later
"""A broker that hangs or comes back: who sends learns it soon, and sends again over the connection that it keeps."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu.pools import producers
from redis import Redis
from redis.exceptions import ResponseError

from relengq import celery
from relengq.errors import BrokerUnavailable
from tests.support.servers import RedisServer
from tests.support.waiting import busy

SOON = 6.0
"""Seconds in which a person is told, on a quiet machine."""


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    server.ready()
    application = celery.Celery("silence", loader=celery.SiteLoader, set_as_current=False)
    monkeypatch.setattr(celery, "app", application)
    monkeypatch.setenv("RELENGQ_SITE", str(tmp_path))
    monkeypatch.setenv("RELENGQ_BROKER_URL", server.url)
    try:
        yield server
    finally:
        os.kill(server.pid, signal.SIGCONT)
        producers.clear()
        application.close()
        server.stop()


def send(number: int) -> None:
    celery.enqueue(number, task_id=str(number), queue="quiet", label="a step")


def test_who_sends_or_counts_is_told_soon_that_the_broker_hangs(broker: RedisServer) -> None:
    for warm in (False, True):
        os.kill(broker.pid, signal.SIGSTOP)
        for ask in (lambda: send(1), lambda: celery.queue_length("quiet")):
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable, match="does not answer"):
                ask()
            assert time.monotonic() - started < busy(SOON), f"{warm=}"
        os.kill(broker.pid, signal.SIGCONT)
        send(2)
    assert celery.queue_length("quiet") >= 2


def test_sending_keeps_its_connection_and_survives_a_restart(broker: RedisServer) -> None:
    with Redis.from_url(broker.url) as client:
        send(1)
        before = client.info("stats")["total_connections_received"]
        for number in range(2, 12):
            send(number)
        assert client.info("stats")["total_connections_received"] == before
    broker.kill()
    broker.start()
    broker.ready()
    send(12)
    assert celery.queue_length("quiet") == 12


def test_a_queue_that_is_refused_is_no_broker_that_is_away(broker: RedisServer) -> None:
    with Redis.from_url(broker.url) as client:
        client.hset("quiet", "somebody", "else's")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            send(1)
        client.delete("quiet")
        rights = {"keys": ["_kombu*", "loud"], "categories": ["+@all"], "channels": ["*"]}
        client.acl_setuser("default", reset=True, enabled=True, nopass=True, **rights)
        with pytest.raises(ResponseError, match="permissions to access"):
            send(1)
        client.acl_setuser("default", reset=True, enabled=True, nopass=True, **rights | {"keys": ["*"]})
        send(2)
        client.config_set("maxmemory", "1mb")
        with pytest.raises(BrokerUnavailable, match="maxmemory"):
            send(3)


def test_a_client_that_has_nothing_to_say_has_waited(broker: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait() -> None:
        raise TimeoutError

    monkeypatch.setattr(celery, "_impatient", wait)
    with pytest.raises(BrokerUnavailable, match=r"does not answer: timed out\."):
        celery.queue_length("quiet")


def test_workers_listen_with_more_patience(broker: RedisServer) -> None:
    options = celery.app.connection_for_read().transport_options
    assert (options["socket_timeout"], options["retry_on_timeout"]) == (15, True)
