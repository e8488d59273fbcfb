# SPDX-License-Identifier: GPL-3.0-or-later
"""Play one attempt on this worker: claim it, prepare it, play it, tell how it ended, and let the run go on."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import structlog

from relengq.documents import Json
from relengq.engine.consequences import attempt_ended
from relengq.engine.dispatch import send_due
from relengq.engine.installation import Installation
from relengq.engine.keeper import Keeper
from relengq.engine.orders import Prepared, leaves, play_order, prepare
from relengq.errors import BrokerUnavailable, DatabaseUnavailable, RelengqError, StaleAttempt
from relengq.execution import Mask, Outcome, play
from relengq.logs import Recorder
from relengq.runs.attempts import Claim, Ending, WorkerIdentity, claim, held_attempt, queued_runs
from relengq.states import AttemptState

OUTPUTS_LIMIT = 1024 * 1024
"""Bytes of JSON that a step may hand on with set_stats; more belongs into a file."""
_RETRY_SECONDS = 1.0
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


def execute(installation: Installation, attempt_id: int, node: str) -> None:
    """Play the attempt, if it is still to be played. Never raises for what goes wrong with the play itself."""
    who = WorkerIdentity(node, socket.gethostname(), os.getpid())
    asked = time.monotonic()
    claimed = _claim(installation, attempt_id, who)
    if claimed is None:
        _log.info("attempt.not_claimed", attempt=attempt_id)
        return
    log = _log.bind(run_id=claimed.run_id, attempt=claimed.label)
    log.info("attempt.started")
    with Keeper(installation, claimed, since=asked) as keeper:
        ending = _play(installation, claimed, keeper)
        queued = _tell(installation, claimed, ending, who)
    if queued is None:
        log.error("attempt.taken_away", state=str(ending.state))
        return
    log.info("attempt.ended", state=str(ending.state), return_code=ending.return_code)
    try:
        send_due(installation, queued)
    except (BrokerUnavailable, DatabaseUnavailable) as error:
        log.warning("dispatch.postponed", error=str(error))


def _patiently(action: Callable[[], _T], give_up: Callable[[], bool], what: str) -> _T:
    """Do it again while the database is away, until it is done or ``give_up`` says so; then DatabaseUnavailable."""
    said = False
    while True:
        try:
            return action()
        except DatabaseUnavailable as error:
            if give_up():
                raise
            if not said:
                _log.warning(f"{what}.postponed", error=str(error))
            said = True
            time.sleep(_RETRY_SECONDS)


def _claim(installation: Installation, attempt_id: int, who: WorkerIdentity) -> Claim | None:
    """Claim it, with some patience for a database that is away: the broker has forgotten the task by now."""
    database = installation.database
    lease = installation.settings.lease_seconds
    deadline = time.monotonic() + lease

    def once() -> Claim | None:
        with database.write() as session:
            return claim(session, attempt_id, who, clock=database.now, lease=timedelta(seconds=lease))

    return _patiently(once, lambda: time.monotonic() > deadline, "claim")


def _play(installation: Installation, claimed: Claim, keeper: Keeper) -> Ending:
    """Prepare and play. What cannot be prepared, or breaks, fails the attempt with its sentence."""
    mask = Mask(())
    try:
        prepared = _patiently(lambda: _read(installation, claimed), lambda: keeper.stop() is not None, "attempt")
        secrets = installation.secrets.open(prepared.run.sealed_inputs)
        mask = Mask(leaves(secrets))
        order = play_order(installation, prepared, secrets)
        if reason := keeper.stop():
            return Ending(AttemptState(reason.value), f"stopped before it was played: {reason.value}")
        with Recorder(installation.database, claimed.attempt_id, claimed.fence) as recorder:
            outcome = play(order, recorder, keeper.stop, keeper.until)
    except RelengqError as fault:
        return Ending(AttemptState.FAILED, mask.text(str(fault)))
    except OSError as error:
        return Ending(AttemptState.FAILED, mask.text(f"this worker cannot play it: {error}"))
    except Exception as error:
        _log.exception("attempt.bug", run_id=claimed.run_id, attempt=claimed.label)
        name = type(error).__name__
        return Ending(AttemptState.FAILED, f"a bug in relengq, {name}; the worker's log has the traceback")
    return _ending(outcome)


def _read(installation: Installation, claimed: Claim) -> Prepared:
    with installation.database.read() as session:
        return prepare(session, claimed)


def _ending(outcome: Outcome) -> Ending:
    size = len(json.dumps(outcome.outputs))
    if size > OUTPUTS_LIMIT:
        message = f"its outputs have {size} bytes, and the limit is {OUTPUTS_LIMIT}; hand large values on in a file"
        return Ending(AttemptState.FAILED, message, outcome.return_code, _stats(outcome))
    return Ending(outcome.state, outcome.message, outcome.return_code, _stats(outcome), dict(outcome.outputs))


def _stats(outcome: Outcome) -> dict[str, Json]:
    return {host: dict(counts) for host, counts in outcome.stats.items()}


def _tell(installation: Installation, claimed: Claim, ending: Ending, who: WorkerIdentity) -> set[str] | None:
    """Store the ending and advance the run, however long the database is away.

    Returns the runs for which that has queued attempts, or None when the attempt was taken away meanwhile.
    """
    database = installation.database

    def once() -> set[str]:
        with database.write() as session:
            attempt = held_attempt(session, claimed)
            now = database.now(session)
            attempt_ended(session, installation, attempt, ending, now=now, who=f"worker {who.host}")
            session.flush()
            return queued_runs(session)

    try:
        return _patiently(once, lambda: False, "ending")
    except StaleAttempt:
        return None
