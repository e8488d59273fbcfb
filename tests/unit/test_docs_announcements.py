# SPDX-License-Identifier: GPL-3.0-or-later
"""What the manual says of announcements is what the code sends."""

from __future__ import annotations

import re

from fedora_messaging import message

from relengq.announcements import bodies
from relengq.workflows import ANNOUNCED, EVENTS, STEP_EVENTS
from relengq_messages import RunFinishedV1, RunStartedV1, RunWaitingV1, StepFinishedV1
from tests.support.manual import DOCS

CLASSES = (RunStartedV1, RunFinishedV1, RunWaitingV1, StepFinishedV1)


def test_each_event_has_its_class_its_words_and_its_severity() -> None:
    page = (DOCS / "reference/announcements.rst").read_text()
    assert {kind.topic for kind in CLASSES} == {f"relengq.{event}.v1" for event in EVENTS}
    table = page.partition("When it happens")[2].partition("Severity")[0]
    assert re.findall(r"^``([\w.]+)``", table, re.MULTILINE) == list(EVENTS)
    told = {int(number) for number in re.findall(r"(\d\d), (?:info|warning|error)", page)}
    assert told == {bodies.INFO, bodies.WARNING, bodies.ERROR} == {message.INFO, message.WARNING, message.ERROR}


def test_the_how_to_names_events_that_there_are() -> None:
    page = (DOCS / "howto/announce.rst").read_text()
    assert set(re.findall(r"\b(?:run|step)\.(?:started|finished|waiting)\b", page)) == set(EVENTS)
    assert f"``{ANNOUNCED[0]}`` and ``{ANNOUNCED[1]}``" in page
    for event in STEP_EVENTS:
        assert f"announce: {event}" in page
    assert bodies.BODY_LIMIT == 1 << 20
    assert "1 MiB" in page
