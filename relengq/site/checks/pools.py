# SPDX-License-Identifier: GPL-3.0-or-later
"""What pools name that is not there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from relengq.documents import Document
from relengq.errors import Fault
from relengq.site.files import mapping


def check(site: Path, pools: Iterable[Document]) -> Iterator[Fault]:
    """The faults of pools."""
    for document in pools:
        body = mapping(document.data)
        config = mapping(body.get("ansible")).get("config")
        if isinstance(config, str) and "\0" not in config and not (site / config).is_file():
            message = f"the file '{config}' does not exist"
            yield document.fault(("ansible", "config"), message, "the path is relative to the site")
