# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relengq.execution.masking import MASK, Mask

SECRET = 'pa"ss/wörd +1'
KEY = "-----BEGIN KEY-----\n" + "\n".join(f"line{n}abcdefghij{n}" * 3 for n in range(40)) + "\n-----END KEY-----\n"

FORMS = {
    "plain": SECRET,
    "json": json.dumps(SECRET)[1:-1],
    "json in UTF-8": json.dumps(SECRET, ensure_ascii=False)[1:-1],
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64url": base64.urlsafe_b64encode(SECRET.encode()).decode(),
    "quoted": quote(SECRET),
    "quoted wholly": quote(SECRET, safe=""),
    "form": quote_plus(SECRET),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_each_form_is_masked_however_the_text_is_cut(form: str, size: int) -> None:
    text = f"before {form} between {form}{form} after"
    stream = Mask([SECRET]).stream()
    out = "".join(stream.feed(text[at : at + size]) for at in range(0, len(text), size)) + stream.end()
    assert out == f"before {MASK} between {MASK}{MASK} after"


@pytest.mark.parametrize("user", ["u", "us", "use", "user"])
def test_base64_of_a_longer_text_does_not_give_the_secret_away(user: str) -> None:
    coded = base64.b64encode(f"{user}:{SECRET}:tail".encode()).decode()
    masked = Mask([SECRET]).text(f"Authorization: Basic {coded}")
    assert MASK in masked
    left = masked.removeprefix("Authorization: Basic ").split(MASK)
    assert sum(map(len, left)) < len(coded) - len(SECRET)


def test_lines_of_a_key_are_masked_by_themselves() -> None:
    mask = Mask([KEY])
    indented = "\n".join(f"    {line}" for line in KEY.splitlines())
    wrapped = base64.encodebytes(KEY.encode()).decode()
    for shown in (KEY, indented, json.dumps(KEY), json.dumps(KEY.splitlines()), wrapped):
        out = mask.text(shown)
        assert not any(line in out for line in [*KEY.splitlines(), *wrapped.splitlines()[:-1]])


def test_very_short_values_are_left_alone() -> None:
    assert Mask(["a", "", "  ", "ab"]).text("a cab") == "a cab"


def test_json_is_masked_in_keys_strings_and_numbers() -> None:
    value = {"k-s3cret": ["s3cret", {"pin": 1234, "other": 12345, "yes": True, "no": None}]}
    assert Mask(["s3cret", "1234"]).json(value) == {
        f"k-{MASK}": [MASK, {"pin": MASK, "other": 12345, "yes": True, "no": None}]
    }


SECRETS = st.lists(st.text("ab", min_size=3, max_size=6), min_size=1, max_size=3)


@given(SECRETS, st.lists(st.text("abc", max_size=9)))
def test_no_secret_is_ever_whole_in_the_output(secrets: list[str], pieces: list[str]) -> None:
    stream = Mask(secrets).stream()
    out = "".join(stream.feed(piece) for piece in pieces) + stream.end()
    assert not any(secret in part for part in out.split(MASK) for secret in secrets)
    if not any(secret in "".join(pieces) for secret in secrets):
        assert out == "".join(pieces)


def test_text_that_cannot_be_a_secret_is_not_held_back() -> None:
    stream = Mask(["s3cret-value"]).stream()
    assert stream.feed("waiting for s3c") == "waiting for "
    assert stream.feed("ondary") == "s3condary"
