# SPDX-License-Identifier: GPL-3.0-or-later
"""Schedules for workflows that are not there, with inputs that do not fit, or under a name that is taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from relengq.documents import Document
from relengq.errors import Fault, did_you_mean
from relengq.site.checks import values
from relengq.site.files import WorkflowFile, mapping


def check(documents: Iterable[Document], workflows: Mapping[str, WorkflowFile]) -> Iterator[Fault]:
    """The faults of all files of ``beat/`` against all workflows."""
    for document in documents:
        for name, entry in mapping(document.data).items():
            workflow = mapping(entry).get("workflow")
            if not isinstance(workflow, str):
                continue
            if workflow not in workflows:
                hint = did_you_mean(workflow, workflows)
                yield document.fault((name, "workflow"), f"unknown workflow '{workflow}'", hint)
            elif workflows[workflow].document.data is not None:
                given = mapping(mapping(entry).get("inputs"))
                yield from values.check(workflows[workflow], given, document, (name,), templates=False)
