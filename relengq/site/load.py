# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a site: its workflows, pools and schedules, and whatever is wrong with each file by itself."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from relengq import documents
from relengq.documents import Document
from relengq.errors import Fault, NotFound, SiteFault, did_you_mean
from relengq.pools import Pool
from relengq.schedules import Schedule, Schedules
from relengq.site.checks import announcements, declarations, expressions, limits
from relengq.site.explain import explain
from relengq.site.files import WorkflowFile, mapping
from relengq.site.schema import schema
from relengq.workflows import Workflow

WORKFLOWS, POOLS, SCHEDULES = "playbooks/workflows", "workers", "beat"
"""The directories of a site in which its files are."""
FAULT_LIMIT = 100
"""How many faults of one file are told."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_SUFFIXES = (".yml", ".yaml")
_WORKFLOW: TypeAdapter[Workflow] = TypeAdapter(Workflow)
_POOL: TypeAdapter[Pool] = TypeAdapter(Pool)
_SCHEDULE: TypeAdapter[Schedule] = TypeAdapter(Schedule)
_Model = TypeVar("_Model")


@dataclass(frozen=True)
class Site:
    """What a site's files say, as far as they are sound, and the faults of the others."""

    path: Path
    workflows: Mapping[str, Workflow]
    pools: Mapping[str, Pool]
    schedules: Mapping[str, Schedule]
    faults: tuple[Fault, ...]
    files: Mapping[str, WorkflowFile]
    """All files of workflows, the faulty ones as well."""
    pool_documents: tuple[Document, ...]
    """All files of pools."""
    calendars: tuple[Document, ...]
    """All files of schedules."""

    def workflow(self, name: str) -> Workflow:
        """The workflow of that name.

        Raises NotFound with the nearest name, and SiteFault when there is such a file and it is faulty.
        """
        if name in self.workflows:
            return self.workflows[name]
        if name in self.files:
            raise _broken(f"The workflow '{name}'", self.files[name].document.name, self.faults)
        hint = did_you_mean(name, self.files) or f"It would be {WORKFLOWS}/{name}.yml."
        raise NotFound(f"There is no workflow '{name}'.", hint=_sentence(hint))

    def pool(self, name: str) -> Pool:
        """The pool of that name. Raises NotFound with the nearest name, and SiteFault when its file is faulty."""
        if name in self.pools:
            return self.pools[name]
        for suffix in _SUFFIXES:
            file = f"{POOLS}/{name}{suffix}"
            if any(fault.file == file for fault in self.faults):
                raise _broken(f"The pool '{name}'", file, self.faults)
        hint = did_you_mean(name, self.pools) or f"It would be {POOLS}/{name}.yml."
        raise NotFound(f"There is no pool '{name}'.", hint=_sentence(hint))


class SiteCache:
    """A site that is read again when a file of it has changed."""

    def __init__(self, path: Path, *, whole: bool = True) -> None:
        self._path = path
        self._whole = whole
        self._lock = threading.Lock()
        self._seen: tuple[object, ...] | None = None
        self._site: Site | None = None

    def get(self) -> Site:
        """The site as its files are now. Raises as ``load`` does."""
        with self._lock:
            seen = tuple(_signature(self._path))
            if self._site is None or seen != self._seen:
                self._site, self._seen = load(self._path, whole=self._whole), seen
            return self._site


def is_site(path: Path) -> bool:
    """Whether a directory has workflows: a worker's host may have less, and get the rest with each run's content."""
    return (path / WORKFLOWS).is_dir()


def load(path: Path, *, whole: bool = True) -> Site:
    """Read the site in the directory ``path``.

    Faults of files are in the result. Raises NotFound when there is no such directory, and SiteFault when it is
    no site; unless it need not be a ``whole`` one.
    """
    if whole:
        _demand_site(path)
    faults: list[Fault] = []
    files: dict[str, WorkflowFile] = {}
    workflows: dict[str, Workflow] = {}
    for name, document in _documents(path, WORKFLOWS, faults):
        file = files[name] = WorkflowFile(name, document)
        workflow, own = _workflow(file)
        faults += own
        if workflow is not None:
            workflows[name] = workflow
    pools: dict[str, Pool] = {}
    pool_documents: list[Document] = []
    for name, document in _documents(path, POOLS, faults):
        pool_documents.append(document)
        found = list(document.faults)
        pool = _validated(document, _POOL, "pool", found)
        faults += _cut(document, found)
        if pool is not None and not found:
            pools[name] = pool
    calendars = [document for _, document in _documents(path, SCHEDULES, faults)]
    schedules = _schedules(calendars, faults)
    return Site(path, workflows, pools, schedules, in_order(faults), files, tuple(pool_documents), tuple(calendars))


def in_order(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Each fault once, by file, line and column."""
    key = attrgetter("file", "line", "column", "message")
    return tuple(sorted(dict.fromkeys(faults), key=key))


def _demand_site(path: Path) -> None:
    if not path.is_dir():
        raise NotFound(f"There is no directory {path}.", hint=f"'relengq init {path}' makes a new site there.")
    if not is_site(path):
        raise SiteFault(
            f"{path} is no site: it has no {WORKFLOWS}/.",
            hint="Go to a site's directory, name one with --site or RELENGQ_SITE, or make one with 'relengq init DIR'.",
        )


def _paths(path: Path, folder: str) -> list[Path]:
    try:
        found = sorted((path / folder).iterdir(), key=lambda file: (file.stem, file.suffix != ".yml"))
    except FileNotFoundError:
        return []
    return [file for file in found if _is_meant(file.name)]


def _is_meant(name: str) -> bool:
    return name.endswith(_SUFFIXES) and not name.startswith(".")


def _signature(path: Path) -> Iterator[tuple[object, ...]]:
    """What changes when a file of the site changes, comes or goes."""
    for folder in (WORKFLOWS, POOLS, SCHEDULES):
        try:
            with os.scandir(path / folder) as entries:
                found = sorted((entry for entry in entries if _is_meant(entry.name)), key=attrgetter("name"))
        except FileNotFoundError:
            continue
        except OSError as error:
            yield folder, error.errno
            continue
        for entry in found:
            try:
                state = entry.stat()
            except OSError as error:
                yield entry.path, error.errno
            else:
                yield entry.path, state.st_mtime_ns, state.st_size, state.st_ino


def _documents(path: Path, folder: str, faults: list[Fault]) -> Iterator[tuple[str, Document]]:
    """The files of a directory that have names to go by and mappings in them, with the name that each gives."""
    seen: dict[str, str] = {}
    try:
        paths = _paths(path, folder)
    except OSError as error:
        faults.append(Fault(folder, 1, 1, f"the directory cannot be read: {error.strerror}"))
        return
    for file in paths:
        name, shown = file.stem, f"{folder}/{file.name}"
        if not _NAME.fullmatch(name):
            hint = "a name has letters, digits, '_' and '-', with a letter first, at most 64"
            faults.append(
                Fault(_printable(shown), 1, 1, f"the file's name '{_printable(name)}' is no valid name", hint)
            )
        elif name in seen:
            faults.append(Fault(shown, 1, 1, f"duplicate '{name}'", f"{seen[name]} has that name already"))
        else:
            seen[name] = shown
            document = documents.read(file, name=shown)
            if document.faults and document.data is None:
                faults += document.faults
            elif not isinstance(document.data, dict):
                found = (
                    "the file is empty" if document.data is None else "the file must be a mapping of keys and values"
                )
                document.faults.append(Fault(shown, 1, 1, found))
                faults += document.faults
            yield name, document


def _workflow(file: WorkflowFile) -> tuple[Workflow | None, list[Fault]]:
    found = [*file.document.faults, *limits.check(file)]
    if len(found) > len(file.document.faults):
        return None, found  # nothing else is worth its time
    workflow = _validated(file.document, _WORKFLOW, "workflow", found)
    places = {(fault.line, fault.column) for fault in found}
    # A value that is of the wrong type altogether is told once, not again for what it would say.
    found += [
        fault
        for check in (declarations.check, announcements.check, expressions.check)
        for fault in check(file)
        if (fault.line, fault.column) not in places
    ]
    return workflow if not found else None, _cut(file.document, found)


def _validated(document: Document, adapter: TypeAdapter[_Model], kind: str, found: list[Fault]) -> _Model | None:
    """The model of a file that goes by its own name; what is wrong is added to ``found``."""
    if not isinstance(document.data, dict):
        return None
    body = {key: value for key, value in document.data.items() if key != "name"}
    if "name" in document.data:
        found.append(document.fault(("name",), "unknown key 'name'", "the file's name is the name", key=True))
    try:
        return adapter.validate_python({**body, "name": Path(document.name).stem})
    except ValidationError as error:
        found += explain(document, error, schema(kind))
        return None


def _schedules(calendars: list[Document], faults: list[Fault]) -> dict[str, Schedule]:
    sound: dict[str, Schedule] = {}
    seen: dict[str, str] = {}
    for document in calendars:
        found: list[Fault] = list(document.faults)
        body = mapping(document.data)
        try:
            Schedules.validate_python(body)
        except ValidationError as error:
            found += explain(document, error, schema("schedules"))
        for name, entry in body.items():
            if name in seen:
                hint = f"{seen[name]} has it already"
                found.append(document.fault((name,), f"duplicate schedule '{name}'", hint, key=True))
                continue
            seen[name] = document.name
            try:
                sound |= Schedules.validate_python({name: entry})
            except ValidationError:
                continue
        faults += _cut(document, found)
    return sound


def _cut(document: Document, found: list[Fault]) -> list[Fault]:
    if len(found) <= FAULT_LIMIT:
        return found
    last = in_order(found)[:FAULT_LIMIT]
    return [
        *last,
        Fault(document.name, last[-1].line, last[-1].column, f"… and {len(found) - FAULT_LIMIT} more faults"),
    ]


def _broken(what: str, file: str, faults: tuple[Fault, ...]) -> SiteFault:
    own = [fault for fault in faults if fault.file == file]
    first = f" {own[0]}" if own else ""
    return SiteFault(f"{what} cannot be used:{first}", own, hint="'relengq check' tells all faults.")


def _sentence(hint: str) -> str:
    return hint[:1].upper() + hint[1:]


def _printable(name: str) -> str:
    return name.encode("unicode_escape", "surrogateescape").decode("ascii", "replace")
