# SPDX-License-Identifier: GPL-3.0-or-later
"""Pieces of reStructuredText, and what Python does not keep at run time: the docstrings of attributes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache

from sphinx.pycode import ModuleAnalyzer

_COMMAND = re.compile(r"'((?:relengq|celery) [^'\n]+)'")
_MARKUP = re.compile(r"([\\*`|]|(?<=\w)_(?=\W|$))")


def prose(text: str) -> str:
    """Plain text as reStructuredText; commands in single quotes become literals."""
    pieces = _COMMAND.split(text)
    return "".join(f"``{piece}``" if at % 2 else _MARKUP.sub(r"\\\1", piece) for at, piece in enumerate(pieces))


def documented(text: str) -> str:
    """A docstring as one line of reStructuredText: what it has in ``double backquotes`` stays."""
    return " ".join(text.split())


def heading(title: str, mark: str, label: str | None = None) -> Iterator[str]:
    """A section's title with the label that other pages find it by."""
    if label:
        yield from (f".. _{label}:", "")
    yield from (title, mark * len(title), "")


def indented(lines: Iterable[str]) -> Iterator[str]:
    """The lines as the body of a directive or of a definition."""
    for line in lines:
        yield f"   {line}" if line else ""


def table(columns: Iterable[str], rows: Iterable[Iterable[str]], widths: str) -> Iterator[str]:
    """A table whose cells are one line each."""
    yield from (".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", "")
    for row in (columns, *rows):
        for at, cell in enumerate(row):
            yield f"     - {cell}" if at else f"   * - {cell}"
    yield ""


@cache
def attribute_docs(module: str) -> dict[tuple[str, str], str]:
    """The docstrings below assignments of a module, by class (empty for the module's own) and name."""
    analyzer = ModuleAnalyzer.for_module(module)
    return {key: documented(" ".join(lines)) for key, lines in analyzer.find_attr_docs().items()}
