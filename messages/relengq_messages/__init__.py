# SPDX-License-Identifier: GPL-3.0-or-later
"""What relengq announces on the bus: one class a topic, with its schema and with accessors that never raise on a body
that fits it.

A schema never changes. A change that would break consumers is a new class with a topic of its own, ``….v2``.
"""

from __future__ import annotations

from relengq_messages.messages import RunFinishedV1, RunStartedV1, RunWaitingV1, StepFinishedV1

__all__ = ["RunFinishedV1", "RunStartedV1", "RunWaitingV1", "StepFinishedV1"]
