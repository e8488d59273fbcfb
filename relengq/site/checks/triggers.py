# SPDX-License-Identifier: GPL-3.0-or-later
"""Message triggers: their inputs, and workflows that would start themselves for ever."""

from __future__ import annotations

import re
from collections.abc import Iterator

from relengq.errors import Fault
from relengq.site.checks import values
from relengq.site.files import WorkflowFile, items, mapping
from relengq.workflows import ANNOUNCED, topic_matches


def check(file: WorkflowFile) -> Iterator[Fault]:
    """The faults of a workflow's triggers."""
    topics = list(_announced(file))
    for loc, trigger in file.triggers():
        yield from values.check(file, mapping(trigger.get("inputs")), file.document, loc, templates=True)
        pattern = trigger.get("message")
        if not isinstance(pattern, str) or trigger.get("if") is not None:
            continue
        if own := next((topic for topic in topics if _reaches(pattern, topic)), None):
            message = f"cycle: the workflow announces '{own}' itself, and would start itself for ever"
            yield file.document.fault((*loc, "message"), message, "narrow the pattern, or add an 'if'")


def _announced(file: WorkflowFile) -> Iterator[str]:
    """The topics of everything that a run of the workflow announces, below the prefix, without a version."""
    announced = file.body.get("announce", list(ANNOUNCED))
    for value in (announced, *(step.body.get("announce") for step in file.steps)):
        for item in items(value) or [value]:
            topic = mapping(item).get("topic")
            if isinstance(item, str):
                yield f"relengq.{item}.v1"
            elif isinstance(topic, str):
                yield topic


def _reaches(pattern: str, topic: str) -> bool:
    """Whether the topic, below whatever prefix is configured, can fit the pattern."""
    unknown = re.sub(r"\{\{.*?\}\}", "\0", topic, flags=re.DOTALL)  # only a wildcard fits what is not known yet
    words = pattern.split(".")
    return any(topic_matches(".".join(words[at:]), unknown) for at in range(len(words)))
