# SPDX-License-Identifier: GPL-3.0-or-later
"""What a broker has: asked over its own protocol, as Celery would."""

from __future__ import annotations

import subprocess

from kombu import Connection
from redis import Redis

from tests.support.servers import RabbitMQServer


def ready(url: str, queue: str) -> int:
    """How many tasks of a queue no worker was given."""
    if url.startswith("redis"):
        with Redis.from_url(url) as client:
            return int(client.llen(queue))  # type: ignore[arg-type]
    with Connection(url) as connection, connection.channel() as channel:
        return int(channel.queue_declare(queue=queue, passive=True).message_count)


def queues(server: RabbitMQServer, *columns: str) -> dict[str, tuple[str, ...]]:
    """What ``rabbitmqctl list_queues`` says of each queue; it takes seconds."""
    argv = ["/usr/lib/rabbitmq/bin/rabbitmqctl", "-q", "--no-table-headers", "list_queues", "name", *columns]
    done = subprocess.run(
        [*argv], env=server.environment, cwd=server.directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    rows = (line.split("\t") for line in done.stdout.splitlines() if line)
    return {name: tuple(rest) for name, *rest in rows}
