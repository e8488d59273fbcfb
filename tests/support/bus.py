# SPDX-License-Identifier: GPL-3.0-or-later
"""A message bus for tests: an exchange and a queue of a test's own on the RabbitMQ node of the test run.

Messages are published byte by byte as the test wants them, also such as no library would send.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from sqlalchemy import select

from relengq.engine.installation import Installation
from relengq.models import Listener, Run
from tests.support.processes import Process
from tests.support.servers import HOST, RabbitMQServer
from tests.support.systems import System
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
FEDORA_MESSAGING = str(Path(sys.executable).with_name("fedora-messaging"))
LISTENER = "relengq.listener:Listener"
TOLD = ("consumed", "started", "awaited", "duplicate", "parked", "unmatched", "runs", "matched")
"""The counts in a listener's row."""
HEADERS = {
    "fedora_messaging_schema": "base.message",
    "fedora_messaging_severity": 20,
    "sent-at": "2026-11-23T10:00:00+00:00",
}


class Raw(pika.BasicProperties):  # type: ignore[misc]
    """Properties whose header table is made of bytes: ``name`` to the byte of the kind and those of the value."""

    def __init__(self, table: Mapping[str, bytes], **properties: Any) -> None:
        super().__init__(headers={"replaced": True}, **properties)
        self._table = b"".join(bytes([len(name)]) + name.encode() + value for name, value in table.items())

    def encode(self) -> list[bytes]:
        pieces = b"".join(super().encode())
        plain = b"\x08replacedt\x01"
        sized = struct.pack(">I", len(plain)) + plain
        assert sized in pieces
        return [pieces.replace(sized, struct.pack(">I", len(self._table)) + self._table)]


class Bus:
    """One test's part of the bus. Use ``bus()`` to have the connection closed at the end."""

    def __init__(self, server: RabbitMQServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.exchange = f"bus-{uuid.uuid4().hex[:12]}"
        self.queue = f"{self.exchange}.queue"
        self._connection: pika.BlockingConnection | None = None
        self._channel: BlockingChannel | None = None

    def url(self, user: str = "guest", **parameters: int) -> str:
        options = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"amqp://{user}:{user}@{HOST}:{self.server.port}/%2F?{options}"

    @property
    def channel(self) -> BlockingChannel:
        """A channel of a connection that is made anew after the node was stopped."""
        if self._channel is None or self._channel.is_closed:
            self.close()
            self._connection = pika.BlockingConnection(pika.URLParameters(self.url()))
            self._channel = self._connection.channel()
            self._channel.exchange_declare(self.exchange, "topic", durable=True)
        return self._channel

    def close(self) -> None:
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
        self._connection = self._channel = None

    def configuration(
        self,
        *patterns: str,
        name: str = "bus",
        queue: str | None = None,
        states_queue: bool = True,
        user: str = "guest",
        top: str = "",
        **parameters: int,
    ) -> Path:
        """fedora-messaging's file with this exchange, queue, and bindings; ``top`` is put before all tables."""
        queue = self.queue if queue is None else queue
        keys = ", ".join(f'"{pattern}"' for pattern in patterns)
        queues = f'[queues."{queue}"]\ndurable = true\nauto_delete = false\nexclusive = false\narguments = {{}}\n'
        file = self.directory / f"{name}.toml"
        file.write_text(
            f'amqp_url = "{self.url(user, **parameters)}"\n{top}\n{queues if states_queue else ""}'
            f'[[bindings]]\nqueue = "{queue}"\nexchange = "{self.exchange}"\nrouting_keys = [{keys}]\n'
        )
        return file

    def declare(self, *patterns: str, queue: str | None = None) -> str:
        """Make the queue before any consumer does, so that messages wait in it."""
        queue = queue or self.queue
        self.channel.queue_declare(queue, durable=True)
        for pattern in patterns:
            self.channel.queue_bind(queue, self.exchange, pattern)
        return queue

    def send(
        self,
        topic: str,
        body: object = None,
        headers: Mapping[str, Any] | None = None,
        *,
        message_id: str | None = None,
        encoding: str | None = "utf-8",
        properties: pika.BasicProperties | None = None,
    ) -> str:
        """Publish; bytes are a body as they are, anything else is JSON. Returns the message's id."""
        message_id = message_id or str(uuid.uuid4())
        raw = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        made = properties or pika.BasicProperties(
            content_type="application/json", content_encoding=encoding, delivery_mode=2,
            headers=HEADERS | dict(headers or {}), message_id=message_id,
        )  # fmt: skip
        self.channel.basic_publish(self.exchange, topic, raw, made)
        return message_id

    def raw(self, table: Mapping[str, bytes]) -> pika.BasicProperties:
        """Properties with a header table that no library would write."""
        return Raw(table, content_encoding="utf-8", delivery_mode=2, message_id=str(uuid.uuid4()))

    def depth(self, queue: str | None = None) -> int:
        """How many messages wait in the queue; those that a consumer has been given are not counted."""
        return int(self.channel.queue_declare(queue or self.queue, passive=True).method.message_count)

    def bound(self, topic: str) -> bool:
        """Whether a message of the topic reaches any queue."""
        with self._confirming() as channel:
            try:
                channel.basic_publish(self.exchange, topic, b"{}", mandatory=True)
            except pika.exceptions.UnroutableError:
                return False
            return True

    @contextmanager
    def _confirming(self) -> Iterator[BlockingChannel]:
        connection = pika.BlockingConnection(pika.URLParameters(self.url()))
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            connection.close()

    def control(self, *arguments: str) -> str:
        """rabbitmqctl on the node. Each call takes a second or two."""
        program = "/usr/lib/rabbitmq/bin/rabbitmqctl"
        argv = [program if Path(program).exists() else "rabbitmqctl", *arguments]
        done = subprocess.run(argv, env=self.server.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextmanager
def bus(server: RabbitMQServer, directory: Path) -> Iterator[Bus]:
    """A bus for one test."""
    made = Bus(server, directory)
    _ = made.channel  # makes the exchange
    try:
        yield made
    finally:
        made.close()


def consume(directory: Path, file: Path, callback: str, name: str = "consumer", **environment: str) -> Process:
    """The stock consumer, ``fedora-messaging consume``, started in a directory."""
    paths = [str(ROOT), environment.pop("PYTHONPATH", "")]
    own = {"FEDORA_MESSAGING_CONF": str(file), "PYTHONPATH": ":".join(filter(None, paths)), **environment}
    process = Process([FEDORA_MESSAGING, "consume", f"--callback={callback}"], directory, own, name)
    process.start()
    return process


def listener(
    place: System, file: Path, callback: str = LISTENER, name: str = "consumer", **environment: str
) -> Process:
    """The stock consumer as the listener of an installation; stopped with it."""
    process = consume(place.site, file, callback, name, **place.settings_in_environment, **environment)
    place.processes.append(process)
    return process


def counts(installation: Installation) -> dict[str, int]:
    """The counts of all listeners together."""
    with installation.database.read() as session:
        rows = session.scalars(select(Listener)).all()
    return {name: sum(getattr(row, name) for row in rows) for name in TOLD}


def listener_row(installation: Installation) -> Listener | None:
    """The row of the one listener."""
    with installation.database.read() as session:
        return session.scalars(select(Listener)).one_or_none()


def accounted(installation: Installation, consumed: int, process: Process, timeout: float = 60) -> dict[str, int]:
    """Wait until so many messages have been consumed; the counts, which must add up."""

    def there() -> bool:
        assert process.running, f"the listener ended with {process.returncode}:\n{process.new_log[-5000:]}"
        return counts(installation)["consumed"] >= consumed

    try:
        wait_until(there, timeout, f"{consumed} messages are consumed")
    except AssertionError as error:
        raise AssertionError(f"{error} {counts(installation)}\n{process.new_log[-5000:]}") from None
    found = counts(installation)
    by_kind = [found[name] for name in ("started", "awaited", "duplicate", "parked", "unmatched")]
    assert found["consumed"] == sum(by_kind), found
    assert found["matched"] == found["consumed"] - found["unmatched"], found
    return found


def runs(installation: Installation, workflow: str | None = None) -> list[Run]:
    """All runs, oldest first."""
    with installation.database.read() as session:
        found = session.scalars(select(Run).order_by(Run.created_at, Run.id)).all()
    return [run for run in found if workflow in (None, run.workflow)]


def schema_package(directory: Path, name: str, module: str, entry_points: Mapping[str, str]) -> Path:
    """An installed distribution with message schemas, to be put on PYTHONPATH."""
    about = directory / f"{name.replace('-', '_')}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = "\n".join(f"{point} = {place}" for point, place in entry_points.items())
    (about / "entry_points.txt").write_text(f"[fedora.messages]\n{points}\n")
    (directory / f"{name.replace('-', '_')}.py").write_text(module)
    return directory


def broken_schemas(directory: Path) -> Path:
    """A package as PyPI's ci-messages: its module reads a file that was not packed."""
    module = "from pathlib import Path\nSCHEMA = Path(__file__).with_name('missing.json').read_text()\n"
    return schema_package(directory, "broken-messages", module, {"ci.test.complete": "broken_messages:Complete"})


def sound_schemas(directory: Path) -> Path:
    """A package with one schema, ``demo.build.v1``: ``build_id`` must be an integer."""
    module = """\
from fedora_messaging.message import Message


class Build(Message):
    body_schema = {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "type": "object",
        "properties": {"build_id": {"type": "integer"}},
        "required": ["build_id"],
    }
"""
    return schema_package(directory, "demo-messages", module, {"demo.build.v1": "demo_messages:Build"})


def nested(depth: int) -> bytes:
    """JSON of so many arrays within each other."""
    return b'{"deep": ' + b"[" * depth + b"]" * depth + b"}"
