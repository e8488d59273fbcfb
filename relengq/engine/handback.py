# SPDX-License-Identifier: GPL-3.0-or-later
"""Hand back what a worker played that has ended its own processes: nobody has to wait until its leases run out."""

from __future__ import annotations

import psutil
import structlog
from sqlalchemy import select

from relengq.engine.consequences import attempt_ended
from relengq.engine.dispatch import send_due
from relengq.engine.installation import Installation
from relengq.errors import BrokerUnavailable
from relengq.models import Attempt, Run
from relengq.runs.attempts import Ending
from relengq.states import AttemptState

_log = structlog.get_logger(__name__)


def playing(installation: Installation, node: str, host: str) -> dict[int, int]:
    """The attempts that this worker has claimed and not ended, and their processes. May raise DatabaseUnavailable."""
    mine = (Attempt.state == AttemptState.RUNNING, Attempt.worker == node, Attempt.host == host)
    with installation.database.read() as session:
        rows = session.execute(select(Attempt.id, Attempt.pid).where(*mine)).all()
    return {attempt_id: pid for attempt_id, pid in rows if pid is not None}


def hand_back(installation: Installation, node: str, host: str) -> int:
    """End as interrupted what processes of this worker played that are no more. Returns how many there were.

    The caller has seen to it that the plays of such processes have ended too. May raise DatabaseUnavailable.
    """
    gone = {each: pid for each, pid in playing(installation, node, host).items() if not psutil.pid_exists(pid)}
    runs: set[str] = set()
    for attempt_id, pid in gone.items():
        with installation.database.write() as session:
            found = session.get(Attempt, attempt_id)
            run = session.get(Run, found.run_id, with_for_update=True) if found else None
            if found is None or run is None:
                continue
            session.refresh(found)
            if found.state is not AttemptState.RUNNING or (found.worker, found.pid) != (node, pid):
                continue
            ending = Ending(AttemptState.INTERRUPTED, "Its worker was stopped at once, and the play with it.")
            now = installation.database.now(session)
            attempt_ended(session, installation, found, ending, now=now, who=f"worker {host}")
            runs.add(run.id)
            _log.info("attempt.handed_back", run_id=run.id, attempt=found.id, step=found.step.name)
    try:
        send_due(installation, runs)
    except BrokerUnavailable as error:  # the clock sends
        _log.warning("dispatch.postponed", error=str(error))
    return len(runs)
