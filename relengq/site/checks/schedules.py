# SPDX-License-Identifier: GPL-3.0-or-later
"""Schedules for workflows that are not there, with inputs that do not fit, or under a name that is taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from relengq.documents import Document, Json
from relengq.errors import Fault, did_you_mean
from relengq.schedules import Schedule
from relengq.site.checks import values
from relengq.site.files import WorkflowFile, mapping


def check(documents: Iterable[Document], workflows: Mapping[str, WorkflowFile]) -> Iterator[Fault]:
    """The faults of all files of ``beat/`` against all workflows."""
    for document in documents:
        for name, entry in mapping(document.data).items():
            yield from _timing(document, name, mapping(entry))
            workflow = mapping(entry).get("workflow")
            if not isinstance(workflow, str):
                continue
            if workflow not in workflows:
                hint = did_you_mean(workflow, workflows)
                yield document.fault((name, "workflow"), f"unknown workflow '{workflow}'", hint)
            elif workflows[workflow].document.data is not None:
                given = mapping(mapping(entry).get("inputs"))
                yield from values.check(workflows[workflow], given, document, (name,), templates=False)


def _timing(document: Document, name: str, entry: Mapping[str, Json]) -> Iterator[Fault]:
    """What the model itself says only of an entry whose keys are all sound; where it does, the faults are one."""
    given = [key for key in ("cron", "every") if entry.get(key) is not None]
    known = set(entry) <= set(Schedule.model_fields)
    if entry and (len(given) > 1 or (not given and known)):
        yield document.fault((name,), f"{name}: give either 'cron' or 'every'")
