# SPDX-License-Identifier: GPL-3.0-or-later
"""Bodies of messages: text in the encoding that the sender names, when that is one of text."""

from __future__ import annotations

import encodings
import json

import pytest

from relengq import messages
from relengq.errors import MessageFault
from relengq.messages import Message, delivered


def of(raw: bytes, encoding: str) -> Message:
    return delivered("org.test", "m1", {}, raw, encoding)


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [
        ("utf-8", "utf-8"),
        ("UTF8", "utf-8"),
        (" utf 8 ", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("us-ascii", "ascii"),
        ("iso-8859-1", "latin-1"),
        ("Latin1", "latin-1"),
        ("utf-16", "utf-16"),
        ("UTF-16BE", "utf-16-be"),
        ("utf_32_le", "utf-32-le"),
    ],
)
def test_a_body_is_read_in_the_encoding_of_its_sender(encoding: str, codec: str) -> None:
    text = "u" if codec == "ascii" else "ü"
    assert of(json.dumps({"a": text}, ensure_ascii=False).encode(codec), encoding).body == {"a": text}


@pytest.mark.parametrize("encoding", ["punycode", "idna", "utf-7", "rot13", "zip", "unicode_escape", "klingon", "a\0b"])
def test_a_body_is_not_read_with_whatever_codec_its_sender_names(encoding: str) -> None:
    hours = of(b"{}-" + b"a" * (8 << 20), encoding)
    with pytest.raises(MessageFault, match="is none of UTF-8, UTF-16, UTF-32, ASCII and Latin-1"):
        _ = hours.body


def test_names_that_senders_make_up_are_not_remembered() -> None:
    with pytest.raises(MessageFault):
        _ = of(b"{}", "made up by somebody").body
    assert not [name for name in encodings._cache if "somebody" in str(name)]  # type: ignore[attr-defined]


def test_what_is_wrong_with_a_body_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []

    def loads(text: str, **_: object) -> object:
        read.append(text)
        raise ValueError("so it is")

    monkeypatch.setattr(messages.json, "loads", loads)
    message = of(b"{", "utf-8")
    for _ in range(3):
        with pytest.raises(MessageFault, match="the body is not JSON: so it is"):
            _ = message.body
    assert len(read) == 1
