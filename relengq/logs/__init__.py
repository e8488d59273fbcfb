# SPDX-License-Identifier: GPL-3.0-or-later
"""Output and task results of attempts: written by the worker that plays, read and followed from anywhere."""

from relengq.logs.outcome import TaskOutcome
from relengq.logs.reader import Reader, follow, read
from relengq.logs.recorder import Recorder

__all__ = ["Reader", "Recorder", "TaskOutcome", "follow", "read"]
