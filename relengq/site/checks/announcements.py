# SPDX-License-Identifier: GPL-3.0-or-later
"""What a workflow and its steps announce: events that there are, where they can happen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from relengq.documents import Json, Loc
from relengq.errors import Fault, did_you_mean
from relengq.site.files import WorkflowFile
from relengq.workflows import EVENTS, RUN_WAITING, STEP_EVENTS


def check(file: WorkflowFile) -> Iterator[Fault]:
    """The faults of all ``announce`` of the file."""
    yield from _events(file, file.body.get("announce"), ("announce",), EVENTS)
    for step in file.steps:
        announce, loc = step.body.get("announce"), (*step.loc, "announce")
        yield from _events(file, announce, loc, STEP_EVENTS)
        if step.kind == "playbook":
            for place, event in _named(announce, loc):
                if event == RUN_WAITING:
                    message = f"a step with a playbook never waits, so '{RUN_WAITING}' is never announced of it"
                    yield file.document.fault(place, message, "it is for steps with approval or wait_for")


def _events(file: WorkflowFile, announce: Json, loc: Loc, known: Sequence[str]) -> Iterator[Fault]:
    for place, event in _named(announce, loc):
        if event in known:
            continue
        if event in EVENTS:
            message = f"the event '{event}' is the run's, not the step's"
            yield file.document.fault(place, message, "announce it at the top of the file")
        else:
            yield file.document.fault(place, f"unknown event '{event}'", did_you_mean(event, known))


def _named(announce: Json, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """The names of events, with their places."""
    if isinstance(announce, str):
        yield loc, announce
    elif isinstance(announce, list):
        yield from (((*loc, at), item) for at, item in enumerate(announce) if isinstance(item, str))
