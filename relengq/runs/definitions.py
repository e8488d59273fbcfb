# SPDX-License-Identifier: GPL-3.0-or-later
"""The workflow that a run was started from, as it stood then."""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from relengq.models import Definition, Run
from relengq.workflows import Workflow

_KEPT = "relengq.definitions"
"""Where a session keeps the digests of the definitions that it has seen to."""
_MOST = 200
_read: dict[str, Workflow] = {}
"""Workflows that this process has read, by the digest of their contents: every step of every run asks for one."""


def workflow_of(run: Run) -> Workflow:
    """The run's own copy of its workflow; later edits of the file do not reach it."""
    found = _read.get(run.definition_digest)
    if found is None:
        found = Workflow.model_validate(run.definition.body)
        _remember(found, run.definition_digest)
    return found


def load_definition(run: Run) -> None:
    """Read what ``workflow_of`` needs while the run's session lasts, so that it can be asked for afterwards."""
    if run.definition_digest not in _read:
        _ = run.definition


def keep_definition(session: Session, workflow: Workflow) -> None:
    """Keep the workflow as it stands, for the runs that are made of it."""
    _remember(workflow, workflow.digest)  # a run that is about to be inserted has no definition to read yet
    kept: set[str] = session.info.setdefault(_KEPT, set())
    if workflow.digest in kept:
        return
    # Locked, so that it is not pruned before the run that is made of it is committed.
    if session.get(Definition, workflow.digest, with_for_update={"read": True, "key_share": True}) is None:
        try:
            with session.begin_nested():
                session.add(Definition(digest=workflow.digest, body=workflow.body))
        except IntegrityError:
            pass  # another process has just kept the same
    kept.add(workflow.digest)


def _remember(workflow: Workflow, digest: str) -> None:
    if digest not in _read and len(_read) >= _MOST:
        _read.clear()
    _read[digest] = workflow
