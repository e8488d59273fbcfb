# SPDX-License-Identifier: GPL-3.0-or-later
"""From a claimed attempt to what its worker plays: expressions rendered with the real values, secrets included."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from billiard import process

from relengq.documents import Json
from relengq.engine import context, limits
from relengq.engine.hidden import Hidden, texts
from relengq.engine.installation import Installation
from relengq.errors import AttemptFault
from relengq.execution import Means, PlayOrder, Warm
from relengq.expressions import render
from relengq.models import Attempt, Run, Step
from relengq.pools import Pool
from relengq.runs.definitions import workflow_of
from relengq.secrets import Surroundings, password_file, resolve, withheld
from relengq.settings import POOL_VARIABLE
from relengq.site import is_site, load
from relengq.workflows import PlaybookStep


@dataclass(frozen=True)
class Prepared:
    """What has to be known of an attempt before it can be played."""

    run: Run
    step: Step
    steps: list[Step]
    declared: PlaybookStep
    secrets: tuple[str, ...]
    """Names of the secrets that the step gets."""
    offered: tuple[str, ...]
    """The defaults and choices that the workflow's file has for its inputs."""
    attempt: int
    fence: int


def prepare(attempt: Attempt) -> Prepared:
    """What a claim has read. Raises AttemptFault when the step is of a kind that no worker plays."""
    step = attempt.step
    run = step.run
    workflow = workflow_of(run)
    declared = workflow.chain[step.position]
    if not isinstance(declared, PlaybookStep):
        raise AttemptFault(f"step '{step.name}' is of kind {declared.kind}, which no worker plays")
    names = tuple(workflow.secrets_of(declared))
    offered = (text for each in workflow.inputs.values() for text in texts([each.default, *(each.choices or ())]))
    return Prepared(run, step, list(run.steps), declared, names, tuple(offered), attempt.number, attempt.fence)


def pool_secrets(installation: Installation, prepared: Prepared, content: Path) -> dict[str, str]:
    """The secrets that the step gets, as they are on this worker now. Raises SecretFault for one that is not there."""
    if not prepared.secrets:
        return {}
    pools = _pools(installation, content)
    return resolve(prepared.secrets, _own_pool(pools), _around(installation, withheld(pools.values())))


def play_order(
    installation: Installation,
    prepared: Prepared,
    inputs: Mapping[str, Json],
    secrets: Mapping[str, str],
    hidden: Hidden,
    content: Path,
) -> PlayOrder:
    """What to play, with the files in ``content``, with secret inputs and secrets of the pool.

    What expressions make of secrets is added to ``hidden``. Raises AttemptFault, ExpressionFault (whose text may have
    values of secrets) or OSError.
    """
    settings = installation.settings
    run, step, declared = prepared.run, prepared.step, prepared.declared
    sees = context.build(
        run,
        prepared.steps,
        site=settings.site,
        state_dir=settings.state_dir,
        inputs={**run.inputs, **inputs},
        matrix=step.matrix,
    )
    pools = _pools(installation, content)
    pool = _own_pool(pools)
    variables = _variables(prepared, sees, secrets, hidden)
    limit = _limit(prepared, sees, hidden)
    return PlayOrder(
        label=f"{run.workflow}: {step.name} #{prepared.attempt}",
        playbooks=content / "playbooks",
        playbook=declared.playbook,
        workdir=settings.attempts_dir,
        variables=variables,
        environment=_environment(installation, pool, content),
        withheld=withheld(pools.values()),
        hidden=hidden.values,
        timeout=declared.timeout,
        memory=pool.limits.memory if pool else None,
        guard=Means(settings.process_guard),
        warm=_warm(installation, pool),
        inventory=declared.inventory,
        limit=limit,
        tags=tuple(declared.tags),
        skip_tags=tuple(declared.skip_tags),
        forks=pool.usual_forks if pool else None,
        verbosity=declared.verbosity,
        check=declared.check,
        diff=declared.diff,
    )


def _variables(
    prepared: Prepared, sees: context.Context, secrets: Mapping[str, str], hidden: Hidden
) -> dict[str, Json]:
    """The step's own ``vars``, whose names the workflow's author chose, and all run data under one name."""
    all_of_it: context.Context = {**sees, "secrets": dict(secrets)}
    rendered = render(prepared.declared.vars, all_of_it, hidden.rendered)
    own = rendered if isinstance(rendered, dict) else {}
    data: dict[str, Json] = {
        **all_of_it,
        "step": {"name": prepared.step.name, "instance": prepared.step.instance},
        "attempt": prepared.attempt,
        "fence": prepared.fence,
    }
    return {**own, "relengq": data}


def _around(installation: Installation, taken: frozenset[str] = frozenset()) -> Surroundings:
    """Where this worker looks for secrets: in the site as it is now, whatever the run's content is."""
    return Surroundings(installation.settings.site, os.environ, taken)


def _environment(installation: Installation, pool: Pool | None, content: Path) -> dict[str, str]:
    """The pool's own environment, and where its Ansible configuration is."""
    if pool is None:
        return {}
    environment = dict(pool.environment)
    if pool.ansible.config:
        environment["ANSIBLE_CONFIG"] = str(content / pool.ansible.config)
    if (password := password_file(pool, _around(installation))) is not None:
        environment["ANSIBLE_VAULT_PASSWORD_FILE"] = password
    if pool.ansible.forks:
        environment["ANSIBLE_FORKS"] = str(pool.ansible.forks)
    return environment


def _warm(installation: Installation, pool: Pool | None) -> Warm | None:
    """The servers that the processes of this worker share: they end with the worker, not with one of these."""
    if pool is None or pool.ansible.warm == "off":
        return None
    here = process.current_process()
    owner = os.getpid() if here.name == "MainProcess" else os.getppid()
    return Warm(warm_directory(installation, pool), owner)


def warm_directory(installation: Installation, pool: Pool) -> Path:
    """Where a pool's servers with Ansible loaded are."""
    return installation.settings.state_dir / "warm" / pool.name


def _pools(installation: Installation, content: Path) -> Mapping[str, Pool]:
    """All pools, as this worker's host has them; where the host has no site, as the run's content has them."""
    pools = installation.site.pools
    if os.environ.get(POOL_VARIABLE) not in pools and not is_site(installation.settings.site):
        pools = load(content).pools
    return pools


def _own_pool(pools: Mapping[str, Pool]) -> Pool | None:
    """The pool that this worker serves. Without its file a play would meet another inventory and other credentials."""
    name = os.environ.get(POOL_VARIABLE)
    if not name:
        return None
    if name not in pools:
        raise AttemptFault(
            f"workers/{name}.yml, the pool of this worker, is missing or faulty.", hint="'relengq check' says why."
        )
    return pools[name]


def _limit(prepared: Prepared, sees: context.Context, hidden: Hidden) -> str | None:
    """The hosts that are played, or None when the step does not say. Raises AttemptFault."""
    template = prepared.declared.limit
    if template is None:
        return None
    value = render(template, sees, hidden.rendered)
    return limits.checked("" if value is None else str(value), template, prepared.offered)
