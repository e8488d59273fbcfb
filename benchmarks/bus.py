# SPDX-License-Identifier: GPL-3.0-or-later
"""How many messages a second the listener takes, against a bare fedora-messaging consumer with an empty callback.

All sides drain the same messages from the same private RabbitMQ by turns in one run: the bare consumer, the listener
with a site that none of them is meant for, and the listener with a site in which each of them starts a run (SQLite on
disk, steps handed to a private Redis). ``python -m benchmarks.bus --turns 5 --messages 5000``, part of ``make bench``;
``--memory 100000`` drains so many and shows the listener's memory on the way.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pika
import psutil
from sqlalchemy import func, select

from relengq import migrations
from relengq.engine.installation import Installation, at
from relengq.models import Listener, Run
from tests.support.servers import RabbitMQServer, RedisServer, running

ROOT = Path(__file__).parents[1]
QUEUE = "bench"
TOPIC = "org.fedoraproject.prod.buildsys.tag"
PATIENCE = 600.0
LOOK_AGAIN = 0.02
BODY = {
    "build_id": 2600123, "instance": "primary", "name": "bash", "version": "5.3.0", "release": "2.fc44",
    "owner": "somebody", "user": "bodhi", "tag": "f44-updates-candidate", "tag_id": 98765,
}  # fmt: skip
PLAYBOOK = "- {name: Nothing, hosts: localhost, gather_facts: false, tasks: []}\n"
WORKFLOW = """\
inputs:
  package: {{type: string, pattern: '[A-Za-z0-9._+-]+'}}
  build: {{type: int}}
on:
  - message: {topic}
    if: msg.tag == 'f44-updates-candidate' and msg.instance == 'primary'
    inputs: {{package: "{{{{ msg.name }}}}", build: "{{{{ msg.build_id }}}}"}}
steps:
  - {{name: nothing, playbook: nothing.yml}}
"""


def empty(message: object) -> None:
    """The callback of the bare consumer."""


@dataclass(frozen=True)
class Servers:
    """What a turn works with."""

    rabbitmq: RabbitMQServer
    redis: RedisServer
    directory: Path

    @property
    def url(self) -> str:
        """The bus, as pika reads it: the virtual host ``/`` is written ``%2F``."""
        return self.rabbitmq.url.removesuffix("/") + "%2F"

    @contextmanager
    def channel(self) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
        """A channel to the bus."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            yield connection.channel()
        finally:
            connection.close()

    def configuration(self) -> Path:
        """fedora-messaging's file: one durable queue that everything is bound to."""
        file = self.directory / "fedora-messaging.toml"
        file.write_text(
            f'amqp_url = "{self.url}"\n'
            "[qos]\nprefetch_count = 100\nprefetch_size = 0\n[client_properties]\napp = 'benchmark'\n"
            f"[queues.{QUEUE}]\ndurable = true\nauto_delete = false\nexclusive = false\narguments = {{}}\n"
            f'[[bindings]]\nqueue = "{QUEUE}"\nexchange = "amq.topic"\nrouting_keys = ["#"]\n'
            "[log_config]\nversion = 1\ndisable_existing_loggers = false\n"
        )
        return file


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="turns of each side")
    parser.add_argument("--messages", type=int, default=3000, help="messages a turn")
    parser.add_argument("--memory", type=int, default=0, help="drain so many and show the listener's memory; 0: not")
    given = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("fedora-messaging", "pika", "SQLAlchemy"))
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, {packages}")
    with tempfile.TemporaryDirectory(prefix="relengq-bench-") as name:
        directory = Path(name)
        for part in ("rabbitmq", "redis"):
            (directory / part).mkdir()
        with (
            running(RabbitMQServer(directory / "rabbitmq")) as rabbitmq,
            running(RedisServer(directory / "redis")) as redis,
        ):
            servers = Servers(rabbitmq, redis, directory)
            if given.turns:
                rates(servers, given.turns, given.messages)
            if given.memory:
                memory(servers, given.memory)


def rates(servers: Servers, turns: int, count: int) -> None:
    """Messages a second of each side. Turn 0 warms up and does not count; who begins changes each turn."""
    sides: dict[str, Callable[[int], float]] = {
        "bare": lambda _: drained(servers, count, [], {}),
        "unmatched": lambda turn: listened(servers, count, turn, matched=False),
        "matched": lambda turn: listened(servers, count, turn, matched=True),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name in sides if turn % 2 else reversed(sides):
            seconds = sides[name](turn)
            if turn:
                found[name].append(count / seconds)
    print(f"\nmessages a second, {turns} turns of {count} messages each")
    for name, each in found.items():
        print(f"  {name:10} median {statistics.median(each):7.0f}, from {min(each):.0f} to {max(each):.0f}")
    for name in ("unmatched", "matched"):
        pairs = [one / bare for one, bare in zip(found[name], found["bare"], strict=True)]
        print(
            f"  {name} / bare  {statistics.median(pairs):.2f} (of single turns: {min(pairs):.2f} to {max(pairs):.2f})"
        )


def listened(servers: Servers, count: int, turn: int, *, matched: bool) -> float:
    """Seconds in which the listener drains the queue; matched ones must each have started a run."""
    installation = site(
        servers, f"{'matched' if matched else 'unmatched'}-{turn}", TOPIC if matched else "org.other.topic"
    )
    environment = {"RELENGQ_SITE": str(installation.settings.site)}

    def done() -> bool:
        return started(installation) >= count if matched else consumed(installation) >= count

    seconds = drained(servers, count, ["relengq.listener:Listener"], environment, done)
    assert started(installation) == (count if matched else 0), "not each message has started one run"
    installation.database.close()
    return seconds


def drained(
    servers: Servers,
    count: int,
    callback: list[str],
    environment: Mapping[str, str],
    done: Callable[[], bool] | None = None,
) -> float:
    """Seconds from the first message that leaves the full queue until it is empty and ``done``."""
    fill(servers, count)
    with consumer(servers, callback or ["benchmarks.bus:empty"], environment) as process:
        begun = None
        limit = time.monotonic() + PATIENCE
        with servers.channel() as channel:
            while True:
                left = channel.queue_declare(QUEUE, passive=True).method.message_count
                now = time.monotonic()
                if begun is None and left < count:
                    begun = now
                if left == 0 and begun is not None:
                    break
                assert process.poll() is None, "the consumer has ended"
                assert now < limit, "the queue does not drain"
                time.sleep(LOOK_AGAIN)
        ended = time.monotonic()
        while done and not done():
            assert time.monotonic() < limit, "the messages are not accounted for"
            time.sleep(LOOK_AGAIN)
            ended = time.monotonic() if callback and environment else ended
    return ended - begun


def fill(servers: Servers, count: int, meant_every: int = 1) -> None:
    """A queue with so many messages, each of an id of its own; of so many each, one has the tag that the site wants."""
    meant, other = json.dumps(BODY).encode(), json.dumps(BODY | {"tag": "f44-build-side-12345"}).encode()
    with servers.channel() as channel:
        channel.queue_declare(QUEUE, durable=True)
        channel.queue_purge(QUEUE)
        channel.queue_bind(QUEUE, "amq.topic", "#")
        for at in range(count):
            channel.basic_publish("amq.topic", TOPIC, other if at % meant_every else meant, properties())
        while channel.queue_declare(QUEUE, passive=True).method.message_count < count:
            time.sleep(LOOK_AGAIN)


def properties() -> pika.BasicProperties:
    """What fedora-messaging sends along."""
    headers = {
        "fedora_messaging_schema": "base.message",
        "fedora_messaging_severity": 20,
        "sent-at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
    }
    return pika.BasicProperties(
        content_type="application/json", content_encoding="utf-8", delivery_mode=2, headers=headers,
        message_id=str(uuid.uuid4()),
    )  # fmt: skip


@contextmanager
def consumer(
    servers: Servers, callback: list[str], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The stock consumer process."""
    program = Path(sys.executable).with_name("fedora-messaging")
    own = {"FEDORA_MESSAGING_CONF": str(servers.configuration()), "PYTHONPATH": str(ROOT), **environment}
    log = (servers.directory / "consumer.log").open("ab")
    with (
        log,
        subprocess.Popen(
            [program, "consume", f"--callback={callback[0]}"], env={**os.environ, **own}, stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


def site(servers: Servers, name: str, topic: str) -> Installation:
    """A site whose workflow wants the topic."""
    place = servers.directory / name
    files = {
        "relengq.toml": f'broker_url = "{servers.redis.url}"\nmax_runs_active = 1000000\n',
        "playbooks/nothing.yml": PLAYBOOK,
        "playbooks/workflows/nothing.yml": WORKFLOW.format(topic=topic),
        "workers/default.yml": "queues: [default]\n",
    }
    for path, text in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    installation = at(place)
    assert not installation.site.faults, installation.site.faults
    migrations.upgrade(installation.database)
    return installation


def started(installation: Installation) -> int:
    """How many runs there are."""
    with installation.database.read() as session:
        return session.scalar(select(func.count()).select_from(Run)) or 0


def consumed(installation: Installation) -> int:
    """How many messages the listener has accounted for."""
    with installation.database.read() as session:
        return session.scalar(select(func.sum(Listener.consumed))) or 0


def memory(servers: Servers, count: int) -> None:
    """The listener's resident memory while it drains a long queue, one message of ten starting a run."""
    installation = site(servers, "memory", TOPIC)
    fill(servers, count, meant_every=10)
    print(f"\nmemory over {count} messages")
    with consumer(servers, ["relengq.listener:Listener"], {"RELENGQ_SITE": str(installation.settings.site)}) as process:
        resident = psutil.Process(process.pid)
        told = 0
        while told < 10:
            done = consumed(installation)
            if done * 10 >= (told + 1) * count:
                told += 1
                print(f"  after {done:7} messages {resident.memory_info().rss / 2**20:6.1f} MiB", flush=True)
            assert process.poll() is None, "the listener has ended"
            time.sleep(0.2)
    installation.database.close()


if __name__ == "__main__":
    main()
