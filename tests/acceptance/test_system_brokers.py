# SPDX-License-Identifier: GPL-3.0-or-later
"""Brokers that lose what they have, lose patience, or vanish behind a half-open connection: Redis and RabbitMQ.

One step is played during all of it, for longer than each broker waits for an acknowledgement.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import pytest
from kombu import Connection
from redis import Redis

from tests.support.brokers import queues, ready
from tests.support.processes import Process
from tests.support.proxies import Proxy, proxy
from tests.support.servers import RabbitMQServer, RedisServer, running
from tests.support.systems import PATIENCE, Gates, System, system
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long

PATIENCE_OF_BROKERS = 2
"""Seconds after which a task that is not acknowledged would be given to another worker, or the channel be closed."""
FILES = {
    "relengq.toml": "[celery]\nbroker_heartbeat = 4\n",
    "playbooks/workflows/queued.yml": """\
inputs:
  gates: {type: string}
steps:
  - {name: first, playbook: gated.yml, vars: {gate_name: first}, queue: steps}
""",
}
WORKER = """\
import sys
from relengq import celery
from celery.bin.celery import main
as_shipped = celery.configuration
def impatient(settings):
    values = as_shipped(settings)
    if values["worker_disable_prefetch"]:
        values["broker_transport_options"]["visibility_timeout"] = {patience}
        values["broker_transport_options"]["socket_timeout"] = 4
    return values
celery.configuration = impatient
sys.argv = ["celery", "-A", "relengq", "worker", "-Q", "steps", "-c", "2", "-l", "INFO"]
main()
"""


@dataclass
class Place:
    """An installation whose worker reaches the broker through a network that can fail."""

    made: System
    server: RedisServer | RabbitMQServer
    network: Proxy
    worker: Process
    long: str
    long_gates: Gates
    begun: float
    runs: dict[str, Gates] = field(default_factory=dict)

    def run(self, name: str) -> tuple[str, Gates]:
        gates = self.made.gates(name)
        run_id = self.made.run("queued", gates=str(gates.directory))
        self.runs[run_id] = gates
        return run_id, gates

    def waiting(self) -> int:
        return ready(self.made.broker_url, "steps")

    def played(self, run_id: str) -> None:
        self.made.wait(run_id, "succeeded", timeout=4 * PATIENCE)


@pytest.fixture(scope="module", params=["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("broker")
    server = (
        RedisServer(directory)
        if request.param == "redis"
        else RabbitMQServer(directory, consumer_timeout=PATIENCE_OF_BROKERS * 1000, channel_tick_interval=500)
    )
    with (
        running(server) as broker,
        proxy(broker.port) as network,
        system(tmp_path_factory.mktemp("brokers"), FILES, broker.url, RELENGQ_RESEND_SECONDS="2") as made,
    ):
        network.open()
        through = broker.url.replace(str(broker.port), str(network.port))
        code = WORKER.format(patience=PATIENCE_OF_BROKERS)
        worker = made.process("worker", sys.executable, "-c", code, RELENGQ_BROKER_URL=through)
        made.clock()
        worker.wait_for_log("ready.", 4 * PATIENCE)
        gates = made.gates("long")
        long = made.run("queued", gates=str(gates.directory))
        made.reach(long, gates, "first start", timeout=2 * PATIENCE)
        yield Place(made, broker, network, worker, long, gates, time.monotonic())


def test_what_the_broker_has_lost_is_sent_again(place: Place) -> None:
    occupying, occupied = place.run("occupying")
    place.made.reach(occupying, occupied, "first start", timeout=2 * PATIENCE)
    waiting = [place.run(f"waiting-{number}") for number in range(2)]
    for _, gates in waiting:
        gates.open("first")
    wait_until(lambda: place.waiting() >= 2, PATIENCE, "the broker has both, the worker has neither")
    if isinstance(place.server, RedisServer):
        with Redis.from_url(place.server.url) as client:
            assert client.hlen("unacked") == 0, "what is played is acknowledged, so nobody delivers it again"
            client.flushall()
    else:
        assert queues(place.server, "type", "messages_unacknowledged")["steps"] == ("quorum", "0")
        with Connection(place.server.url) as connection, connection.channel() as channel:
            channel.queue_purge("steps")
    wait_until(lambda: place.waiting() >= 2, 2 * PATIENCE, "they were sent again")
    occupied.open("first")
    for run_id in (occupying, *(run_id for run_id, _ in waiting)):
        place.played(run_id)


def test_a_queue_that_is_deleted_under_the_worker(place: Place) -> None:
    if isinstance(place.server, RedisServer):
        with Redis.from_url(place.server.url) as client:
            client.delete("steps", "_kombu.binding.steps")
    else:
        with Connection(place.server.url) as connection, connection.channel() as channel:
            channel.queue_delete("steps")
    run_id, gates = place.run("deleted")
    gates.open("first")
    place.played(run_id)


def test_a_half_open_connection(place: Place) -> None:
    """The broker gives the task to a worker that it has not got any more, and the worker waits for nothing."""
    place.network.swallow()
    run_id, gates = place.run("half-open")
    gates.open("first")
    place.played(run_id)


def test_a_broker_that_is_away_for_longer_than_everybody_waits(place: Place) -> None:
    place.server.stop()
    run_id, gates = place.run("away")
    gates.open("first")
    wait_until(lambda: place.worker.new_log.count("Trying again") > 2, 2 * PATIENCE, "the worker tries again and again")
    place.server.start()
    place.server.ready()
    place.played(run_id)


def test_the_long_step_was_played_once_and_so_was_every_other(place: Place) -> None:
    assert time.monotonic() - place.begun > 5 * PATIENCE_OF_BROKERS
    assert place.worker.running
    player = place.made.get(place.long).steps[0].attempts[-1].pid
    assert psutil.Process(player).is_running()
    place.long_gates.open("first")
    place.played(place.long)
    for run_id, gates in {**place.runs, place.long: place.long_gates}.items():
        assert gates.ledger == ["first start", "first end"]
        assert [line.state for line in place.made.attempts(run_id)] == ["succeeded"]
