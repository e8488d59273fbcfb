# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands between relengq and fedora-messaging: configuration files, header tables, schemas, bindings."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path

import pika
import pika.exceptions
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fedora_messaging import config
from hypothesis import given
from hypothesis import strategies as st
from pika import data
from pika.adapters.twisted_connection import ClosableDeferredQueue, ReceivedMessage
from twisted.internet import defer

from relengq.bus import configuration, consumer, headers
from relengq.bus.bindings import uncovered
from relengq.bus.schemas import Schemas
from relengq.errors import MessageFault, SiteFault
from relengq.messages import Message
from relengq.workflows import topic_matches


@pytest.fixture(autouse=True)
def library_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library keeps its configuration, and pika its decoding, for the whole process."""
    monkeypatch.setattr(config, "conf", config.LazyConfig())
    monkeypatch.setattr(pika.BasicProperties, "decode", pika.BasicProperties.decode)


# --- configuration


def written(directory: Path, text: str) -> Path:
    file = directory / "bus.toml"
    file.write_text(text)
    return file


def test_the_setting_wins_over_the_environment_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(configuration.VARIABLE, raising=False)
    assert configuration.find(None) == Path("/etc/fedora-messaging/config.toml")
    monkeypatch.setenv(configuration.VARIABLE, "/somewhere.toml")
    assert configuration.find(None) == Path("/somewhere.toml")
    assert configuration.find(Path("/own.toml")) == Path("/own.toml")


def test_a_file_is_the_librarys_and_what_it_leaves_out_is_known(tmp_path: Path) -> None:
    found = configuration.load(written(tmp_path, 'amqp_url = "amqp://b"\n'))
    assert (found.queues, found.bindings, found.passive, found.exchange) == ({}, (), False, "amq.topic")
    assert config.conf["amqp_url"] == "amqp://b"
    assert config.conf["qos"] == {"prefetch_size": 0, "prefetch_count": 100}


def test_what_a_file_states_counts(tmp_path: Path) -> None:
    found = configuration.load(
        written(
            tmp_path,
            "Passive_Declares = true\n[qos]\nprefetch_count = 7\n"
            "[queues.mine]\ndurable = true\nauto_delete = false\nexclusive = false\narguments = {}\n"
            '[[bindings]]\nqueue = "mine"\nexchange = "zmq.topic"\nrouting_keys = ["a.#", "b"]\n',
        )
    )
    assert (list(found.queues), found.passive, found.exchange) == (["mine"], True, "zmq.topic")
    assert found.bindings == (configuration.Binding("mine", "zmq.topic", ("a.#", "b")),)
    assert config.conf["qos"] == {"prefetch_size": 0, "prefetch_count": 7}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("amqp_url = ", "this is not TOML"),
        ("unheard = 1", "Unknown configuration key 'unheard'"),
        ("[queues.mine]\ndurable = true\n", "the mine queue is missing the following keys"),
        ("[bindings]\nexchange = 'x'\nrouting_keys = []\n", "bindings must be a list"),
        ("[[bindings]]\nexchange = 'x'\n", "missing the following keys"),
        ("client_properties = 3\n", "another type"),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_why(tmp_path: Path, text: str, told: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(SiteFault, match=told) as raised:
        configuration.load(file)
    assert str(file) in str(raised.value)


def certificate(directory: Path, name: str) -> dict[str, str]:
    """A certificate that vouches for itself, with its key; as a file's ``[tls]`` names them."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(who, who, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (directory / f"{name}.pem").write_bytes(made.public_bytes(pem))
    (directory / f"{name}.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    (directory / f"{name}.locked").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x"))
    )
    file = str(directory / name)
    return {"ca_cert": f"{file}.pem", "certfile": f"{file}.pem", "keyfile": f"{file}.key"}


def test_the_files_of_tls_are_looked_at_before_anything_connects(tmp_path: Path) -> None:
    """The library reads them when it connects, and what it raises then has no name of a file in it."""
    own, other = certificate(tmp_path, "own"), certificate(tmp_path, "other")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")

    def load(scheme: str = "amqps", **tls: str) -> None:
        lines = "".join(f'{key} = "{value}"\n' for key, value in tls.items())
        configuration.load(written(tmp_path, f'amqp_url = "{scheme}://b"\n[tls]\n{lines}'))

    load(**own)
    load(ca_cert=own["ca_cert"])
    assert config.conf["tls"] == {"ca_cert": own["ca_cert"], "certfile": None, "keyfile": None}
    load("amqp", **own | {"keyfile": "/nowhere"})
    for fault, told in (
        ({"keyfile": f"{tmp_path}/none.key"}, r"\[tls\] keyfile: .*none\.key cannot be read: No such file"),
        ({"ca_cert": str(text)}, r"\[tls\] ca_cert is no certificate"),
        ({"certfile": str(text)}, r"certfile and keyfile are no PEM, or do not belong together"),
        ({"keyfile": other["keyfile"]}, r"do not belong together"),
        ({"keyfile": f"{tmp_path}/own.locked"}, r"certfile and keyfile are no PEM"),
        ({"keyfile": ""}, r"needs both certfile and keyfile"),
    ):
        with pytest.raises(SiteFault, match=told):
            load(**own | fault)


def test_a_file_that_is_not_there_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(SiteFault, match=r"There is no .*none\.toml.*bus_config"):
        configuration.load(tmp_path / "none.toml")


def test_what_the_stock_consumers_command_line_bound_counts(tmp_path: Path) -> None:
    file = written(tmp_path, "[qos]\nprefetch_count = 3\n")
    config.conf.load_config(str(file))
    config.conf["bindings"] = [{"queue": "", "exchange": "x", "routing_keys": ["by.hand"]}]
    found = configuration.in_force(file)
    assert (found.bindings[0].patterns, found.prefetch) == (("by.hand",), 3)
    assert configuration.in_force(tmp_path / "none.toml").prefetch is None


# --- header tables


def encoded(*entries: tuple[str, bytes], **properties: object) -> bytes:
    """Properties with a header table made of bytes."""
    strict = b"".join(pika.BasicProperties(headers={"x": True}, **properties).encode())
    table = b"".join(bytes([len(name)]) + name.encode() + value for name, value in entries)
    plain = struct.pack(">I", 4) + b"\x01xt\x01"
    assert plain in strict
    return strict.replace(plain, struct.pack(">I", len(table)) + table)


def nested_table(depth: int) -> bytes:
    value = b"F" + struct.pack(">I", 0)
    for _ in range(depth):
        value = b"F" + struct.pack(">I", len(value) + 2) + b"\x01k" + value
    return value


NAN = b"d" + struct.pack(">d", float("nan"))
FAR = b"T" + struct.pack(">Q", 1 << 42)


@pytest.mark.parametrize("value", [NAN, b"f" + struct.pack(">f", float("inf")), FAR, nested_table(3000), b"?what"])
def test_a_header_that_pika_cannot_decode_costs_no_other_property(value: bytes) -> None:
    raw = encoded(
        ("before", b"S\x00\x00\x00\x02ok"), ("odd", value), content_encoding="utf-8", message_id="the-id", priority=3
    )
    with pytest.raises((ValueError, OverflowError, RecursionError, OSError, pika.exceptions.AMQPError)):
        pika.BasicProperties().decode(raw)
    headers.tolerate()
    headers.tolerate()  # twice is once
    found = pika.BasicProperties().decode(raw)
    assert (found.message_id, found.content_encoding, found.priority) == ("the-id", "utf-8", 3)
    assert found.headers["before"] == "ok"
    assert ("odd" in found.headers) != (headers.MARKER in found.headers)


def test_what_follows_an_odd_header_is_kept_where_its_length_is_known() -> None:
    table = b"\x01a" + NAN + b"\x01b" + FAR + b"\x01c" + nested_table(3000) + b"\x01dt\x01"
    assert headers.lenient(table) == {"a": "nan", "b": str(1 << 42), "d": True, headers.MARKER: "'c'"}


@given(st.dictionaries(st.text(max_size=20), st.none() | st.booleans() | st.text() | st.integers(-(2**63), 2**63 - 1)))
def test_decodable_tables_are_decoded_as_ever(table: dict[str, object]) -> None:
    pieces: list[bytes] = []
    data.encode_table(pieces, table)
    assert headers.lenient(b"".join(pieces)[4:]) == table


def test_properties_without_a_header_table_raise_as_ever() -> None:
    headers.tolerate()
    with pytest.raises(Exception, match="unpack_from requires a buffer"):
        pika.BasicProperties().decode(b"\x00")


# --- schemas

HEADERS = {"fedora_messaging_severity": 20}


def schemas(**places: str) -> Schemas:
    return Schemas(lambda: [EntryPoint(name, place, "fedora.messages") for name, place in places.items()])


def message(schema: object, body: bytes = b"{}", **headers: object) -> Message:
    return Message("id", "topic", {**HEADERS, "fedora_messaging_schema": schema, **headers}, body)  # type: ignore[dict-item]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_schema_whose_package_lacks_a_file_is_as_good_as_none(modules: Path) -> None:
    (modules / "lacking.py").write_text("open('/nowhere/schema.json')\n")
    (modules / "leaving.py").write_text("raise SystemExit(3)\n")
    found = schemas(lacking="lacking:Complete", leaving="leaving:X", absent="not_installed:X", plain="json:loads")
    for name in ("lacking", "leaving", "absent", "plain", "unheard of", "base.message"):
        found.validate(message(name))


def test_only_the_schema_that_is_named_is_loaded(modules: Path) -> None:
    (modules / "other.py").write_text("raise AssertionError('loaded')\n")
    (modules / "counted.py").write_text(
        "from fedora_messaging.message import Message\n"
        "class Build(Message):\n"
        "    @property\n"
        "    def body_schema(self):\n"
        "        return {'type': 'object', 'properties': {'id': {'type': 'integer'}}, 'required': ['id']}\n"
    )
    found = schemas(counted="counted:Build", other="other:X")
    found.validate(message("counted", b'{"id": 3}'))
    with pytest.raises(MessageFault, match=r"does not fit the schema counted: \['id'\]: 'x' is not of type 'integer'"):
        found.validate(message("counted", b'{"id": "x"}'))
    with pytest.raises(MessageFault, match="'id' is a required property"):
        found.validate(message("counted"))
    with pytest.raises(MessageFault, match="not JSON"):
        found.validate(message("counted", b"{"))


@pytest.mark.parametrize(
    ("schema", "headers"),
    [({"a": 1}, {}), (["base.message"], {}), (5, {}), ("base.message", {"fedora_messaging_severity": "high"})],
)
def test_headers_of_a_wrong_type_are_told(schema: object, headers: dict[str, object]) -> None:
    with pytest.raises(MessageFault, match="the headers do not fit"):
        schemas().validate(message(schema, **headers))


def test_a_schema_that_points_elsewhere_fetches_nothing(modules: Path) -> None:
    (modules / "pointing.py").write_text(
        "from fedora_messaging.message import Message\n"
        "class X(Message):\n"
        "    body_schema = {'$ref': 'http://127.0.0.1:9/schema.json'}\n"
        "class Wrong(Message):\n"
        "    body_schema = {'type': 'nothing'}\n"
    )
    found = schemas(pointing="pointing:X", wrong="pointing:Wrong")
    with pytest.raises(MessageFault, match="does not fit the schema pointing"):
        found.validate(message("pointing"))
    found.validate(message("wrong"))


# --- bindings


@pytest.mark.parametrize(
    ("patterns", "bound", "missing"),
    [
        (["a.b"], [], ["a.b"]),
        (["a.b"], ["#"], []),
        (["a.*.c"], ["a.#"], []),
        (["a.#"], ["a.*"], ["a.#"]),
        (["a.*"], ["a.b", "a.c"], ["a.*"]),
        (["#"], ["#.#"], []),
        (["a"], ["a.#"], []),
        (["a.*.#"], ["a.#"], []),
        (["b", "a"], ["c"], ["a", "b"]),
        (["a.b.c"], ["*.b.*"], []),
        (["*.b"], ["a.*"], ["*.b"]),
    ],
)
def test_missing_bindings_are_known(patterns: list[str], bound: list[str], missing: list[str]) -> None:
    assert uncovered(patterns, bound) == missing


WORDS = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=4).map(".".join)


@given(WORDS, WORDS, st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=5).map(".".join))
def test_what_counts_as_covered_is(pattern: str, bound: str, topic: str) -> None:
    if not uncovered([pattern], [bound]) and topic_matches(pattern, topic):
        assert topic_matches(bound, topic)


# --- consuming


class Told(consumer.Taker):
    """Notes why no messages come."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def take(self, batch: Sequence[Message], stale: Callable[[], bool]) -> bool:
        raise NotImplementedError

    def listening(self, queue: str) -> None:
        """Nothing to do."""

    def cut(self, reason: str) -> None:
        self.reasons.append(reason)

    def stopping(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class Connection:
    """Stands for a connection that is open until it is closed."""

    is_open = True

    def close(self) -> None:
        self.is_open = False


def test_a_batch_that_outlives_its_channel_stops_no_consuming(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker closes a channel that has not acknowledged for long, and leaves the connection as it is."""
    handed: list[defer.Deferred[bool]] = []
    monkeypatch.setattr(consumer.threads, "deferToThread", lambda *_: handed.append(defer.Deferred()) or handed[-1])
    taker, connection = Told(), Connection()
    made = consumer.BatchConsumer("queue", taker)
    monkeypatch.setattr(made, "_running", True)
    monkeypatch.setattr(made, "_protocol", connection)

    def begin() -> ClosableDeferredQueue:
        deliveries = ClosableDeferredQueue()
        for _ in range(2):
            deliveries.put(ReceivedMessage(None, None, None, b"{}"))
        made._read(deliveries).addErrback(made._read_loop_errback)
        return deliveries

    earlier = begin()
    earlier.close(pika.exceptions.ConnectionClosed(320, "the node stops"))
    now = begin()  # at the next connection, while the batch of the one before is still tried
    handed[0].callback(False)
    assert (made.reading, connection.is_open, taker.reasons) == (True, True, [])

    now.close(pika.exceptions.ChannelClosedByBroker(406, "acknowledgement timed out"))
    handed[1].callback(False)
    assert not connection.is_open, "the next connection begins anew"
    assert [("timed out" in reason) for reason in taker.reasons] == [True]
