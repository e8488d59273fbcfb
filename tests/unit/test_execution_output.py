# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relengq.execution.output import Mark, Splitter


def mark(data: dict[str, str]) -> bytes:
    """As ansible-runner's callback writes it."""
    coded = base64.b64encode(json.dumps(data).encode()).decode()
    pieces = (coded[at : at + 78] for at in range(0, len(coded), 78))
    return ("\x1b[K" + "".join(f"{piece}\x1b[{len(piece)}D" for piece in pieces) + "\x1b[K").encode()


def split(data: bytes, sizes: list[int]) -> tuple[str, list[str]]:
    splitter = Splitter()
    parts, at = [], 0
    for size in [*sizes, len(data)]:
        parts += splitter.feed(data[at : at + size])
        at += size
    parts += splitter.end()
    text = "".join(part for part in parts if isinstance(part, str))
    return text, [part.uuid for part in parts if isinstance(part, Mark)]


TEXT = st.lists(
    st.sampled_from(
        [b"ok: [h]\n", b"\x1b[K", b"\x1b", b"\x1b[", b"\x1b[Kword", b"\x1b[Kword\x1b[4D", b"\xc3\xa9", b"\0"]
    )
)


@given(TEXT, TEXT, st.lists(st.integers(1, 40)))
def test_marks_are_taken_out_and_text_stays_however_it_is_cut(
    before: list[bytes], after: list[bytes], sizes: list[int]
) -> None:
    first, last = b"".join(before) + b".", b"." + b"".join(after)
    data = first + mark({"uuid": "0242-ac_1" * 9}) + "grün\n".encode() + mark({}) + last
    text, uuids = split(data, sizes)
    assert uuids == ["0242-ac_1" * 9]
    assert text == first.decode() + "grün\n" + last.decode()


@pytest.mark.parametrize("uuid", ["../../etc/passwd", "a/b", "", "x" * 101])
def test_a_mark_that_names_no_event_is_no_event(uuid: str) -> None:
    assert split(mark({"uuid": uuid}), []) == ("", [])


@given(st.binary(max_size=300), st.lists(st.integers(1, 40)))
def test_any_bytes_become_text_once(data: bytes, sizes: list[int]) -> None:
    text, _ = split(data, sizes)
    assert text == data.decode("utf-8", "replace")


def test_the_beginning_of_a_mark_is_not_held_for_ever() -> None:
    splitter = Splitter()
    endless = b"\x1b[K" + b"A" * 78 + b"\x1b[78D"
    parts = [part for _ in range(100) for part in splitter.feed(endless[3:] if _ else endless)]
    assert parts
