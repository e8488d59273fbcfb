# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import hashlib
import html
import json
import random
import re
import shlex
import subprocess
import textwrap
import time
from collections.abc import Callable
from itertools import pairwise, product
from urllib.parse import quote, quote_plus

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape

from relengq.documents import Json
from relengq.execution.forms import forms
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
    "quoted in small letters": quote(SECRET, safe="").lower(),
    "quoted by JavaScript": quote(SECRET, safe="!~*'()"),
    "json in json": json.dumps(json.dumps(SECRET))[3:-3],
    "json with escaped slashes": json.dumps(SECRET)[1:-1].replace("/", "\\/"),
    "json in capital letters": json.dumps(SECRET)[1:-1].replace("\\u00f6", "\\u00F6"),
    "repr": ascii(SECRET)[1:-1],
    "repr of bytes": repr(SECRET.encode())[2:-1],
    "YAML": yaml.dump(SECRET, default_style='"', width=1000).rstrip("\n")[1:-1],
    "HTML": html.escape(SECRET),
}
QUOTES = 'it\'s a "quoted" $ecret & <more>'
"""What shells, YAML and HTML have to quote."""

PASSWORD = "Kq7'Wm2\"Zx9Lp"
QUOTING: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": json.dumps,
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON in HTML": lambda text: (
        json.dumps(text).replace("'", "\\u0027").replace("<", "\\u003c").replace("&", "\\u0026")
    ),
    "Python": repr,
    "Python with both quotes": lambda text: repr(f"\"{text}'"),
    "YAML in single quotes": lambda text: "'" + text.replace("'", "''") + "'",
    "YAML in double quotes": lambda text: yaml.dump(text, default_style='"', width=10_000).rstrip("\n"),
    "shell by Python": shlex.quote,
    "shell by bash": lambda text: "'" + text.replace("'", "'\\''") + "'",
    "shell with backslashes": lambda text: re.sub(r"([^\w@%+=:,./-])", r"\\\1", text, flags=re.ASCII),
    "shell in double quotes": lambda text: '"' + re.sub(r'(["\\$`])', r"\\\1", text) + '"',
    "HTML": html.escape,
    "HTML by markupsafe": lambda text: str(escape(text)),
    "XML": lambda text: html.escape(text).replace("&#x27;", "&apos;"),
}
"""How a text becomes a part of another one."""
LETTERS = "GHJKQVWXZ"
"""Letters of secrets that no quoting writes."""


def streamed(mask: Mask, text: str, pieces: random.Random) -> str:
    """What becomes of the text when it comes in pieces of any size."""
    stream = mask.stream()
    out, at = "", 0
    while at < len(text):
        size = pieces.choice((1, 2, 3, 7, 50))
        out += stream.feed(text[at : at + size])
        at += size
    return out + stream.end()


def bash(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *arguments], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_each_form_is_masked_however_the_text_is_cut(form: str, size: int) -> None:
    text = f"before {form} between {form}{form} after"
    stream = Mask([SECRET]).stream()
    out = "".join(stream.feed(text[at : at + size]) for at in range(0, len(text), size)) + stream.end()
    assert out == f"before {MASK} between {MASK}{MASK} after"


@pytest.mark.parametrize(
    "shown",
    [
        shlex.quote(QUOTES),
        shlex.join(["login", QUOTES]),
        "'" + QUOTES.replace("'", "'\\''") + "'",
        "'" + QUOTES.replace("'", "''") + "'",
        bash("-c", 'printf %q "$1"', "bash", QUOTES).stdout,
        bash("-xc", ': "$1"', "bash", QUOTES).stderr,
        yaml.dump({"key": QUOTES}),
        yaml.dump({"key": QUOTES}, width=12),
        yaml.dump({"key": QUOTES}, width=12, default_style='"'),
        yaml.dump({"key": QUOTES}, width=12, default_style=">"),
        html.escape(QUOTES),
        repr({"key": QUOTES}),
        json.dumps({"stdout": json.dumps({"key": QUOTES})}),
        json.dumps(QUOTES).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"),
        textwrap.fill(f"[ERROR]: The server said: {QUOTES}, and went away.", 40),
        base64.encodebytes(f"user:{QUOTES * 3}".encode()).decode().replace("\n", "\n    "),
    ],
)
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_secret_that_is_quoted_or_wrapped_is_masked(shown: str, size: int) -> None:
    stream = Mask([QUOTES, QUOTES * 3]).stream()
    out = "".join(stream.feed(shown[at : at + size]) for at in range(0, len(shown), size)) + stream.end()
    assert MASK in out
    assert "ecret" not in out
    assert len(out) < len(shown)


@pytest.mark.parametrize(
    "shown",
    [
        r'''"cmd": "mysql -p'Kq7'\"'\"'Wm2\"Zx9Lp' -e 1"''',
        r'''"msg": "config is {'password': 'Kq7\\'Wm2\"Zx9Lp'}"''',
        r'''"msg": "'password': 'Kq7''Wm2\"Zx9Lp'"''',
        "<b>Kq7&#39;Wm2&#34;Zx9Lp</b>",
        "<b>Kq7&apos;Wm2&quot;Zx9Lp</b>",
        shlex.quote("env TOKEN=" + shlex.quote(PASSWORD) + " python"),
        json.dumps({"cmd": ["sh", "-c", shlex.join(["ssh", "h", shlex.join(["login", PASSWORD])])]}),
        base64.b64encode(json.dumps({"auth": PASSWORD}).encode()).decode(),
    ],
)
def test_a_password_is_masked_as_ansible_shows_it(shown: str) -> None:
    out = Mask([PASSWORD]).text(shown)
    assert MASK in out
    assert not any(part in out for part in ("Kq7", "Wm2", "Zx9Lp", base64.b64encode(b"7'Wm2")[2:6].decode()))


@pytest.mark.parametrize("secret", ["K'Q", "Z$G\"'", "K\\<'Q", "G'H\"J$K&Q<V\\W", "'G H,J\"\nKQ'VW\\"])
def test_a_secret_is_masked_however_it_is_quoted_and_quoted_again(secret: str) -> None:
    mask = Mask([secret])
    assert len(forms(secret)) < 2000
    for one, other in product(QUOTING, QUOTING):
        shown = QUOTING[other](QUOTING[one](secret))
        for text in (shown, json.dumps({"msg": shown}), json.dumps({"msg": shown}, ensure_ascii=False)):
            assert not set(LETTERS) & set(mask.text(text)), (one, other)


@pytest.mark.parametrize("seed", range(3))
def test_a_longer_secret_is_masked_however_often_it_is_quoted(seed: int) -> None:
    chance = random.Random(seed)
    secret = "G'H\"J\\,K" * 30
    mask = Mask([secret])
    names = [name for name in QUOTING if not re.search("HTML|XML", name)]
    for _ in range(10):
        shown = secret
        for name in (chosen := chance.choices(names, k=4)):
            shown = QUOTING[name](shown)
        assert not set(LETTERS) & set(mask.text(shown)), chosen


def test_letters_have_few_forms() -> None:
    assert len(forms("correct-horse-battery")) < 10


@pytest.mark.parametrize("seed", range(4))
def test_no_part_of_a_random_secret_goes_out_however_it_is_quoted_broken_and_cut(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(25):
        broken = chance.random() < 0.5
        nasty = "'\"\\$ ,/é" if broken else "'\"\\$&<> ,/é\n"
        letters = chance.choices(LETTERS, k=chance.choice((8, 12, 30) if broken else (3, 5, 9, 30)))
        secret = "".join(letter + chance.choice(["", "", chance.choice(nasty)]) for letter in letters)
        shown = secret
        chosen = [name for name in QUOTING if not broken or not re.search("HTML|XML", name)]
        for name in (names := chance.choices(chosen, k=2)):
            shown = QUOTING[name](shown)
        if broken:
            width = chance.choice((7, 60))
            lines = [shown[at : at + width] for at in range(0, len(shown), width)]
            shown = chance.choice(["\n".join(lines), json.dumps("\n".join(lines)), json.dumps(lines, indent=4)])
        out = streamed(Mask([secret]), f"ok: {shown} => {shown}; done", chance)
        assert not set(LETTERS) & set(out), (secret, names, shown)
        assert out.startswith("ok: ")
        assert out.endswith("; done")


@pytest.mark.parametrize("shift", range(0, 80, 9))
def test_a_secret_in_wrapped_base64_is_masked_in_what_ansible_shows_of_it(shift: int) -> None:
    secret = hashlib.sha256(b"secret").hexdigest()
    coded = base64.encodebytes(f"{'x' * shift}:{secret}:{'tail' * 20}".encode()).decode()
    start = (shift + 4) // 3 * 4
    hidden = "".join(coded.split())[start : start + 80]
    # Nothing of four characters: the first and the last few share bits with what is beside the secret.
    for shown in (
        coded,
        json.dumps({"stdout": coded}),
        json.dumps(coded.splitlines(), indent=4),
        repr(coded.splitlines()),
    ):
        out = Mask([secret]).text(shown)
        assert MASK in out
        assert not any(hidden[at : at + 4] in out for at in range(len(hidden) - 8))


@pytest.mark.parametrize("size", [1, 3, 10, 1000])
@pytest.mark.parametrize("within", ["\n", "\\n", "\\r\\n", "\\\\n\\t", '",\n    "', '", "', "', '", '\\", \\"'])
def test_a_secret_that_ansible_shows_over_several_lines_is_masked(within: str, size: int) -> None:
    secret = "uKq7WmnZx9Lptw"
    for at in range(1, len(secret)):
        text = f'"stdout": "{secret[:at]}{within}{secret[at:]}"'
        stream = Mask([secret]).stream()
        out = "".join(stream.feed(text[at : at + size]) for at in range(0, len(text), size)) + stream.end()
        assert out == f'"stdout": "{MASK}"'


@pytest.mark.parametrize("secret", ["C:\\new\\table", "nnnnnnn1-rrr", '["a-b","c-d"]', "back\\slash\\", '\\now,"then"'])
def test_a_secret_with_what_looks_like_a_break_is_masked_by_all_its_forms(secret: str) -> None:
    mask = Mask([secret])
    for form in forms(secret):
        assert mask.text(f"\\{form}") in (f"\\{MASK}", MASK)
        assert mask.text(f"x {form} x") == f"x {MASK} x"


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
    value = {"k-s3cret": ["s3cret", {"pin": 1234, "other": 12345, "near": 123, "yes": True, "no": None}]}
    assert Mask(["s3cret", "1234"]).json(value) == {
        f"k-{MASK}": [MASK, {"pin": MASK, "other": MASK, "near": 123, "yes": True, "no": None}]
    }


def test_the_lines_of_a_list_are_masked_as_one_text() -> None:
    secret = "Kq7Wm2Zx9Lp-Vb4"
    lines: list[Json] = ["a", "b Kq7W", "m2Zx9", "Lp-Vb4 c", "Kq7W", 1, "m2Zx9Lp-Vb4", [secret, "d"]]
    assert Mask([secret]).json(lines) == ["a", f"b {MASK}", MASK, f"{MASK} c", "Kq7W", 1, "m2Zx9Lp-Vb4", [MASK, "d"]]
    coded = base64.encodebytes(hashlib.sha512(secret.encode()).digest() * 3)
    masked = Mask([base64.b64decode(coded).hex(), coded.decode()]).json(["x", *coded.decode().split(), ""])
    assert masked == ["x", *[MASK] * 4, ""]


SECRETS = st.lists(st.text("ab", min_size=3, max_size=6), min_size=1, max_size=3)


@settings(deadline=None)
@given(SECRETS, st.lists(st.text("abc", max_size=9)))
def test_no_secret_is_ever_whole_in_the_output(secrets: list[str], pieces: list[str]) -> None:
    stream = Mask(secrets).stream()
    out = "".join(stream.feed(piece) for piece in pieces) + stream.end()
    assert not any(secret in part for part in out.split(MASK) for secret in secrets)
    if not any(secret in "".join(pieces) for secret in secrets):
        assert out == "".join(pieces)


BROKEN = st.sampled_from(["abbaabba", "abbaa\n   bba", "abb aabba"])
PIECES = st.lists(st.text("ab \n\\", max_size=9) | BROKEN)


@settings(deadline=None)
@given(st.lists(st.text("ab", min_size=8, max_size=10), min_size=1, max_size=3), PIECES)
def test_no_secret_is_ever_whole_in_the_output_when_breaks_are_left_out(secrets: list[str], pieces: list[str]) -> None:
    def together(text: str) -> str:
        return re.sub(r"[\\\s]", "", text)

    stream = Mask(secrets).stream()
    out = "".join(stream.feed(piece) for piece in pieces) + stream.end()
    assert not any(secret in together(part) for part in out.split(MASK) for secret in secrets)
    if not any(secret in together("".join(pieces)) for secret in secrets):
        assert out == "".join(pieces)


@settings(deadline=None)
@given(st.text(min_size=4, max_size=40), st.data())
def test_any_secret_is_masked_in_any_form_however_it_is_cut(secret: str, data: st.DataObject) -> None:
    known = sorted(forms(secret))
    shown = "".join(data.draw(st.sampled_from(known)) + "\n|\n" for _ in range(2)) if known else ""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(shown)), max_size=8)))
    stream = Mask([secret]).stream()
    out = "".join(stream.feed(shown[a:b]) for a, b in pairwise([0, *cuts, len(shown)])) + stream.end()
    assert not any(form in part for part in out.split(MASK) for form in known)


def test_what_goes_on_after_a_part_of_a_long_secret_is_masked_as_well() -> None:
    secret = base64.b64encode(bytes(range(256))).decode()
    for shown in (secret, secret[:100], secret[:300] + "…", f"x{secret}x"):
        assert not re.search(r"[A-Za-z0-9]{4}", Mask([secret]).text(shown))


@pytest.mark.parametrize(
    ("secret", "begun"),
    [
        ("s3cret-pass", "s3cret-pas"),  # whose next character is its first one: over the blank, it goes on there
        ("7bc4612476c0efecf6c2f708dfc3832cc31a72f6421f64ee9bd453abf694b927b709a781d8c9d5c3", "7bc4612476c0efecf6c2"),
    ],
)
def test_a_secret_right_after_one_that_was_cut_off_is_masked_however_the_text_is_cut(secret: str, begun: str) -> None:
    for length in range(len(begun), len(secret)):
        text = f"token {secret[:length]}\n{secret}\ndone\n"
        for at in range(1, len(text)):
            stream = Mask([secret]).stream()
            out = stream.feed(text[:at]) + stream.feed(text[at:]) + stream.end()
            assert secret[3:] not in out, (length, at)
            assert out.endswith("\ndone\n")


def test_much_output_and_many_secrets_take_little_time() -> None:
    """20 secrets cost less than a second for each MB, in large reads and in small ones."""
    keys = ["\n".join(hashlib.sha512(bytes([n, line])).hexdigest() for line in range(20)) for n in range(3)]
    secrets = [*keys, *(hashlib.sha256(bytes([n])).hexdigest()[: 8 + 2 * n] for n in range(17))]
    line = "ok: [host.example.org] => (item={{'name': 'package', 'sum': '{}'}})\n"
    text = "".join(line.format(hashlib.md5(str(n).encode()).hexdigest()) for n in range(10_000))
    for size in (1 << 18, 200):
        stream = Mask(secrets).stream()
        began = time.process_time()
        out = "".join(stream.feed(text[at : at + size]) for at in range(0, len(text), size)) + stream.end()
        assert time.process_time() - began < len(text) / 1e6 * (0.5 if size > 1000 else 3)
        assert out == text


def test_a_long_secret_is_masked_in_little_time_however_it_is_read() -> None:
    key = "\n".join(hashlib.sha512(bytes([line])).hexdigest()[:64] for line in range(100))
    mask = Mask([key])
    began = time.process_time()
    for shown in (key, json.dumps(key), json.dumps(key.splitlines(), indent=4)):
        stream = mask.stream()
        out = "".join(stream.feed(shown[at : at + 256]) for at in range(0, len(shown), 256)) + stream.end()
        assert not re.search("[0-9a-f]{8}", out)
    assert time.process_time() - began < 2


def test_text_that_cannot_be_a_secret_is_not_held_back() -> None:
    stream = Mask(["s3cret-value"]).stream()
    assert stream.feed("waiting for s3c") == "waiting for "
    assert stream.feed("ondary") == "s3condary"
