# SPDX-License-Identifier: GPL-3.0-or-later
"""Play one attempt on this worker: claim it, prepare it, play it, tell how it ended, and let the run go on."""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import structlog

from relengq.content.trees import Wanted, leased
from relengq.documents import Json
from relengq.engine.consequences import attempt_ended
from relengq.engine.context import OUTPUTS_LIMIT
from relengq.engine.dispatch import parcels, send
from relengq.engine.hidden import Hidden
from relengq.engine.installation import Installation, Parcel
from relengq.engine.keeper import Keeper
from relengq.engine.orders import play_order, pool_secrets, prepare
from relengq.errors import BrokerUnavailable, DatabaseUnavailable, RelengqError, RevisionMissing, StaleAttempt
from relengq.execution import Outcome, Stop, play
from relengq.logs import Recorder
from relengq.models import Attempt
from relengq.runs.attempts import Claim, Ending, WorkerIdentity, claim_of, has_ended, held_attempt, take
from relengq.runs.definitions import load_definition
from relengq.states import AttemptState

_RETRY_SECONDS = 1.0
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


def execute(installation: Installation, attempt_id: int, node: str) -> None:
    """Play the attempt, if it is still to be played. Never raises for what goes wrong with the play itself."""
    who = WorkerIdentity(node, socket.gethostname(), os.getpid())
    found = _claim(installation, attempt_id, who)
    if found is None:
        _log.info("attempt.not_claimed", attempt=attempt_id)
        return
    attempt, claimed, asked = found
    log = _log.bind(run_id=claimed.run_id, attempt=claimed.attempt_id, step=claimed.step)
    log.info("attempt.started")
    with Keeper(installation, claimed, since=asked) as keeper:
        ending = _play(installation, attempt, claimed, keeper)
        keeper.ending()
        due = _tell(installation, claimed, ending, who)
    if due is None:
        log.error("attempt.taken_away", state=str(ending.state))
        return
    log.info("attempt.ended", state=str(ending.state), return_code=ending.return_code)
    try:
        send(installation, due)
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


def _claim(installation: Installation, attempt_id: int, who: WorkerIdentity) -> tuple[Attempt, Claim, float] | None:
    """Claim it, with some patience for a database that is away: the broker has forgotten the task by now.

    Returns the attempt as it is to be played, the claim, and the moment (of ``time.monotonic``) before which its lease
    cannot have begun. A claim that was committed while the connection broke is found at the next try, by its token.
    """
    database = installation.database
    lease = installation.settings.lease_seconds
    deadline = time.monotonic() + lease

    def once() -> tuple[Attempt, Claim, float] | None:
        asked = time.monotonic()
        with database.write() as session:
            taken = take(session, attempt_id, who, clock=database, lease=timedelta(seconds=lease))
            if taken is None:
                return None
            load_definition(taken.step.run)
        return taken, claim_of(taken), asked

    return _patiently(once, lambda: time.monotonic() > deadline, "claim")


def _play(installation: Installation, attempt: Attempt, claimed: Claim, keeper: Keeper) -> Ending:
    """Prepare and play. What cannot be prepared, or breaks, fails the attempt with its sentence."""
    hidden = Hidden({}, {})
    try:
        prepared = prepare(attempt)
        inputs = installation.secrets.open(prepared.run.sealed_inputs)
        hidden = Hidden(prepared.run.inputs, inputs)
        run = prepared.run
        wanted = Wanted(run.revision, run.dirty, run.host)
        with leased(installation.settings, wanted, lambda: keeper.stop() is not None) as content:
            secrets = pool_secrets(installation, prepared, content)
            hidden.secrets(secrets.values())
            order = play_order(installation, prepared, inputs, secrets, hidden, content)
            if reason := keeper.stop():
                return _unplayed(reason)
            spool = installation.settings.attempts_dir
            with Recorder(installation.database, claimed.attempt_id, claimed.fence, spool) as recorder:
                outcome = play(order, recorder, keeper.stop, keeper.until)
    except RevisionMissing as fault:
        reason = keeper.stop()
        return _unplayed(reason) if reason else Ending(AttemptState.FAILED, hidden.mask().text(str(fault)))
    except RelengqError as fault:
        return Ending(AttemptState.FAILED, hidden.mask().text(str(fault)))
    except OSError as error:
        return Ending(AttemptState.FAILED, hidden.mask().text(f"this worker cannot play it: {error}"))
    except Exception as error:
        trace = hidden.mask().text(traceback.format_exc())  # an exception's text may have anything in it
        _log.error("attempt.bug", run_id=claimed.run_id, attempt=claimed.attempt_id, exception=trace)
        name = type(error).__name__
        return Ending(AttemptState.FAILED, f"a bug in relengq, {name}; the worker's log has the traceback")
    return _ending(outcome)


def _unplayed(reason: Stop) -> Ending:
    return Ending(AttemptState(reason.value), f"stopped before it was played: {reason.value}")


def _ending(outcome: Outcome) -> Ending:
    size = len(json.dumps(outcome.outputs))
    if size > OUTPUTS_LIMIT:
        message = f"its outputs have {size} bytes, and the limit is {OUTPUTS_LIMIT}; hand large values on in a file"
        return Ending(AttemptState.FAILED, message, outcome.return_code, _stats(outcome))
    return Ending(outcome.state, outcome.message, outcome.return_code, _stats(outcome), dict(outcome.outputs))


def _stats(outcome: Outcome) -> dict[str, Json]:
    return {host: dict(counts) for host, counts in outcome.stats.items()}


def _tell(installation: Installation, claimed: Claim, ending: Ending, who: WorkerIdentity) -> list[Parcel] | None:
    """Store the ending and advance the run, however long the database is away.

    Returns what is to be sent for that, or None when the attempt was taken away meanwhile. A try that was committed
    while the connection broke is recognised by the next one.
    """
    database = installation.database
    due: list[Parcel] | None = None
    guarded = False

    def once() -> list[Parcel]:
        nonlocal due
        with database.write() as session:
            if due is not None and has_ended(session, claimed, ending.state):
                return due
            attempt, now = held_attempt(session, claimed, database)
            told_by = f"worker {who.host}"
            attempt_ended(session, installation, attempt, ending, now=now, who=told_by, guarded=guarded)
            session.flush()
            due = parcels(session, now)
        return due

    def quickly_or_guarded() -> list[Parcel]:
        nonlocal guarded
        try:
            return once()
        except (DatabaseUnavailable, StaleAttempt):
            raise
        except Exception:
            if guarded:
                raise
            guarded = True  # which is slower, tells what is wrong, and keeps the ending whatever that is
            return once()

    try:
        return _patiently(quickly_or_guarded, lambda: False, "ending")
    except StaleAttempt:
        return None
