# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery's tasks. There is one, and it carries an id: everything else is in SQL."""

from __future__ import annotations

from celery import Task

from relengq.celery import RUN_STEP, app
from relengq.engine.execute import execute
from relengq.engine.installation import current


@app.task(name=RUN_STEP, bind=True, ignore_result=True)
def run_step(self: Task, attempt_id: int) -> None:
    """Play the attempt with this id. A second delivery finds it claimed and does nothing."""
    execute(current(), attempt_id, node=self.request.hostname or "unknown")
