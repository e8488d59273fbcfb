# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server has parsed ahead of Ansible's modules tells Ansible the same as what it would parse itself."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from types import CodeType

import ansible
import pytest
from ansible.executor import module_common

from relengq.execution.guard.warm.sources import Sources

PLACE = Path(ansible.__file__).parent
FILES = [path for part in ("module_utils", "modules") for path in sorted((PLACE / part).rglob("*.py"))]
Parse = Callable[..., ast.Module]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """What Ansible's builder calls in place of Python's ``compile``."""
    monkeypatch.setattr(module_common, "compile", compile, raising=False)
    for batch in Sources().batches():
        batch()
    return vars(module_common)["compile"]


def test_all_of_them_import_what_they_import(parse: Parse) -> None:
    assert len(FILES) > 100
    nodes = [0, 0]
    for path in FILES:
        source = path.read_bytes()
        whole, ahead = ast.parse(source), parse(source, "<unknown>", "exec", ast.PyCF_ONLY_AST)
        nodes = [count + len(list(ast.walk(tree))) for count, tree in zip(nodes, (whole, ahead), strict=True)]
        found = [
            module_common.ModuleDepFinder(
                "ansible.module_utils.some.thing", tree, is_pkg_init=path.name == "__init__.py"
            )
            for tree in (whole, ahead)
        ]
        assert len({frozenset(each.submodules) for each in found}) == 1, path
        assert len({frozenset(each.optional_imports) for each in found}) == 1, path
    assert nodes[1] < nodes[0] / 10


def test_another_text_is_parsed_as_ever(parse: Parse) -> None:
    source = (PLACE / "modules/ping.py").read_bytes() + b"\nimport ansible.module_utils.urls\n"
    assert ast.dump(parse(source, "<unknown>", "exec", ast.PyCF_ONLY_AST)) == ast.dump(ast.parse(source))
    with pytest.raises(SyntaxError, match=r"wrong\.py"):
        parse(b"import", "wrong.py", "exec", ast.PyCF_ONLY_AST)


def test_only_what_ansible_asks_for_is_found(parse: Parse) -> None:
    source = (PLACE / "modules/ping.py").read_bytes()
    assert isinstance(parse(source, "ping.py", "exec"), CodeType)
