# SPDX-License-Identifier: GPL-3.0-or-later
"""What pools name that is not there, and secrets that workflows want and no pool has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from relengq.documents import Document
from relengq.errors import Fault, did_you_mean
from relengq.site.files import WorkflowFile, items, mapping


def check(site: Path, pools: Iterable[Document], files: Iterable[WorkflowFile]) -> Iterator[Fault]:
    """The faults of pools, and of workflows' secrets against all of them."""
    secrets: set[str] = set()
    for document in pools:
        body = mapping(document.data)
        secrets |= set(mapping(body.get("secrets")))
        config = mapping(body.get("ansible")).get("config")
        if isinstance(config, str) and "\0" not in config and not (site / config).is_file():
            message = f"the file '{config}' does not exist"
            yield document.fault(("ansible", "config"), message, "the path is relative to the site")
    for file in files:
        for at, name in enumerate(items(file.body.get("secrets"))):
            if isinstance(name, str) and name not in secrets:
                message = f"no pool has the secret '{name}'"
                yield file.document.fault(("secrets", at), message, did_you_mean(name, secrets))
