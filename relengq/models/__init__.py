# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables. Only ``relengq.runs`` writes the state columns of runs, steps and attempts."""

from relengq.models.base import Base, UtcDateTime
from relengq.models.bus import Announcement, KeptMessage, Listener, ParkedMessage, Wait
from relengq.models.runs import (
    Attempt,
    Definition,
    History,
    OutputChunk,
    Progress,
    Run,
    RunInput,
    SpentKey,
    Step,
    TaskResult,
)
from relengq.models.system import GroupHolder, Lease, ScheduleFire, ScheduleState, Worker

__all__ = [
    "Announcement",
    "Attempt",
    "Base",
    "Definition",
    "GroupHolder",
    "History",
    "KeptMessage",
    "Lease",
    "Listener",
    "OutputChunk",
    "ParkedMessage",
    "Progress",
    "Run",
    "RunInput",
    "ScheduleFire",
    "ScheduleState",
    "SpentKey",
    "Step",
    "TaskResult",
    "UtcDateTime",
    "Wait",
    "Worker",
]
