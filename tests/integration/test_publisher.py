# SPDX-License-Identifier: GPL-3.0-or-later
"""What the publisher says of each way in which a message cannot be sent, against a real broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fedora_messaging import api

from relengq.bus.publisher import Outgoing, Publisher
from relengq.errors import BusUnavailable
from tests.support.bus import Bus, broken_schemas, bus
from tests.support.servers import RabbitMQServer

ROOT = Path(__file__).parents[2]
# In a process of its own, because the library keeps one configuration, and one reactor, for as long as a process lives.
PROGRAM = """\
import json, sys, time
from datetime import UTC, datetime
from pathlib import Path
from relengq.bus.publisher import Outgoing, Publisher
from relengq.errors import RelengqError

publisher = Publisher(Path(sys.argv[1]))
for line in sys.stdin:
    made = {"id": "5a", "body": {}, "severity": 20, "sent_at": datetime.now(UTC), **json.loads(line)}
    began = time.monotonic()
    try:
        publisher.publish(Outgoing(**made))
        said = "sent"
    except RelengqError as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps([said, time.monotonic() - began]), flush=True)
"""


def publish(made: Bus, file: Path, *messages: dict[str, object], also: Path | None = None) -> list[str]:
    """What became of each message."""
    text = "".join(f"{json.dumps(message)}\n" for message in messages)
    paths = [str(ROOT), *([str(also)] if also else [])]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, file], input=text, capture_output=True, text=True, check=False,
        cwd=made.directory, env={**os.environ, "PYTHONPATH": ":".join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [said for said, _ in map(json.loads, done.stdout.splitlines())]


@pytest.mark.rabbitmq
def test_each_way_in_which_a_message_cannot_be_sent_is_told_from_the_others(
    rabbitmq_server: RabbitMQServer, tmp_path: Path
) -> None:
    with bus(rabbitmq_server, tmp_path) as made:
        made.channel.queue_declare(
            made.queue, durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        made.channel.queue_bind(made.queue, made.exchange, "org.example.taken.#")
        file = tmp_path / "bus.toml"
        top = f'amqp_url = "{made.url()}"\npublish_exchange = "{made.exchange}"\ntopic_prefix = "org.example"\n'
        file.write_text(top)
        first, full, nowhere, long, misfit, unknown, again = publish(
            made,
            file,
            {"topic": "taken.a", "id": "first"},
            {"topic": "taken.a"},
            {"topic": "wanted.by.nobody"},
            {"topic": "x" * 250},
            {"topic": "relengq.run.started.v1", "schema": "relengq.run.started.v1"},
            {"topic": "later.v1", "schema": "relengq.later.v1"},
            {"topic": "wanted.by.nobody"},
            also=broken_schemas(tmp_path / "schemas"),  # a package that breaks the library's own look at all schemas
        )
        assert (first, nowhere, again) == ("sent", "sent", "sent")  # what no queue wants is confirmed like any other
        assert full.startswith("MessageRejected: the broker did not take it")
        assert long == "MessageFault: its topic has more than 255 bytes with the prefix org.example"
        assert misfit.startswith("MessageFault: it does not fit the schema relengq.run.started.v1")
        assert unknown.startswith("BusUnavailable: the schema relengq.later.v1 is not installed here")
        (got,) = [made.channel.basic_get(made.queue, auto_ack=True)]
        assert (got[0].routing_key, got[1].message_id, got[1].delivery_mode) == ("org.example.taken.a", "first", 2)
        assert got[1].headers["fedora_messaging_schema"] == "base.message"


def test_a_configuration_that_cannot_be_used_is_a_bus_that_is_away(tmp_path: Path) -> None:
    file = tmp_path / "bus.toml"
    outgoing = Outgoing("5a", "a", {}, 20, datetime.now(UTC))
    with pytest.raises(BusUnavailable, match=r"There is no .*bus\.toml"):
        Publisher(file).publish(outgoing)
    file.write_text("amqp_url = \n")
    with pytest.raises(BusUnavailable, match="this is not TOML"):
        Publisher(file).publish(outgoing)


def test_only_the_broker_s_confirmation_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's ``publish`` returns when another thread's time ran out, though nothing was sent."""
    monkeypatch.setattr(api, "publish", lambda *_, **__: None)
    publisher = Publisher(Path("unused"))
    monkeypatch.setattr(publisher, "_ready", True)
    with pytest.raises(BusUnavailable, match="before it confirmed"):
        publisher.publish(Outgoing(str(uuid.uuid4()), "a", {}, 20, datetime.now(UTC)))
