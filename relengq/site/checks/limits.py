# SPDX-License-Identifier: GPL-3.0-or-later
"""Workflows that are too large to be looked at in full."""

from __future__ import annotations

from collections.abc import Iterator

from relengq.errors import Fault
from relengq.expressions import is_template
from relengq.inputs import COUNT_LIMIT
from relengq.site.checks.uses import uses
from relengq.site.files import WorkflowFile
from relengq.workflows import STEP_LIMIT

EXPRESSION_LIMIT = 2000
"""How many expressions a workflow may have."""

_LIMITS = {"inputs": COUNT_LIMIT, "steps": STEP_LIMIT, "finally": STEP_LIMIT, "on": 100}


def check(file: WorkflowFile) -> Iterator[Fault]:
    """One fault for each limit that the file is beyond."""
    for key, limit in _LIMITS.items():
        value = file.body.get(key)
        if isinstance(value, dict | list) and len(value) > limit:
            yield file.document.fault((key,), f"'{key}' has {len(value)} entries; the limit is {limit}", key=True)
    count = sum(1 for use in uses(file) if use.bare or is_template(use.text))
    if count > EXPRESSION_LIMIT:
        yield file.document.fault((), f"the workflow has {count} expressions; the limit is {EXPRESSION_LIMIT}")
