# SPDX-License-Identifier: GPL-3.0-or-later
"""The sources of ansible-core's own modules, parsed ahead: each play parses some sixty of them for its first module.

Ansible sends a module together with what it imports, which it finds in the syntax trees. Only what it looks for there
is kept, and it is found again by the very text of a source, so that another text is parsed as ever.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TypeVar
from warnings import catch_warnings, simplefilter

_BATCH = 40
"""How many are parsed at once: while they are, no play starts."""
_DOCUMENTATION = frozenset({"DOCUMENTATION", "EXAMPLES", "RETURN"})
"""Constants of a module that only people read, and the larger part of most."""

_Node = TypeVar("_Node", bound=ast.AST)


class Sources:
    """What has been parsed ahead of the files in Ansible's own directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._trees: dict[bytes, ast.Module] = {}
        # A module's own name is found before Python's.
        vars(importlib.import_module("ansible.executor.module_common"))["compile"] = self._compile

    def batches(self) -> Iterator[Callable[[], None]]:
        """Each parses some."""
        paths = [*self._files("module_utils"), *self._files("modules")]
        for at in range(0, len(paths), _BATCH):
            yield partial(self._parse, paths[at : at + _BATCH])

    def _files(self, part: str) -> Iterator[str]:
        for place, _, names in os.walk(os.path.join(self._directory, part)):
            yield from (os.path.join(place, name) for name in sorted(names) if name.endswith(".py"))

    def _parse(self, paths: list[str]) -> None:
        for path in paths:
            # What cannot be parsed, or not without a warning, is left to the plays: they are to say so.
            with suppress(OSError, SyntaxError, ValueError, Warning), open(path, "rb") as file, catch_warnings():
                simplefilter("error")
                source = file.read()
                self._trees[_digest(source)] = _only_imports(ast.parse(source))

    def _compile(self, source: str | bytes, name: str, mode: str, flags: int = 0, *more: int) -> object:
        """In place of Python's."""
        if mode == "exec" and flags == ast.PyCF_ONLY_AST and not more:
            tree = self._trees.get(_digest(source))
            if tree is not None:
                return tree
        return compile(source, name, mode, flags, *more)  # type: ignore[call-overload]


def _digest(source: str | bytes) -> bytes:
    data = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    return hashlib.blake2b(data, digest_size=16).digest()


def _only_imports(tree: ast.Module) -> ast.Module:
    """The tree with what Ansible looks for alone: imports, what they are in, and constants at the top."""
    return _with(tree, lambda node: isinstance(node, ast.Assign) and not _documents(node))


def _with(node: _Node, wanted: Callable[[ast.AST], bool]) -> _Node:
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            setattr(node, name, [each for each in value if wanted(each) or _imports(each)])
    return node


def _imports(node: object) -> bool:
    """Whether it is an import, or has some in it, which are then all that it has."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return True
    return isinstance(node, ast.AST) and any(
        value for _, value in ast.iter_fields(_with(node, lambda _: False)) if isinstance(value, list)
    )


def _documents(node: ast.Assign) -> bool:
    return all(isinstance(each, ast.Name) and each.id in _DOCUMENTATION for each in node.targets)
