# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets that workflows and steps want, against the pools whose workers would play them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from relengq.documents import Document, Loc
from relengq.errors import Fault, did_you_mean
from relengq.site.checks import queues
from relengq.site.files import StepPart, WorkflowFile, items, mapping


@dataclass(frozen=True)
class _Pool:
    name: str
    queues: frozenset[str]
    secrets: frozenset[str]


def check(file: WorkflowFile, documents: Iterable[Document]) -> Iterator[Fault]:
    """Names that no pool has, that the workflow does not have, or that a pool of a step's queue does not have."""
    pools = [_pool(document) for document in documents]
    known = frozenset[str]().union(*(pool.secrets for pool in pools))
    for at, name in enumerate(items(file.body.get("secrets"))):
        if isinstance(name, str) and name not in known:
            yield file.document.fault(("secrets", at), f"no pool has the secret '{name}'", did_you_mean(name, known))
    told: set[tuple[str, str]] = set()
    for step in file.steps:
        yield from _beyond(file, step)
        for name in file.secrets_of(step):
            if name in known:
                yield from _unserved(file, step, name, pools, told)


def _beyond(file: WorkflowFile, step: StepPart) -> Iterator[Fault]:
    """A step can have fewer secrets than its workflow names, and no others."""
    for at, name in enumerate(items(step.body.get("secrets"))):
        if isinstance(name, str) and name not in file.secrets:
            hint = did_you_mean(name, file.secrets) or "name it in the workflow's 'secrets' as well"
            message = f"the workflow does not name the secret '{name}'"
            yield file.document.fault((*step.loc, "secrets", at), message, hint)


def _unserved(
    file: WorkflowFile, step: StepPart, name: str, pools: Iterable[_Pool], told: set[tuple[str, str]]
) -> Iterator[Fault]:
    """Pools whose workers may take the step and could not play it."""
    for queue in queues.names(file, step) or ():
        serving = [pool for pool in pools if queue in pool.queues]
        without = [pool.name for pool in serving if name not in pool.secrets]
        if not without or (queue, name) in told:
            continue
        told.add((queue, name))
        if len(without) == len(serving):
            message = f"no pool that serves the queue '{queue}' has the secret '{name}'"
        else:
            message = f"the pool '{without[0]}' serves the queue '{queue}' too, and has not the secret '{name}'"
        hint = f"add it to the secrets of workers/{without[0]}.yml, or let another queue play the step"
        yield file.document.fault(_place(file, step, name), message, hint)


def _place(file: WorkflowFile, step: StepPart, name: str) -> Loc:
    """Where the step, or else its workflow, says that it wants the secret."""
    own = items(step.body.get("secrets"))
    return (*step.loc, "secrets", own.index(name)) if own else ("secrets", items(file.body["secrets"]).index(name))


def _pool(document: Document) -> _Pool:
    body = mapping(document.data)
    served = frozenset(name for name in items(body.get("queues")) if isinstance(name, str))
    name = document.name.rpartition("/")[2].rpartition(".")[0]
    return _Pool(name, served, frozenset(mapping(body.get("secrets"))))
