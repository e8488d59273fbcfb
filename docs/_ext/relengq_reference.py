# SPDX-License-Identifier: GPL-3.0-or-later
"""Directives that write the reference from the code, so that it cannot say anything else than the code does.

``relengq-cli``, ``relengq-exit-codes``, ``relengq-settings``, ``relengq-keys KIND``, ``relengq-states KIND``,
``relengq-limits``, ``relengq-expressions PART``, ``relengq-announcements`` and ``relengq-fields MODULE.CLASS``: each
makes reStructuredText, and Sphinx reads it as if it stood in the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import announcements
import command_line
import file_keys
import tables
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

Maker = Callable[..., Iterator[str]]

MAKERS: dict[str, Maker] = {
    "relengq-cli": command_line.verbs,
    "relengq-exit-codes": command_line.exit_codes,
    "relengq-settings": file_keys.settings,
    "relengq-keys": file_keys.keys,
    "relengq-states": tables.states,
    "relengq-limits": tables.limits,
    "relengq-bounds": file_keys.bounds,
    "relengq-expressions": tables.expressions,
    "relengq-fields": tables.fields,
    "relengq-announcements": announcements.bodies,
}


class Reference(SphinxDirective):
    """A part of the reference that is made from the code."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the text and let Sphinx read it; a page that has such a part is read again in each build."""
        self.env.note_reread()
        text = "\n".join(MAKERS[self.name](*self.arguments))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx's entry point."""
    for name in MAKERS:
        app.add_directive(name, Reference)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
