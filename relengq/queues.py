# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of queues: which there may be, and which are the broker's, Celery's or the listener's own."""

from __future__ import annotations

import re

PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""Names that no broker has to quote. Redis keeps a queue as the key of its name, and kombu beside it keys with blanks,
control characters or '_' in front (``_kombu.binding.…``), which are no such names."""

_OWN = frozenset({"unacked", "unacked_index", "unacked_mutex", "relengq"})
"""Keys of Redis in which kombu notes what is delivered, and the listener's queue where nobody names it otherwise."""
_BEGINS = ("amq.", "celeryev", "celery_delayed_")
"""RabbitMQ's own, Celery's events, and where it keeps tasks with a countdown."""
_ENDS = ".pidbox"
"""Where workers are asked and answer."""


def checked(name: str) -> str:
    """The name. Raises ValueError with a sentence when no queue may have it."""
    if not re.fullmatch(PATTERN, name):
        raise ValueError("a queue's name has letters, digits, '.', '_' and '-' only, at most 100")
    # What is written there would be taken for something else, and stop every worker, not those of this queue alone.
    if name in _OWN or name.startswith(_BEGINS) or name.endswith(_ENDS):
        raise ValueError(f"the name '{name}' is reserved: the broker, Celery or the listener keeps something under it")
    return name
