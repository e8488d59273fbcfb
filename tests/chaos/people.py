# SPDX-License-Identifier: GPL-3.0-or-later
"""Who stands around the installation: a publisher and an audience on the bus, and a person who starts runs.

Each keeps its own books, of what was promised to it and what it heard. Run as a file, this module is the person: a
process of its own, that may be killed at any moment and goes on where its books end.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Queue

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from relengq.engine.installation import current
from relengq.engine.start import Trigger, start
from relengq.errors import Unavailable
from tests.chaos.records import Book, append, now

PREFIX = "chaos"
EXCHANGE = "amq.topic"
TOPIC = "org.example.build.done"
_PAUSE = 0.3
_KINDS = ("run.started", "step.finished", "run.finished")


class _OnBus:
    """Somebody with a connection to the bus, made again whenever it goes."""

    def __init__(self, url: str) -> None:
        self._parameters = pika.URLParameters(f"{url}?heartbeat=20&blocked_connection_timeout=10&socket_timeout=5")
        logging.getLogger("pika").setLevel(logging.CRITICAL)
        self.over = threading.Event()
        self.faults: list[str] = []

    def run(self) -> None:
        """Until it is over."""
        while not self.over.is_set():
            try:
                connection = pika.BlockingConnection(self._parameters)
                try:
                    self.attend(connection.channel())
                finally:
                    if connection.is_open:
                        connection.close()
            except (AMQPError, OSError, IndexError):  # the last is pika's, when it is cut while it reads
                self.over.wait(_PAUSE)
            except Exception as error:
                self.faults.append(repr(error))
                raise

    def attend(self, channel: BlockingChannel) -> None:
        raise NotImplementedError


class Audience(_OnBus):
    """Hears every announcement, and writes it down before it says that it has it."""

    def __init__(self, url: str, book: Path) -> None:
        super().__init__(url)
        self._book = book
        self.listens = threading.Event()

    def attend(self, channel: BlockingChannel) -> None:
        channel.queue_declare("audience", durable=True)
        channel.queue_bind("audience", EXCHANGE, f"{PREFIX}.relengq.#")
        self.listens.set()
        for method, properties, body in channel.consume("audience", inactivity_timeout=0.2):
            if self.over.is_set():
                return
            if method is not None:
                self._note(method.routing_key, properties.message_id, json.loads(body))
                channel.basic_ack(method.delivery_tag)

    def _note(self, topic: str, message_id: str, body: dict[str, object]) -> None:
        kind = topic.removeprefix(f"{PREFIX}.relengq.").removesuffix(".v1")
        assert kind in _KINDS, topic
        inputs, trigger, step = body["inputs"], body["trigger"], body.get("step")
        assert isinstance(inputs, dict)
        assert isinstance(trigger, dict)
        told = step if isinstance(step, dict) else body
        token = f"{trigger['schedule']}@{trigger['due']}" if trigger["kind"] == "schedule" else inputs["token"]
        line = {"kind": kind, "at": now(), "id": message_id, "token": token, "workflow": body["workflow"]}
        about_step = {"step": step["name"]} if isinstance(step, dict) else {}
        append(self._book, {**line, "run": body["run"], **about_step, "result": told.get("result") or ""})


class Publisher(_OnBus):
    """Publishes what starts runs, until the broker confirms it; often twice, and sometimes as another message."""

    def __init__(self, url: str, book: Path, seed: int) -> None:
        super().__init__(url)
        self._book = book
        self._random = random.Random(seed)
        self.queue: Queue[dict[str, object]] = Queue()
        self._now: dict[str, object] | None = None

    def attend(self, channel: BlockingChannel) -> None:
        channel.confirm_delivery()
        while not self.over.is_set():
            if self._now is None:
                try:
                    self._now = self.queue.get(timeout=_PAUSE)
                except Empty:
                    channel.connection.process_data_events()
                    continue
            self._publish(channel, self._now)
            append(self._book, {"token": self._now["token"], "workflow": "by-message"})
            self._now = None

    def _publish(self, channel: BlockingChannel, body: Mapping[str, object]) -> None:
        """Returns when the broker has it in a queue."""
        ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(body["token"])))]
        ids += self._random.choices([[], ids, [str(uuid.uuid4())]])[0]
        for message_id in ids:
            properties = pika.BasicProperties(
                content_type="application/json", content_encoding="utf-8", delivery_mode=2, message_id=message_id,
                headers={
                    "fedora_messaging_schema": "base.message", "fedora_messaging_severity": 20,
                    "sent-at": datetime.now(UTC).isoformat(timespec="seconds"),
                },
            )  # fmt: skip
            channel.basic_publish(EXCHANGE, TOPIC, json.dumps(body).encode(), properties, mandatory=True)


def be_a_person(wishes: Path, book: Path) -> None:
    """Start each run that the file of wishes asks for, under its token as the key, until it is promised."""
    installation = current()
    promised = {line["token"] for line in Book(book, json.loads).read()}
    open_wishes = Book(wishes, json.loads)
    while True:
        for wish in open_wishes.read():
            if wish["token"] in promised:
                continue
            inputs = {"token": wish["token"], "tenths": wish["tenths"]}
            try:
                start(installation, wish["workflow"], inputs, Trigger("person", "somebody", key=wish["token"]))
            except Unavailable as error:
                print(f"not yet: {error}", flush=True)
                continue
            append(book, {"token": wish["token"], "workflow": wish["workflow"]})
            promised.add(wish["token"])
        time.sleep(_PAUSE)


if __name__ == "__main__":
    be_a_person(Path(sys.argv[1]), Path(sys.argv[2]))
