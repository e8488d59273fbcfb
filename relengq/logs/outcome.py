# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of an Ansible task."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class TaskOutcome:
    """What one Ansible task did on one host."""

    number: int
    """From 1 within the attempt. A second outcome with the same number replaces the first."""
    host: str
    play: str
    task: str
    """As Ansible shows it: ``role : name``."""
    action: str
    status: str
    """ok, changed, failed, unreachable, skipped, ignored (failed, and was to be ignored) or rescued."""
    changed: bool
    duration: float
    """In seconds."""
    started: datetime | None
    message: str | None = None
    """Of a failure: what the module said, with its standard error."""
    item: str | None = None
    """In a loop: the first item that failed."""
