# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML with marks: what it reads, where things stand, what it refuses and how fast."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from relengq.documents import DEPTH_LIMIT, NODE_LIMIT, SIZE_LIMIT, Json, load, parse, read
from relengq.errors import SiteFault

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + at)}: &{chr(98 + at)} [{','.join(['*' + chr(97 + at)] * 9)}]\n" for at in range(9)
)

CHARACTERS = st.characters(max_codepoint=0xFFFD, exclude_categories=["Cs"])  # libyaml reads no pairs of surrogates
TEXT = st.text(CHARACTERS)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(CHARACTERS, min_size=1, max_size=50), inner, max_size=4)
    ),
    max_leaves=20,
)


def messages(text: str) -> list[str]:
    return [str(fault) for fault in parse(text, name="f.yml").faults]


@given(JSON)
def test_reads_what_json_writes(value: Json) -> None:
    document = parse(json.dumps(value), name="f.yml")
    assert document.faults == []
    assert document.data == value


@given(st.text())
def test_any_text_gives_data_or_a_fault_with_a_place(text: str) -> None:
    document = parse(text, name="f.yml")
    assert all(fault.line >= 1 and fault.column >= 1 for fault in document.faults)


@given(
    st.recursive(
        st.text("abc"), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner)
    )
)
def test_agrees_with_pyyaml_on_block_style(value: Json) -> None:
    text = yaml.safe_dump(value, default_flow_style=False)
    assert parse(text, name="f.yml").data == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("0x1F", 31),
        ("0o17", 15),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("1.2.3", "1.2.3"),
        ("2026-11-20", "2026-11-20"),
        ("f44", "f44"),
        ("'no'", "no"),
        ("12:30:45:99", "12:30:45:99"),
        ("!!str 5", "5"),
        ("0", 0),
        ("x86_64", "x86_64"),
    ],
)
def test_plain_values_follow_yaml_1_2(text: str, value: object) -> None:
    document = parse(f"key: {text}", name="f.yml")
    assert (document.faults, document.data) == ([], {"key": value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: yes", "f.yml:1:4: yes is a word to some readers of YAML and true to others"),
        ("a: Off", "f.yml:1:4: Off is a word"),
        ("a: 0755", "f.yml:1:4: 0755 is read as different numbers"),
        ("a: 1:30", "f.yml:1:4: 1:30 is read as different numbers"),
        ("a: .inf", "f.yml:1:4: this number cannot be written as JSON"),
        ("a: 1e999", "f.yml:1:4: this number cannot be written as JSON"),
        ("a: 99999999999999999999", "f.yml:1:4: this number is beyond 64 bits"),
        ("a: " + "9" * 5000, "f.yml:1:4: this number is beyond 64 bits"),
        ("44: x", "f.yml:1:1: the key 44 is not a word"),
        ("true: x", "f.yml:1:1: the key true is not a word"),
        ("a: !vault x", "f.yml:1:4: the tag !vault means nothing here"),
        ("a: !!python/object:os.system x", "f.yml:1:4: the tag"),
        ("a: 1\nb: 2\na: 3", "f.yml:3:1: duplicate key 'a' (it stands in line 1 already)"),
        ("a: {b: 1, b: 2}", "f.yml:1:11: duplicate key 'b'"),
        ("a: [", "f.yml:2:1: this is not YAML"),
        ("a: b: c", "f.yml:1:5: this is not YAML: mapping values are not allowed"),
        ("a:\n\t- b", "f.yml:2:1: this is not YAML"),
        ("a: x\x07", "f.yml:1:5: this is not YAML: a control character stands here"),
        ("a: *x", "f.yml:1:4: the alias *x names nothing"),
        ("a: &x [1, *x]", "f.yml:1:11: cycle: the alias *x"),
        ("a: &x {b: {c: *x}}", "f.yml:1:15: cycle: the alias *x"),
        ("a: 1\n---\nb: 2", "f.yml:2:1: a second document"),
        ("? [a]\n: b", "f.yml:1:3: a key is a word"),
        ("a: {<<: 3}", "f.yml:1:9: '<<' takes a mapping"),
    ],
)  # fmt: skip
def test_refuses_with_the_place(text: str, message: str) -> None:
    assert any(found.startswith(message) for found in messages(text)), messages(text)


def test_tells_all_faults_that_do_not_end_the_reading() -> None:
    assert len(messages("a: yes\nb: 010\nb: 1\nc: !x 3\n")) == 4


def test_knows_where_values_and_keys_stand() -> None:
    document = parse("a:\n  b:\n    - x\n    - {c: d}\n", name="f.yml")
    assert document.mark(("a", "b", 1, "c")) == (4, 11)
    assert document.mark(("a", "b", 1, "c"), key=True) == (4, 8)
    assert document.mark(("a", "b", 7)) == (3, 5)
    assert document.mark(("nothing",)) == (1, 1)


def test_merges_and_lets_own_keys_win() -> None:
    document = parse("base: &base {p: 1, q: 2}\nuse:\n  <<: *base\n  q: 3\n", name="f.yml")
    assert (document.faults, document.data) == ([], {"base": {"p": 1, "q": 2}, "use": {"p": 1, "q": 3}})
    assert document.mark(("use", "p")) == (1, 17)
    assert parse("a: &a {p: 1}\nb: {q: &b {p: 2}, <<: [*a, *b], p: 3}", name="f").data == {
        "a": {"p": 1}, "b": {"q": {"p": 2}, "p": 3},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (BOMB, NODE_LIMIT),
        ("- x\n" * 250_000, NODE_LIMIT),
        ("[" * 500_000, DEPTH_LIMIT),
        ("{a: " * 200_000, DEPTH_LIMIT),
        ("".join(" " * depth + "-\n" for depth in range(1000)), DEPTH_LIMIT),
        ("a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 20 + "*a" + "]" * 20, DEPTH_LIMIT),
        ("a: '" + "x" * 10_000_000 + "'", SIZE_LIMIT),
    ],
    ids=["bomb", "many", "deep", "deep-flow", "deep-block", "deep-alias", "large"],
)
def test_names_the_limit_at_once(text: str, limit: int) -> None:
    began = time.process_time()
    (fault,) = parse(text, name="f.yml").faults
    assert str(limit) in fault.message
    assert "limit" in fault.message
    assert time.process_time() - began < 1


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "dir.yml").mkdir()
    (tmp_path / "latin.yml").write_bytes("a: 1\nb: é\n".encode("latin-1"))
    (tmp_path / "loop.yml").symlink_to("loop.yml")
    (tmp_path / "dangling.yml").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.yml")
    with (tmp_path / "large.yml").open("wb") as file:
        file.truncate(10_000_000)

    def told(name: str) -> str:
        (fault,) = read(tmp_path / name, name=name).faults
        return str(fault)

    assert told("dir.yml").startswith("dir.yml:1:1: this is a directory")
    assert told("latin.yml").startswith("latin.yml:2:4: the file is not UTF-8")
    assert "cannot be read" in told("loop.yml")
    assert "cannot be read: No such file" in told("dangling.yml")
    assert "no regular file" in told("pipe.yml")
    assert str(SIZE_LIMIT) in told("large.yml")
    assert "cannot be read" in told("absent.yml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path: Path) -> None:
    file = tmp_path / "secret.yml"
    file.write_text("a: 1")
    file.chmod(0)
    assert "cannot be read: Permission denied" in str(read(file, name="secret.yml").faults[0])


def test_load_raises_all_faults(tmp_path: Path) -> None:
    file = tmp_path / "f.yml"
    file.write_text("\ufeffa: yes\nb: no\n", encoding="utf-8")
    with pytest.raises(SiteFault) as caught:
        load(file, name="f.yml")
    assert [fault.line for fault in caught.value.faults] == [1, 2]
