# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server has parsed ahead of Ansible's modules tells Ansible the same as what it would parse itself."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from warnings import catch_warnings, simplefilter

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
    return parsed_ahead(PLACE)


def parsed_ahead(directory: Path) -> Parse:
    for batch in Sources(str(directory)).batches():
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


def test_what_warns_is_left_to_the_plays(parse: Parse, tmp_path: Path) -> None:
    warns, silent = b"import ansible.module_utils.urls\nnumber = 1\ntext = '\\d'\n", b"if 1:\n    pass\n"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/warns.py").write_bytes(warns)
    (tmp_path / "modules/silent.py").write_bytes(silent)
    with catch_warnings(record=True) as said:
        simplefilter("always")
        parse = parsed_ahead(tmp_path)
        assert said == []
        whole = parse(warns, "<unknown>", "exec", ast.PyCF_ONLY_AST)
        assert len(said) == 1
    assert len(whole.body) == 3
    assert parse(silent, "<unknown>", "exec", ast.PyCF_ONLY_AST).body == []


def test_only_what_ansible_asks_for_is_found(parse: Parse) -> None:
    source = (PLACE / "modules/ping.py").read_bytes()
    assert isinstance(parse(source, "ping.py", "exec"), CodeType)
