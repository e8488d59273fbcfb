# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages that nobody should send: what they do to a stock consumer, and that each is accounted for here.

The storm of hostile bodies has a short form in the suite; ``make storm`` publishes 10,000 (``STORM=10000``).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pika
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from relengq.models import ParkedMessage
from tests.support.bus import (
    HEADERS,
    Bus,
    accounted,
    broken_schemas,
    bus,
    consume,
    counts,
    listener,
    nested,
    runs,
    sound_schemas,
)
from tests.support.processes import Process
from tests.support.servers import RabbitMQServer
from tests.support.systems import NOWHERE, System, system
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq]

TOPIC = "org.test.tag"
WORKFLOW = """\
inputs: {name: {type: string}}
on:
  - message: org.test.tag
    if: msg.tag == 'wanted'
    inputs: {name: "{{ msg.name }}"}
steps: [{name: go, approval: {}}]
"""
GOOD = {"tag": "wanted", "name": "good"}
FAR = b"T" + struct.pack(">Q", 1 << 42)
STORM = int(os.environ.get("STORM", "300"))


@dataclass(frozen=True)
class Hostile:
    """One message that nobody should send."""

    name: str
    body: object = field(default_factory=lambda: dict(GOOD))
    headers: dict[str, object] = field(default_factory=dict)
    encoding: str | None = "utf-8"
    table: dict[str, bytes] | None = None

    def send(self, to: Bus) -> str:
        properties = to.raw(self.table) if self.table else None
        return to.send(TOPIC, self.body, self.headers, encoding=self.encoding, properties=properties)


KILLERS = {
    "FileNotFoundError": Hostile("the schema's package lacks a file", headers={"fedora_messaging_schema": "any"}),
    "RecursionError": Hostile("nested", nested(200_000)),
    "LookupError": Hostile("an encoding that nobody knows", encoding="klingon"),
    "unhashable": Hostile("a schema that is a table", headers={"fedora_messaging_schema": {"a": 1}}),
}
SILENCED = [
    Hostile("an array", [1, 2]),
    Hostile("a text", "text"),
    Hostile("no JSON", b"{"),
    Hostile("empty", b""),
    Hostile("not UTF-8", b'{"tag": "\xff\xfe"}'),
    Hostile("a schema that it does not fit", {"build_id": "x"}, {"fedora_messaging_schema": "demo.build.v1"}),
    Hostile("a severity that is none", headers={"fedora_messaging_severity": "high"}),
]
EMPTIED = [Hostile("null", b"null"), Hostile("an empty array", [])]
DEADLY = [Hostile("a time far away", table={"x": FAR}), Hostile("in an array", table={"x": b"A\0\0\0\x09" + FAR})]
"""RabbitMQ itself refuses a number that is none, or infinite, and kinds that it does not know."""


@pytest.fixture
def mq(rabbitmq_server: RabbitMQServer, tmp_path: Path) -> Iterator[Bus]:
    with bus(rabbitmq_server, tmp_path) as made:
        yield made


@pytest.fixture
def place(tmp_path: Path, sqlite_url: str) -> Iterator[System]:
    with system(tmp_path, {"playbooks/workflows/tagged.yml": WORKFLOW}, NOWHERE, sqlite_url) as made:
        yield made


class Stock:
    """A stock consumer with somebody's plain callback, on a queue of its own."""

    def __init__(self, server: RabbitMQServer, directory: Path, name: str, *packages: Path) -> None:
        self.directory = directory / name
        self.directory.mkdir()
        self.bus = Bus(server, self.directory)
        self.bus.declare("org.test.#")
        self.notes = self.directory / "notes"
        self.packages = ":".join(map(str, packages))
        self.process: Process | None = None

    def start(self) -> None:
        file = self.bus.configuration("org.test.#")
        environment = {"NOTES": str(self.notes), "PYTHONPATH": self.packages}
        self.process = consume(self.directory, file, "tests.support.callbacks:note", **environment)

    @property
    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    @property
    def log(self) -> str:
        return self.process.log if self.process else ""

    def stop(self) -> None:
        if self.process:
            self.process.stop()
        self.bus.close()


def test_what_kills_or_silences_a_stock_consumer(rabbitmq_server: RabbitMQServer, tmp_path: Path) -> None:
    broken, sound = broken_schemas(tmp_path / "broken"), sound_schemas(tmp_path / "sound")
    killed = {
        name: Stock(rabbitmq_server, tmp_path, f"killed-{name}", *([broken] if name == "FileNotFoundError" else []))
        for name in KILLERS
    }
    silenced, dying = (Stock(rabbitmq_server, tmp_path, name, sound) for name in ("silenced", "dying"))
    try:
        for name, stock in killed.items():
            KILLERS[name].send(stock.bus)
            stock.bus.send(TOPIC, GOOD)
        for each in (*SILENCED, *EMPTIED):
            each.send(silenced.bus)
        DEADLY[0].send(dying.bus)
        dying.bus.send(TOPIC, GOOD)
        last = silenced.bus.send(TOPIC, GOOD)
        for stock in (*killed.values(), silenced, dying):
            stock.start()

        for name, stock in killed.items():
            assert stock.process is not None
            wait_until(lambda process=stock.process: not process.running, what=f"{name} ends the consumer")  # type: ignore[misc]
            assert stock.process.returncode not in (0, None)
            assert name in stock.log
            assert stock.noted == []
            wait_until(lambda stock=stock: stock.bus.depth() == 2, what="its messages are back, to kill the next one")  # type: ignore[misc]

        wait_until(lambda: last in silenced.noted, what="the message behind the silent ones is there")
        assert len(silenced.noted) == len(EMPTIED) + 1, "the others never reached the callback"
        assert silenced.bus.depth() == 0

        wait_until(lambda: "is out of range" in dying.log, what="the connection dies of the header, in the reactor")
        wait_until(lambda: dying.bus.depth() == 2, what="both messages are back")
        assert dying.noted == [], "the message behind it never comes"
    finally:
        for stock in (*killed.values(), silenced, dying):
            stock.stop()


def test_the_listener_survives_each_of_them_and_accounts_for_it(mq: Bus, place: System, tmp_path: Path) -> None:
    packages = f"{broken_schemas(tmp_path / 'broken')}:{sound_schemas(tmp_path / 'sound')}"
    absurd = [
        Hostile("very many headers", headers={f"h{number}": "x" * 20 for number in range(1500)}),
        Hostile("headers of all kinds", headers={"a": [1, {"b": None}], "c": b"\xff", "": "", "\0": "\0"}),
        Hostile("nested headers", table={"deep": nested_table(2000), "sent-at": b"S\0\0\0\3now"}),
        Hostile("no headers at all", table={"x": b"t\1"}),
        Hostile("ten megabytes", {**GOOD, "fill": "x" * (10 << 20)}),
        Hostile("the broken package's own", headers={"fedora_messaging_schema": "ci.test.complete"}),
        Hostile("a lone surrogate", b'{"tag": "wanted", "name": "\\ud800"}'),
        Hostile("a NUL", b'{"tag": "wanted", "name": "a\\u0000b"}'),
        Hostile("a template", {"tag": "wanted", "name": "{{ lookup('pipe', 'id') }}"}),
        Hostile("an encoding that takes hours", b"{}-" + b"a" * (4 << 20), encoding="punycode"),
        Hostile("numbers that are none", b'{"tag": "wanted", "name": "x", "n": NaN}'),
    ]
    every = [*KILLERS.values(), *SILENCED, *EMPTIED, *DEADLY, *absurd]
    mq.declare("org.test.#")
    for each in every:
        each.send(mq)
    mq.channel.basic_publish(mq.exchange, TOPIC, json.dumps(GOOD).encode())  # with no properties at all
    mq.send(TOPIC, {"tag": "wanted", "name": "last"})

    process = listener(place, mq.configuration("org.test.#"), PYTHONPATH=packages)
    found = accounted(place.installation, len(every) + 2, process)

    assert mq.depth() == 0
    assert found["duplicate"] == found["awaited"] == found["unmatched"] == 0
    names = [str(run.inputs["name"]) for run in runs(place.installation)]
    assert names[-1] == "last", "they are taken in order"
    assert "{{ lookup('pipe', 'id') }}" in names
    with place.installation.database.read() as session:
        reasons = [row.reason for row in session.query(ParkedMessage)]
    for told in (
        "nested deeper", "encoding 'klingon'", "encoding 'punycode'", "an array", "not text in utf-8", "null",
        "does not fit the schema demo.build.v1", "['fedora_messaging_severity']", "NaN is no value",
    ):  # fmt: skip
        assert any(told in reason for reason in reasons), (told, reasons)
    assert found["parked"] == len(reasons) > 10
    assert found["started"] == len(names) > 10
    assert "schema.not_usable" in process.log


def nested_table(depth: int) -> bytes:
    value = b"F" + struct.pack(">I", 0)
    for _ in range(depth):
        value = b"F" + struct.pack(">I", len(value) + 2) + b"\x01k" + value
    return value


# --- the storm

TEXTS = st.text(max_size=12)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.sampled_from(["wanted", "{{ 1/0 }}"])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)
NEAR = st.fixed_dictionaries(
    {"tag": st.sampled_from(["wanted"]) | VALUES}, optional={"name": TEXTS | VALUES, "x": VALUES}
)
BODIES = st.one_of(
    NEAR.map(lambda body: json.dumps(body).encode()),
    VALUES.map(lambda body: json.dumps(body).encode()),
    st.binary(max_size=60),
    st.integers(0, 3000).map(nested),
    NEAR.map(lambda body: json.dumps(body).encode("utf-16")),
)
ENCODINGS = st.none() | st.sampled_from(["utf-8", "utf-16", "latin-1", "base64", "rot13", "idna", "zip", ""]) | TEXTS
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS | st.binary(max_size=8)
TABLES = st.dictionaries(
    TEXTS | st.sampled_from(sorted(HEADERS)),
    SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(TEXTS, SCALARS, max_size=2),
    max_size=4,
)
IDS = st.none() | st.sampled_from(["same", "\0", ""]) | TEXTS | st.uuids().map(str)
MESSAGES = st.tuples(st.sampled_from([TOPIC, "org.test.other", "org.test"]) | TEXTS, BODIES, ENCODINGS, TABLES, IDS)


@pytest.mark.timeout(900)
def test_a_storm_of_hostile_messages_is_accounted_for(mq: Bus, place: System) -> None:
    """STORM=10000 (``make storm``) for the long form."""
    mq.declare("#")
    process = listener(place, mq.configuration("#"))
    sent = 0

    @settings(
        max_examples=STORM, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(MESSAGES)
    def publish(message: tuple[str, bytes, str | None, dict[str, object], str | None]) -> None:
        nonlocal sent
        topic, body, encoding, table, message_id = message
        short = encoding.encode()[:200].decode(errors="ignore") if encoding is not None else None
        properties = pika.BasicProperties(content_encoding=short, headers=table, message_id=message_id)
        mq.channel.basic_publish(mq.exchange, topic, body, properties)
        sent += 1

    publish()
    mq.send(TOPIC, {"tag": "wanted", "name": "last"})
    found = accounted(place.installation, sent + 1, process, timeout=600)
    assert found["consumed"] == sent + 1 > STORM * 0.9
    assert min(found["started"], found["parked"], found["unmatched"]) > 0, found
    assert mq.depth() == 0
    assert runs(place.installation)[-1].inputs["name"] == "last"
    assert "listener.fault" not in process.log
    assert "Traceback" not in process.log
    assert counts(place.installation) == found
