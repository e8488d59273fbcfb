# SPDX-License-Identifier: GPL-3.0-or-later
"""From a claimed attempt to what its worker plays: expressions rendered with the real values, secrets included."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from relengq.content import tree
from relengq.documents import Json
from relengq.engine import context
from relengq.engine.installation import Installation
from relengq.errors import AttemptFault
from relengq.execution import PlayOrder
from relengq.expressions import render
from relengq.models import Attempt, Run, Step
from relengq.pools import Pool
from relengq.runs.attempts import Claim
from relengq.runs.definitions import workflow_of
from relengq.settings import POOL_VARIABLE
from relengq.workflows import PlaybookStep


@dataclass(frozen=True)
class Prepared:
    """Everything that has to be read from the database before an attempt can be played."""

    run: Run
    step: Step
    steps: list[Step]
    declared: PlaybookStep
    attempt: int


def prepare(session: Session, claimed: Claim) -> Prepared:
    """Read it. Raises AttemptFault when the step is of a kind that no worker plays."""
    attempt = session.get_one(Attempt, claimed.attempt_id)
    step = attempt.step
    run = step.run
    declared = workflow_of(run).chain[step.position]
    if not isinstance(declared, PlaybookStep):
        raise AttemptFault(f"step '{step.name}' is of kind {declared.kind}, which no worker plays")
    return Prepared(run, step, list(run.steps), declared, attempt.number)


def play_order(installation: Installation, prepared: Prepared, secrets: Mapping[str, Json]) -> PlayOrder:
    """What to play. Raises AttemptFault, ExpressionFault (whose text may have values of secrets) or OSError."""
    settings = installation.settings
    run, step, declared = prepared.run, prepared.step, prepared.declared
    sees = context.build(
        run,
        prepared.steps,
        site=settings.site,
        state_dir=settings.state_dir,
        inputs={**run.inputs, **secrets},
        matrix=step.matrix,
    )
    content = tree(settings, run.revision, dirty=run.dirty)
    pool = _pool(installation)
    return PlayOrder(
        label=f"{run.workflow}: {step.label} #{prepared.attempt}",
        playbooks=content / "playbooks",
        playbook=declared.playbook,
        workdir=settings.attempts_dir,
        variables=_variables(prepared, sees),
        environment=_environment(pool, content),
        hidden=leaves(secrets),
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
    """The pool that this worker serves. Without its file a play would meet another inventory and other credentials."""
    name = os.environ.get(POOL_VARIABLE)
    if not name:
        return None
    if name not in installation.site.pools:
        raise AttemptFault(
            f"workers/{name}.yml, the pool of this worker, is missing or faulty.", hint="'relengq check' says why."
        )
    return installation.site.pools[name]


def _text(template: str | None, sees: context.Context, key: str) -> str | None:
    """A rendered option of ansible-playbook. A value must not become another option."""
    if template is None:
        return None
    text = str(render(template, sees))
    if text.startswith("-"):
        raise AttemptFault(f"{key} is '{text}': a value that begins with '-' would be an option of ansible-playbook")
    return text or None


def leaves(values: Mapping[str, Json]) -> tuple[str, ...]:
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
    return tuple(found)
