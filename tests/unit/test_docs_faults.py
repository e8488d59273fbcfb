# SPDX-License-Identifier: GPL-3.0-or-later
"""The page "What happens when…" has four answers for each fault, and every test that it names exists."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.manual import DOCS, ROOT

PAGE = (DOCS / "howto" / "what-happens-when.rst").read_text(encoding="utf-8")
ANSWERS = ["Seen", "relengq", "You", "Shown by"]
FAULTS = dict(re.findall(r"^(\S[^\n]+)\n~+\n(.*?)(?=^\S[^\n]+\n[~-]{3,}\n|^\.\. _|\Z)", PAGE, re.MULTILINE | re.DOTALL))
TESTS = sorted(set(re.findall(r"``(tests/[\w/]+\.py)::(\w+)``", PAGE)))


def test_there_are_faults_and_tests() -> None:
    assert len(FAULTS) >= 30
    assert len(TESTS) >= 40


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_has_its_answers(fault: str) -> None:
    assert re.findall(r"^:([\w ]+):", FAULTS[fault], re.MULTILINE) == ANSWERS
    shown = FAULTS[fault].partition(":Shown by:")[2]
    assert re.fullmatch(r"(\s*``tests/[\w/]+\.py::test_\w+``,?)+\s*", shown), shown


@pytest.mark.parametrize(("file", "test"), TESTS)
def test_a_test_that_is_named_exists(file: str, test: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
