# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the manual as a person does: its blocks of code, its commands, the files that it names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_DIRECTIVE = re.compile(r"^(?P<indent> *)\.\. code-block:: *(?P<language>\S+)")
_CAPTION = re.compile(r"^ *:caption: *(?P<caption>\S+)")


def pages() -> list[Path]:
    """Every page that people read, README included."""
    found = [path for path in sorted(DOCS.rglob("*.rst")) if "_build" not in path.parts]
    return [ROOT / "README.rst", *found, *sorted(ROOT.glob("benchmarks/*.rst"))]


@dataclass(frozen=True)
class Block:
    """A block of code in a page."""

    page: Path
    line: int
    language: str
    caption: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page: ``code-block`` directives, and literal blocks, whose language is empty."""
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        found = _DIRECTIVE.match(lines[at])
        literal = lines[at].endswith("::") and not lines[at].lstrip().startswith("..")
        if not found and not literal:
            at += 1
            continue
        start, indent = at, len(lines[at]) - len(lines[at].lstrip())
        body: list[str] = []
        at += 1
        while at < len(lines) and (not lines[at].strip() or len(lines[at]) - len(lines[at].lstrip()) > indent):
            body.append(lines[at])
            at += 1
        caption = next((match["caption"] for match in map(_CAPTION.match, body[:3]) if match), None)
        kept = [line for number, line in enumerate(body) if number > 2 or not line.lstrip().startswith(":caption:")]
        yield Block(page, start + 1, found["language"] if found else "", caption, _dedented(kept))


def _dedented(lines: list[str]) -> str:
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:] for line in lines).strip("\n") + "\n"


def literals(page: Path) -> Iterator[str]:
    """What stands in ``double backquotes``, also over the end of a line."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        text = text.replace("\n".join(block.text.splitlines()[1:]), "")
    for found in re.finditer(r"``(.+?)``", text, re.DOTALL):
        yield " ".join(found[1].split())


@dataclass(frozen=True)
class Command:
    """A command line that the manual shows."""

    where: str
    words: tuple[str, ...]
    whole: bool
    """Whether it stands in a block, so that a person would type it as it is."""


def commands(program: str) -> Iterator[Command]:
    """Every command line of the program in every page."""
    for page in pages():
        for block in blocks(page):
            if block.language in ("console", "sh", ""):
                for line in block.text.replace("\\\n", " ").splitlines():
                    yield from _commands(str(block), program, re.sub(r"^\s*[$#] ", "", line), whole=True)
        for literal in literals(page):
            yield from _commands(str(page.relative_to(ROOT)), program, literal, whole=False)


def _commands(where: str, program: str, line: str, *, whole: bool) -> Iterator[Command]:
    for part in re.split(r"&&|\|", re.sub(r"\s#\s.*|\s{3,}.*", "", line.strip())):
        if part.strip().startswith(f"{program} "):
            words = shlex.split(part.split(" > ")[0])
            yield Command(where, tuple(words[1:]), whole)
