# SPDX-License-Identifier: GPL-3.0-or-later
"""The only door to ansible-runner: an order goes in, output and task results come out, and an outcome."""

from relengq.execution.door import play
from relengq.execution.masking import Mask
from relengq.execution.means import Means
from relengq.execution.order import Outcome, PlayOrder, Sink, Stop
from relengq.execution.servers import Warm
from relengq.logs import TaskOutcome

__all__ = ["Mask", "Means", "Outcome", "PlayOrder", "Sink", "Stop", "TaskOutcome", "Warm", "play"]
