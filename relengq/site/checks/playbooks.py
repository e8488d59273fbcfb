# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks and inventories that are not there, and playbooks that import themselves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from relengq import documents
from relengq.documents import Document, Loc
from relengq.errors import Fault, nearest
from relengq.expressions import is_template
from relengq.site.files import WorkflowFile, items, mapping

_IMPORTS = ("import_playbook", "ansible.builtin.import_playbook")
_SUFFIXES = (".yml", ".yaml")
_FOLDERS = frozenset(("workflows", "roles", "inventory", "group_vars", "host_vars", "collections"))

Import = tuple[Loc, str]


def check(site: Path, files: Iterable[WorkflowFile]) -> Iterator[Fault]:
    """The faults of all playbooks that the workflows' steps name."""
    folder = site / "playbooks"
    reader = _Reader(site)
    named: dict[str, None] = {}
    for file in files:
        for step in file.steps:
            playbook, inventory = step.body.get("playbook"), step.body.get("inventory")
            if isinstance(playbook, str) and _relative(playbook):
                if (folder / playbook).is_file():
                    named[os.path.normpath(playbook)] = None
                else:
                    message = f"the playbook '{playbook}' does not exist in playbooks/"
                    yield file.document.fault((*step.loc, "playbook"), message, _near(playbook, reader.names()))
            if isinstance(inventory, str) and _missing(folder, inventory):
                message = f"the inventory '{inventory}' does not exist in playbooks/"
                yield file.document.fault((*step.loc, "inventory"), message)
    yield from reader.follow(named)


class _Reader:
    """Reads playbooks as far as their imports go, each once."""

    def __init__(self, site: Path) -> None:
        self._site = site
        self._folder = site / "playbooks"
        self.names = cache(self._names)

    def _names(self) -> list[str]:
        """The files that may be playbooks."""
        found: list[str] = []
        for root, folders, files in os.walk(self._folder):
            folders[:] = sorted(name for name in folders if name not in _FOLDERS and not name.startswith("."))
            here = Path(root).relative_to(self._folder)
            found += [str(here / name) for name in sorted(files) if name.endswith(_SUFFIXES)]
        return found

    def follow(self, named: Iterable[str]) -> Iterator[Fault]:
        """The faults of these playbooks and of all that they import."""
        imports: dict[str, tuple[Document, list[Import]]] = {}
        pending = list(named)
        while pending:
            name = pending.pop()
            if name in imports:
                continue
            document = documents.read(self._folder / name, name=str(Path("playbooks") / name))
            found = list(_imports(document))
            imports[name] = document, found
            if document.data is None and document.faults:
                yield document.faults[-1]
            elif not isinstance(document.data, list):
                yield document.fault((), "a playbook is a list of plays")
            for loc, other in found:
                target = _target(name, other)
                if not _relative(target):
                    continue
                if (self._folder / target).is_file():
                    pending.append(target)
                else:
                    yield document.fault(loc, f"the playbook '{other}' does not exist", _near(target, self.names()))
        yield from _cycles({name: (document, found) for name, (document, found) in imports.items()})


def _imports(document: Document) -> Iterator[Import]:
    for at, play in enumerate(items(document.data)):
        for key in _IMPORTS:
            other = mapping(play).get(key)
            if isinstance(other, str) and not is_template(other) and other.endswith(_SUFFIXES):
                yield (at, key), other


def _cycles(imports: dict[str, tuple[Document, list[Import]]]) -> Iterator[Fault]:
    """One fault for each import that leads back to the playbook that has it."""
    for name, (document, found) in imports.items():
        for loc, other in found:
            if _leads(imports, _target(name, other), name):
                yield document.fault(loc, f"cycle: importing '{other}' leads back to '{name}'")


def _leads(imports: dict[str, tuple[Document, list[Import]]], start: str, goal: str) -> bool:
    seen: set[str] = set()
    pending = [start]
    while pending:
        name = pending.pop()
        if name == goal:
            return True
        if name not in seen and name in imports:
            seen.add(name)
            pending += [_target(name, other) for _, other in imports[name][1]]
    return False


def _target(name: str, other: str) -> str:
    """The imported playbook, relative to playbooks/: Ansible looks beside the one that imports."""
    return os.path.normpath(Path(name).parent / other)


def _relative(path: str) -> bool:
    """Whether the path is one that is looked for below playbooks/; others are refused elsewhere."""
    return bool(path) and not path.startswith(("/", "..")) and "\0" not in path


def _missing(folder: Path, inventory: str) -> bool:
    """Whether the inventory is a path (and no list of hosts) that leads nowhere."""
    return "," not in inventory and _relative(inventory) and not (folder / inventory).exists()


def _near(name: str, names: Iterable[str]) -> str | None:
    near = nearest(name, names)
    return f"did you mean '{near}'?" if near else None
