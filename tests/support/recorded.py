# SPDX-License-Identifier: GPL-3.0-or-later
"""The messages of ``tests/recorded``, as they were recorded or with something else in them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path

from relengq import recordings
from relengq.documents import Json
from relengq.messages import Message, delivered

RECORDED = Path(__file__).parents[1] / "recorded"
NAMES = sorted(path.stem for path in RECORDED.glob("*.json"))


def recorded(name: str, /, places: Mapping[str, str] | None = None, **changes: Json) -> Message:
    """A recorded message. ``places`` are replaced in its text; with ``changes`` in its body it has a new id."""
    text = (RECORDED / f"{name}.json").read_text(encoding="utf-8")
    for place, own in (places or {}).items():
        text = text.replace(place, own)
    [message] = recordings.read(text, name)
    if not changes:
        return message
    body = json.dumps({**message.body, **changes}).encode()
    return delivered(message.topic, str(uuid.uuid4()), dict(message.headers), body)
