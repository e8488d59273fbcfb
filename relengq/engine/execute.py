# SPDX-License-Identifier: GPL-3.0-or-later
"""Play one attempt on this worker: claim it, prepare it, play it, tell how it ended, and let the run go on."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from relengq.content import tree
from relengq.documents import Json
from relengq.engine import context
from relengq.engine.consequences import attempt_ended
from relengq.engine.dispatch import send_due
from relengq.engine.installation import Installation
from relengq.engine.keeper import Keeper
from relengq.errors import AttemptFault, BrokerUnavailable, DatabaseUnavailable, RelengqError, StaleAttempt
from relengq.execution import Outcome, PlayOrder, play
from relengq.expressions import render
from relengq.logs import Recorder
from relengq.models import Attempt, Run, Step
from relengq.pools import Pool
from relengq.runs.attempts import Claim, Ending, WorkerIdentity, claim, held_attempt
from relengq.runs.definitions import workflow_of
from relengq.states import AttemptState
from relengq.workflows import PlaybookStep

POOL_VARIABLE = "RELENGQ_POOL"
"""Environment variable with the name of the pool that a worker serves; ``relengq worker`` sets it."""
OUTPUTS_LIMIT = 1024 * 1024
"""Bytes of JSON that a step may hand on with set_stats; more belongs into a file."""
_RETRY_SECONDS = 1.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Everything that has to be read from the database before an attempt can be played."""

    run: Run
    step: Step
    steps: list[Step]
    declared: PlaybookStep
    attempt: int


def execute(installation: Installation, attempt_id: int, node: str) -> None:
    """Play the attempt, if it is still to be played. Never raises for what goes wrong with the play itself."""
    who = WorkerIdentity(node, socket.gethostname(), os.getpid())
    held = _claim(installation, attempt_id, who)
    if held is None:
        _log.info("attempt.not_claimed", attempt=attempt_id)
        return
    log = _log.bind(run_id=held.run_id, attempt=held.label)
    log.info("attempt.started")
    with Keeper(installation, held) as keeper:
        ending = _play(installation, held, keeper)
        ended = _tell(installation, held, ending, keeper, who)
    if ended:
        log.info("attempt.ended", state=str(ending.state), return_code=ending.return_code)
        try:
            send_due(installation)
        except (BrokerUnavailable, DatabaseUnavailable) as error:
            log.warning("dispatch.postponed", error=str(error))
    else:
        log.error("attempt.taken_away", state=str(ending.state))


def _claim(installation: Installation, attempt_id: int, who: WorkerIdentity) -> Claim | None:
    database = installation.database
    with database.write() as session:
        now = database.now(session)
        return claim(session, attempt_id, who, now=now, lease=timedelta(seconds=installation.settings.lease_seconds))


def _play(installation: Installation, held: Claim, keeper: Keeper) -> Ending:
    """Prepare and play. What cannot be prepared, or breaks, fails the attempt with its sentence."""
    try:
        with installation.database.read() as session:
            order = _order(installation, _prepare(session, held))
        with Recorder(installation.database, held.attempt_id, held.fence) as recorder:
            outcome = play(order, recorder, keeper.stop)
    except RelengqError as fault:
        return Ending(AttemptState.FAILED, message=str(fault))
    except OSError as error:
        return Ending(AttemptState.FAILED, message=f"this worker cannot play it: {error}")
    except Exception as error:
        _log.exception("attempt.bug", run_id=held.run_id, attempt=held.label)
        return Ending(
            AttemptState.FAILED, message=f"a bug in relengq, {type(error).__name__}; the worker's log has the traceback"
        )
    return _ending(outcome)


def _ending(outcome: Outcome) -> Ending:
    size = len(json.dumps(outcome.outputs))
    if size > OUTPUTS_LIMIT:
        message = f"its outputs have {size} bytes, and the limit is {OUTPUTS_LIMIT}; hand large values on in a file"
        return Ending(AttemptState.FAILED, message, outcome.return_code, _stats(outcome))
    return Ending(outcome.state, outcome.message, outcome.return_code, _stats(outcome), dict(outcome.outputs))


def _stats(outcome: Outcome) -> dict[str, Json]:
    return {host: dict(counts) for host, counts in outcome.stats.items()}


def _prepare(session: Session, held: Claim) -> Prepared:
    attempt = session.get_one(Attempt, held.attempt_id)
    step = attempt.step
    run = step.run
    declared = workflow_of(run).chain[step.position]
    if not isinstance(declared, PlaybookStep):
        raise AttemptFault(f"step '{step.name}' is of kind {declared.kind}, which no worker plays")
    return Prepared(run, step, list(run.steps), declared, attempt.number)


def _order(installation: Installation, prepared: Prepared) -> PlayOrder:
    """What to play: the expressions of the step rendered with the real values, secrets included."""
    settings = installation.settings
    run, step, declared = prepared.run, prepared.step, prepared.declared
    secrets = installation.secrets.open(run.sealed_inputs)
    sees = context.build(
        run,
        prepared.steps,
        site=settings.site,
        state_dir=settings.state_dir,
        inputs={**run.inputs, **secrets},
        matrix=step.matrix,
    )
    content = tree(settings, run.revision, dirty=run.dirty)
    workdir = settings.state_dir / "attempts"
    workdir.mkdir(parents=True, exist_ok=True, mode=0o700)
    pool = _pool(installation)
    return PlayOrder(
        label=f"{run.workflow}: {step.label} #{prepared.attempt}",
        playbooks=content / "playbooks",
        playbook=declared.playbook,
        workdir=workdir,
        variables=_variables(prepared, sees),
        environment=_environment(pool, content),
        hidden=tuple(_leaves(secrets)),
        timeout=declared.timeout,
        inventory=declared.inventory,
        limit=_text(declared.limit, sees, "limit"),
        tags=tuple(declared.tags),
        skip_tags=tuple(declared.skip_tags),
        verbosity=declared.verbosity,
        check=declared.check,
        diff=declared.diff,
    )


def _variables(prepared: Prepared, sees: context.Context) -> dict[str, Json]:
    """The step's own ``vars``, whose names the workflow's author chose, and all run data under one name."""
    rendered = render(prepared.declared.vars, sees)
    own = rendered if isinstance(rendered, dict) else {}
    data: dict[str, Json] = {
        **sees,
        "step": {"name": prepared.step.name, "instance": prepared.step.instance},
        "attempt": prepared.attempt,
    }
    return {**own, "relengq": data}


def _environment(pool: Pool | None, content: Path) -> dict[str, str]:
    """The pool's own environment, and where its Ansible configuration is."""
    if pool is None:
        return {}
    environment = dict(pool.environment)
    if pool.ansible.config:
        environment["ANSIBLE_CONFIG"] = str(content / pool.ansible.config)
    if pool.ansible.forks:
        environment["ANSIBLE_FORKS"] = str(pool.ansible.forks)
    return environment


def _pool(installation: Installation) -> Pool | None:
    name = os.environ.get(POOL_VARIABLE)
    return installation.site.pools.get(name) if name else None


def _text(template: str | None, sees: context.Context, key: str) -> str | None:
    """A rendered option of ansible-playbook. A value must not become another option."""
    if template is None:
        return None
    text = str(render(template, sees))
    if text.startswith("-"):
        raise AttemptFault(f"{key} is '{text}': a value that begins with '-' would be an option of ansible-playbook")
    return text or None


def _leaves(values: Mapping[str, Json]) -> list[str]:
    """Every text in secret inputs, for masking."""
    found: list[str] = []
    rest: list[Json] = list(values.values())
    while rest:
        value = rest.pop()
        if isinstance(value, list):
            rest += value
        elif isinstance(value, dict):
            rest += value.values()
        elif value is not None and not isinstance(value, bool):
            found.append(str(value))
    return found


def _tell(installation: Installation, held: Claim, ending: Ending, keeper: Keeper, who: WorkerIdentity) -> bool:
    """Store the ending and advance the run, again and again while the database is away and the lease holds."""
    while True:
        try:
            with installation.database.write() as session:
                attempt = held_attempt(session, held)
                now = installation.database.now(session)
                attempt_ended(session, installation, attempt, ending, now=now, who=f"worker {who.host}")
            return True
        except StaleAttempt:
            return False
        except DatabaseUnavailable as error:
            _log.warning("ending.postponed", run_id=held.run_id, attempt=held.label, error=str(error))
            time.sleep(_RETRY_SECONDS)
