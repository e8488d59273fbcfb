# SPDX-License-Identifier: GPL-3.0-or-later
"""The workflow that a run was started from, as it stood then."""

from __future__ import annotations

from relengq.models import Run
from relengq.workflows import Workflow


def workflow_of(run: Run) -> Workflow:
    """The run's own copy of its workflow; later edits of the file do not reach it."""
    return Workflow.model_validate(run.definition.body)
