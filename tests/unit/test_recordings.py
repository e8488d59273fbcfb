# SPDX-License-Identifier: GPL-3.0-or-later
"""Files with messages: every form in which people get them, and what is told of those that are none."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relengq import recordings
from relengq.documents import Json
from relengq.errors import MessageFault, UsageFault
from relengq.messages import Message
from relengq.recordings import read

TAG: dict[str, Json] = {
    "body": {"build_id": 2647831, "instance": "primary", "name": "kernel", "tag": "f44-updates", "user": "bodhi"},
    "headers": {"fedora_messaging_schema": "koji.tag", "fedora_messaging_severity": 20,
                "sent-at": "2026-11-20T05:15:00+00:00"},
    "id": "6c0b0e0e-6a0f-4c5e-8c62-2b6c2b1e1d11",
    "priority": 2,
    "queue": None,
    "topic": "org.fedoraproject.prod.buildsys.tag",
}  # fmt: skip
COMPOSE: dict[str, Json] = {
    "body": {
        "compose_id": "Fedora-Rawhide-20261120.n.0",
        "status": "FINISHED",
        "compose_label": None,
        "ü": "\U0001f4e6",
    },
    "headers": {"sent-at": "2026-11-20T09:00:00+00:00"},
    "id": "0f5a3f6e-2b6d-4f57-9d0e-9a5d3c1b7f22",
    "topic": "org.fedoraproject.prod.pungi.compose.status.change",
}
OLD: dict[str, Json] = {
    "i": 1, "certificate": "LS0t", "crypto": "x509", "msg": {"tag": "f24-updates"}, "msg_id": "2016-1ab5ab1e",
    "signature": "…", "source_name": "datanommer", "timestamp": 1463029512.0,
    "topic": "org.fedoraproject.prod.buildsys.tag", "username": "apache",
}  # fmt: skip


def compact(*values: Json) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def pretty(*values: Json) -> str:
    return "\n".join(json.dumps(value, indent=4) for value in values)


def found(text: str | bytes) -> list[Message]:
    return list(read(text, "tag.json"))


def fault(text: str | bytes) -> str:
    with pytest.raises(UsageFault) as caught:
        found(text)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        compact(TAG, COMPOSE),
        compact(TAG, COMPOSE).replace("\n", "\r\n\n"),
        "\ufeff" + compact(TAG, COMPOSE),
        compact([TAG, COMPOSE]),
        pretty([TAG, COMPOSE]),
        pretty(TAG, COMPOSE),
        compact(TAG, COMPOSE).replace("\n", ""),
        compact(TAG) + pretty(COMPOSE),
        pretty(TAG) + ",\n" + compact(COMPOSE),
        compact({"arguments": {}, "count": 2, "pages": 1, "raw_messages": [TAG, COMPOSE], "total": 2}),
        pretty({"raw_messages": [TAG, COMPOSE]}),
        pretty({"raw_messages": [TAG]}, {"raw_messages": [COMPOSE]}),
    ],
)
def test_messages_are_found_in_every_form_and_in_their_order(text: str) -> None:
    tag, compose = found(text)
    assert (tag.id, tag.topic, tag.body, tag.headers) == (TAG["id"], TAG["topic"], TAG["body"], TAG["headers"])
    assert (compose.topic, compose.body) == (COMPOSE["topic"], COMPOSE["body"])
    assert found(text.encode()) == [tag, compose]


def test_one_message_as_datagrepper_gives_it_by_its_id() -> None:
    (message,) = found(pretty(TAG))
    assert message.body["tag"] == "f44-updates"


def test_the_old_names_of_datagrepper_are_read_and_its_time_becomes_sent_at() -> None:
    (message,) = found(pretty({"raw_messages": [OLD]}))
    assert (message.id, message.body) == ("2016-1ab5ab1e", {"tag": "f24-updates"})
    assert message.headers == {"sent-at": "2016-05-12T05:05:12+00:00"}
    (own,) = found(compact({**OLD, "headers": {"sent-at": "2020-01-01T00:00:00+00:00"}}))
    assert own.headers["sent-at"] == "2020-01-01T00:00:00+00:00"


def test_a_message_without_an_id_gets_the_same_one_each_time() -> None:
    without: dict[str, Json] = {"topic": "a.b", "body": {"x": 1}}
    one, again, other = found(compact(without, without, {**without, "body": {"x": 2}}))
    assert one.id == again.id != other.id


@pytest.mark.parametrize("body", [None, [], "text", 7, {"deep": [[[]]]}, {"odd": "\ud800\0"}, {"nan": float("nan")}])
def test_a_body_stays_as_it_is_however_odd_and_is_judged_later_as_on_the_bus(body: Json) -> None:
    (message,) = found(compact({"topic": "a.b", "id": "x", "body": body}))
    if isinstance(body, dict) and "nan" not in body:
        assert message.body == body
    else:
        with pytest.raises(MessageFault):
            _ = message.body


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (compact(TAG, {"id": "x"}), "line 2: this is no message: it has no 'topic' and no 'body'. It has: id."),
        (pretty(TAG, {"topic": "a.b"}), "tag.json, line 19: this is no message: it has no 'body'. It has: topic."),
        (compact({"error": "not_found"}), "It says: not_found."),
        (compact([TAG, 7]), "tag.json, line 1, message 2: this is no message, but 7."),
        (
            pretty({"raw_messages": [TAG, {"topic": None, "body": {}}]}),
            "tag.json, line 1, raw_messages, message 2: the topic is no text but null.",
        ),
        (compact({"raw_messages": {}}), "'raw_messages' is no list"),
        (compact({**TAG, "headers": []}), "the headers are no object but a list"),
        (compact({**TAG, "id": 7}), "the id is no text but 7"),
        ('"text"', 'this is no message, but "text"'),
        (
            compact(TAG) + compact(COMPOSE)[:60],
            "tag.json, line 2, column 56: this is not JSON: Unterminated string starting at. Was the file cut off?",
        ),
        (pretty(TAG)[:-2], "Was the file cut off?"),
        (
            compact(TAG) + '{"topic": "a\nb"}\n' + compact(TAG),
            "tag.json, line 2, column 13: this is not JSON: Invalid control character at.",
        ),
        (compact(TAG) + "{'topic': 1}", "tag.json, line 2, column 2: this is not JSON: Expecting property name"),
        ("<!DOCTYPE html>\n<html>", "tag.json, line 1: this is HTML, not JSON. Ask datagrepper for JSON"),
        (compact(TAG).encode() + b'{"topic": "\xff"}', "tag.json, line 2: byte 0xff is not UTF-8."),
        (b'{\n\n"\xe9": 1}', "tag.json, line 3: byte 0xe9 is not UTF-8."),
        (gzip.compress(compact(TAG).encode()), "is not UTF-8. It is compressed: zcat FILE | relengq trigger -"),
        ("[" * 100_000, "tag.json, line 1: nested too deep."),
        ('{"a": ' * 50_000 + "\n", "tag.json, line 1: nested too deep."),
        ('{"topic": "a", "body": ' + "9" * 5000 + "}", "tag.json, line 1: Exceeds the limit"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_told_with_its_place_and_what_is_missing(text: str | bytes, told: str) -> None:
    assert told in fault(text)


@pytest.mark.parametrize(
    ("sent", "moment"),
    [
        ("2026-11-20T05:15:00+09:00", "2026-11-19T20:15:00+00:00"),
        ("2026-11-20T05:15:00Z", "2026-11-20T05:15:00+00:00"),
        ("2026-11-20T05:15:00", "2026-11-20T05:15:00+00:00"),
        ("0001-01-01T00:00:00+14:00", None),  # the year 0 in UTC, which there is none
        ("9999-12-31T23:59:59-12:00", None),
        ("yesterday", None),
    ],
)
def test_the_time_of_sending_is_one_in_every_zone_or_none(sent: str, moment: str | None) -> None:
    (message,) = found(compact({**TAG, "headers": {"sent-at": sent}}))
    told = message.sent_at
    assert (told.astimezone(UTC).isoformat() if told else None) == moment


@pytest.mark.parametrize("text", ["", "\n \n", "[]", '{"raw_messages": [], "total": 0}'])
def test_a_file_may_have_no_message(text: str) -> None:
    assert found(text) == []


def test_what_stands_before_a_fault_has_been_read() -> None:
    messages = read(compact(TAG) + "oops", "tag.json")
    assert next(messages).id == TAG["id"]
    with pytest.raises(UsageFault):
        next(messages)


class Endless(io.RawIOBase):
    """A recording of a bus that never ends."""

    def __init__(self) -> None:
        self.given = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        self.given += 1
        return compact({**TAG, "id": str(self.given)}).encode()


def test_a_recording_in_lines_is_read_line_by_line() -> None:
    source = Endless()
    messages: Iterator[Message] = read(source, "-")  # type: ignore[arg-type]  # as much of a file as is needed
    assert [next(messages).id for _ in range(1000)][-1] == "1000"
    assert source.given == 1000


def test_what_is_not_in_lines_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "WHOLE_LIMIT", 2000)
    assert len(found(compact(*[TAG] * 50))) == 50
    assert "more than the limit" in fault(pretty(*[TAG] * 50))
    assert "more than the limit" in fault(compact({**TAG, "body": {"x": "y" * 3000}}))


@given(
    st.lists(st.sampled_from([TAG, COMPOSE, OLD]), min_size=1, max_size=6),
    st.sampled_from([compact, pretty]),
    st.integers(0, 2**32),
)
def test_a_damaged_file_gives_messages_or_a_fault_and_nothing_else(
    values: list[Json], write: Callable[..., str], seed: int
) -> None:
    random_ = random.Random(seed)
    content = bytearray(write(*values).encode())
    for _ in range(random_.randint(1, 5)):
        content[random_.randrange(len(content))] = random_.choice(b'{}[]",:\\\n\x00\xff0e-tn')
    with suppress(UsageFault):
        for message in read(bytes(content), "damaged.json"):
            assert message.topic
