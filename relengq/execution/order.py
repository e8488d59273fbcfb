# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker asks of an execution, and what it hears from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from relengq.documents import Json
from relengq.execution.means import Means
from relengq.execution.servers import Warm
from relengq.logs import TaskOutcome
from relengq.states import AttemptState


@dataclass(frozen=True)
class PlayOrder:
    """One play of one playbook. Its ``repr`` shows no values."""

    label: str
    """What the log calls it, without values of inputs: ``nightly-compose: createrepo #1``."""
    playbooks: Path
    """The Ansible project: where the playbook, roles, inventory and ansible.cfg are; the working directory
    too.
    """
    playbook: str
    """File below ``playbooks``."""
    workdir: Path
    """Where the play's private directory is made (mode 0700) and removed again."""
    variables: Mapping[str, Json] = field(default_factory=dict, repr=False)
    """Extra variables. Every string in them reaches Ansible marked unsafe: it is never a template."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Added to the worker's own environment, from which what begins with RELENGQ_ is taken away."""
    withheld: frozenset[str] = frozenset()
    """Variables of the worker's own environment that the play does not inherit."""
    hidden: tuple[str, ...] = field(default=(), repr=False)
    """Secret values; they are masked in everything that leaves the execution."""
    timeout: float | None = None
    """Seconds after which the play is killed."""
    memory: int | None = None
    """Bytes that all its processes may use together."""
    guard: Means = Means.NAMESPACE
    """The strongest means by which its processes may be held together."""
    warm: Warm | None = None
    """The servers with Ansible loaded that may start it; None: the plain command does."""
    inventory: str | None = None
    """Path below ``playbooks``, or a list of hosts with a comma; None: what ansible.cfg says."""
    limit: str | None = None
    tags: tuple[str, ...] = ()
    skip_tags: tuple[str, ...] = ()
    forks: int | None = None
    """On how many hosts it works at once, unless its environment or ansible.cfg says so; None: Ansible's own 5."""
    verbosity: int = 0
    check: bool = False
    diff: bool = False


class Stop(StrEnum):
    """Why a worker must stop a play."""

    CANCELLED = "cancelled"
    """A person, or the run's policy, does not want it any more."""
    INTERRUPTED = "interrupted"
    """The worker itself is being stopped."""
    LOST = "lost"
    """The lease could not be renewed in time: another worker may take the step."""


@dataclass(frozen=True)
class Outcome:
    """How a play ended."""

    state: AttemptState
    """succeeded, failed, timed_out, cancelled, interrupted or lost."""
    return_code: int | None = None
    """ansible-playbook's exit code; negative: the signal that ended it."""
    stats: dict[str, dict[str, int]] = field(default_factory=dict)
    """By host: ok, changed, unreachable, failed, skipped, rescued, ignored."""
    outputs: dict[str, Json] = field(default_factory=dict)
    """What the play handed on with ``set_stats``; with ``per_host``, each name maps hosts to values."""
    message: str | None = None
    """``HOST: TASK: message`` of the first failure, or Ansible's own error, or why it was stopped."""


class Sink(Protocol):
    """Where output, task results and progress go while a play runs.

    All are called from one thread. They may block: the play then waits when its pipe is full, and nothing
    grows.
    """

    def output(self, text: str) -> None:
        """Take the next piece of output: any length, cut anywhere."""

    def task(self, outcome: TaskOutcome) -> None:
        """Take a task's result on one host."""

    def progress(self, play: str | None, task: str | None, host: str | None) -> None:
        """Take note of where the play is now."""
