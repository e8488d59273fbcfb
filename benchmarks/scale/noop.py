# SPDX-License-Identifier: GPL-3.0-or-later
"""relengq's own Celery application with plays that do nothing: ``celery -A benchmarks.scale.noop worker``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.scale.ledger import note
from relengq.celery import app
from relengq.engine import execute
from relengq.execution import Outcome, PlayOrder, Sink, Stop
from relengq.states import AttemptState

__all__ = ["app"]


def play(order: PlayOrder, sink: Sink, stop: Callable[[], Stop | None], until: Callable[[], float]) -> Outcome:
    """In place of Ansible: write down when it began and when it ended."""
    note(Path(os.environ["BENCH_LEDGER"]))
    return Outcome(AttemptState.SUCCEEDED, return_code=0)


execute.play = play  # type: ignore[assignment]
