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
from relengq.execution.variables import marked, write

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


def test_the_file_is_private_and_is_json(tmp_path: Path) -> None:
    path = tmp_path / "variables.json"
    write(path, {"big": "x" * 200_000, "half": "\ud800", "n": 1})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["half"] == {"__ansible_unsafe": "?"}


@pytest.mark.parametrize("name", ["ansible_ssh_common_args", "a-b", "", "1x"])
def test_names_that_steer_ansible_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AttemptFault, match=f"variable '{name}' cannot be given"):
        write(tmp_path / "v", {name: "x"})


def test_keys_that_are_ansibles_own_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AttemptFault, match=r"'msg\.a\[0\]' has the key '__ansible_vault'"):
        write(tmp_path / "v", {"msg": {"a": [{"__ansible_vault": "x"}]}})


def test_a_bomb_of_nesting_is_refused(tmp_path: Path) -> None:
    value: Json = "x"
    for _ in range(200):
        value = [value]
    with pytest.raises(AttemptFault, match="deeper than 100"):
        write(tmp_path / "v", {"deep": value})
