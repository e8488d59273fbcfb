# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody else's consumer of announcements: it knows fedora-messaging and relengq_messages, and nothing of relengq."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fedora_messaging.message import Message


def hear(message: Message) -> None:
    """Write down what came, one line a message. fedora-messaging has checked it against its schema before."""
    heard = {
        "class": type(message).__name__,
        "id": message.id,
        "topic": message.topic,
        "severity": message.severity,
        "summary": message.summary,
        "usernames": message.usernames,
        "headers": message._headers,
        "body": message.body,
    }
    with Path(os.environ["HEARD"]).open("a") as file:
        file.write(f"{json.dumps(heard)}\n")
