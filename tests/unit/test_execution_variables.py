# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relengq.documents import Json
from relengq.errors import AttemptFault
from relengq.execution.variables import FILE, Handed, encoded, marked

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda key: "__" not in key), inner),
)


def unmarked(value: Json) -> Json:
    if isinstance(value, dict):
        if set(value) == {"__ansible_unsafe"}:
            return value["__ansible_unsafe"]
        return {key: unmarked(each) for key, each in value.items()}
    return [unmarked(each) for each in value] if isinstance(value, list) else value


def bare_strings(value: Json) -> list[str]:
    if isinstance(value, dict):
        if set(value) == {"__ansible_unsafe"}:
            return []
        return [found for each in value.values() for found in bare_strings(each)]
    if isinstance(value, list):
        return [found for each in value for found in bare_strings(each)]
    return [value] if isinstance(value, str) else []


@given(VALUES)
def test_every_string_is_marked_and_nothing_else_changes(value: Json) -> None:
    wrapped = marked(value, "v")
    assert bare_strings(wrapped) == []
    assert unmarked(wrapped) == value


@pytest.mark.parametrize("size", [1, 2_000_000])
def test_they_are_given_once_and_are_never_in_a_file(tmp_path: Path, size: int) -> None:
    data = encoded({"big": "x" * size, "half": "\ud800", "n": 1})
    assert json.loads(data)["half"] == {"__ansible_unsafe": "?"}
    handed = Handed(tmp_path, data)
    path = tmp_path / FILE
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == data
    assert not path.exists()
    handed.close()


def test_a_reader_that_never_comes_or_ends_too_soon_holds_nobody_up(tmp_path: Path) -> None:
    Handed(tmp_path, b"x").close()
    (tmp_path / FILE).unlink(missing_ok=True)
    handed = Handed(tmp_path, b"x" * 2_000_000)
    with (tmp_path / FILE).open("rb", buffering=0) as pipe:
        assert pipe.read(1) == b"x"
    handed.close()


@pytest.mark.parametrize("name", ["ansible_ssh_common_args", "a-b", "", "1x"])
def test_names_that_steer_ansible_are_refused(name: str) -> None:
    with pytest.raises(AttemptFault, match=f"variable '{name}' cannot be given"):
        encoded({name: "x"})


def test_keys_that_are_ansibles_own_are_refused() -> None:
    with pytest.raises(AttemptFault, match=r"'msg\.a\[0\]' has the key '__ansible_vault'"):
        encoded({"msg": {"a": [{"__ansible_vault": "x"}]}})


def test_a_bomb_of_nesting_is_refused() -> None:
    value: Json = "x"
    for _ in range(200):
        value = [value]
    with pytest.raises(AttemptFault, match="deeper than 100"):
        encoded({"deep": value})
