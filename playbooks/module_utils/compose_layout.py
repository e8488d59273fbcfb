# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are in a compose, as Pungi lays it out, and what its name and STATUS say.

``TARGET/Fedora-Rawhide-20261120.n.0/{COMPOSE_ID,STATUS,compose/,logs/,work/}``
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

STARTED, DOOMED, TERMINATED = "STARTED", "DOOMED", "TERMINATED"
FINISHED, FINISHED_INCOMPLETE = "FINISHED", "FINISHED_INCOMPLETE"
GOOD = frozenset({FINISHED, FINISHED_INCOMPLETE})
VARIANT = "Everything"
SOURCE = "source"

_NAME = re.compile(
    r"(?P<short>[A-Za-z][A-Za-z0-9]*)-(?P<version>[A-Za-z0-9.]+)-(?P<date>[0-9]{8})(?P<kind>(?:\.[a-z]+)?)\.(?P<respin>[0-9]{1,6})"
)


class ComposeFault(Exception):
    """Something about a compose that a person has to look at; the message says what."""


class ComposeName(NamedTuple):
    """A compose id taken apart: ``Fedora-Rawhide-20261120.n.0``."""

    short: str
    version: str
    date: str
    kind: str
    respin: int

    @classmethod
    def parse(cls, text: str) -> ComposeName | None:
        """The name, or None when the text is no compose id."""
        found = _NAME.fullmatch(text)
        return cls(*found.groups()[:4], int(found["respin"])) if found else None

    @property
    def family(self) -> tuple[str, str, str]:
        """What composes share that follow each other: release and type."""
        return (self.short, self.version, self.kind)

    @property
    def order(self) -> tuple[str, int]:
        """Sorts the composes of a family by age."""
        return (self.date, self.respin)

    @property
    def latest_link(self) -> str:
        """The name of the symbolic link to the newest good compose."""
        return f"latest-{self.short}-{self.version}"

    def __str__(self) -> str:
        return f"{self.short}-{self.version}-{self.date}{self.kind}.{self.respin}"


class Tree(NamedTuple):
    """One repository of a compose: its category in rpms.json, and its place below ``compose/``."""

    category: str
    relative: Path


class Compose:
    """A compose directory; raises ComposeFault when it is none."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        name = ComposeName.parse(self.path.name)
        if name is None or self.id_file != str(name):
            raise ComposeFault(f"{path} is no compose: its COMPOSE_ID does not say {self.path.name}")
        self.name = name

    @property
    def id_file(self) -> str:
        """What COMPOSE_ID says; empty when there is none."""
        return _read(self.path / "COMPOSE_ID")

    @property
    def status(self) -> str:
        """What STATUS says; empty when there is none."""
        return _read(self.path / "STATUS")

    def set_status(self, status: str, *, dry: bool = False) -> bool:
        """Write STATUS; returns whether it changed."""
        return write(self.path / "STATUS", status + "\n", dry=dry)

    def open(self, *, dry: bool = False) -> bool:
        """Say that work on the compose goes on: a DOOMED one that is resumed is STARTED again."""
        return self.set_status(STARTED, dry=dry) if self.status in (DOOMED, TERMINATED, "") else False

    def refuse_change_when_finished(self) -> None:
        """A published compose never changes: raises ComposeFault."""
        if self.status in GOOD:
            raise ComposeFault(f"{self.name} is {self.status} and must not change any more: begin a new compose")

    @property
    def top(self) -> Path:
        """The directory that mirrors get."""
        return self.path / "compose"

    @property
    def metadata(self) -> Path:
        """Where composeinfo.json, rpms.json and images.json are."""
        return self.top / "metadata"

    def logs(self, arch: str = "global") -> Path:
        """The directory of an architecture's logs."""
        return self.path / "logs" / arch

    def work(self, arch: str = "global") -> Path:
        """The directory of what is only needed while the compose is made."""
        return self.path / "work" / arch

    def failure(self, arch: str, stage: str) -> Path:
        """The file that says why a stage of an architecture failed; it is there only when it did."""
        return self.work(arch) / f"FAILED.{stage}"

    def failures(self, arch: str = "*") -> list[tuple[str, str]]:
        """Each architecture that failed, and why."""
        notes = sorted(self.path.glob(f"work/{arch}/FAILED.*"))
        return [(note.parent.name, _read(note)) for note in notes]

    def trees(self, arch: str) -> list[Tree]:
        """The repositories of an architecture, or of ``source``."""
        if arch == SOURCE:
            return [Tree("source", Path(VARIANT, SOURCE, "tree"))]
        return [Tree("binary", Path(VARIANT, arch, "os")), Tree("debug", Path(VARIANT, arch, "debug", "tree"))]

    def ready(self, arch: str) -> bool:
        """Whether an architecture was gathered and has its repodata."""
        repomd = self.top / self.trees(arch)[0].relative / "repodata" / "repomd.xml"
        return repomd.is_file() and not self.failures(arch)


def composes(directory: Path, family: tuple[str, str, str]) -> list[Compose]:
    """The composes of a family in a directory, oldest first. Symbolic links and unfinished directories are not."""
    return sorted(_composes(directory, family), key=lambda compose: compose.name.order)


def _composes(directory: Path, family: tuple[str, str, str]) -> Iterator[Compose]:
    for path in directory.iterdir() if directory.is_dir() else ():
        name = ComposeName.parse(path.name)
        if name is None or name.family != family or path.is_symlink():
            continue
        try:
            yield Compose(path)
        except ComposeFault:
            continue


def latest(directory: Path, name: ComposeName) -> str:
    """The compose id that the latest link of a release names; empty when there is no link."""
    try:
        return (directory / name.latest_link).readlink().name
    except OSError:
        return ""


def write(path: Path, text: str, *, dry: bool = False) -> bool:
    """Write a file at once (readers see the old or the new text); returns whether it changed. ``dry`` only compares."""
    if path.is_file() and _read(path, strip=False) == text:
        return False
    if dry:
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return True


def point(link: Path, target: str) -> None:
    """Make a symbolic link name a target at once: a reader sees the old or the new one, never none."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _read(path: Path, *, strip: bool = True) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return ""
    return text.strip() if strip else text
