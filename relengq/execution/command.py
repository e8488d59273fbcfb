# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line and environment of a play. No value of a run is on the command line, where ``ps`` shows
it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from relengq.errors import AttemptFault, PlaybookMissing
from relengq.execution import pipe, variables
from relengq.execution.configuration import AnsibleConfiguration
from relengq.execution.guard.plan import PROGRAM
from relengq.execution.order import PlayOrder
from relengq.execution.processes import MARK

_OWN = "RELENGQ_"
_TAKEN_AWAY = ("AD_HOC_COMMAND_ID", "AWX_LIB_DIRECTORY")
"""ansible-runner and its callback read these, and take them for what AWX puts there."""


@dataclass(frozen=True)
class Command:
    """What is started, and where."""

    arguments: list[str]
    environment: dict[str, str] = field(repr=False)
    directory: Path
    variables: bytes = field(repr=False)
    """What ansible-playbook reads from ``variables.FILE``."""


def prepare(order: PlayOrder, private: Path) -> Command:
    """Check what the play needs on this worker and write its private files.

    Raises AttemptFault (PlaybookMissing) with the sentence that the attempt fails with.
    """
    playbooks = order.playbooks.resolve()
    if not playbooks.is_dir():
        raise PlaybookMissing(f"The directory {playbooks} with the playbooks does not exist on this worker.")
    if not (playbooks / order.playbook).is_file():
        raise PlaybookMissing(f"The playbook '{order.playbook}' does not exist in {playbooks}.")
    given = {**_inherited(order.environment, order.withheld), **order.environment}
    configuration = AnsibleConfiguration.find(playbooks, given)
    forks = configuration.forks(given, order.forks)
    environment = {**given, **configuration.callbacks(given), **forks, **_fixed(private)}
    if configuration.path is not None:
        environment["ANSIBLE_CONFIG"] = str(configuration.path)
    program = _program(environment)
    given_variables = variables.encoded(order.variables)
    inventory = configuration.inventory_arguments(order.inventory, playbooks, private, given)
    arguments = [program, *inventory, *_options(order), f"--extra-vars=@{private / variables.FILE}"]
    return Command([*arguments, "--", order.playbook], environment, playbooks, given_variables)


def _options(order: PlayOrder) -> list[str]:
    """The step's options. Each value is in one word with its option, so that none can become an option
    itself.
    """
    if order.limit is not None and "@" in order.limit:
        raise AttemptFault("The limit has an '@': it would make Ansible read a file.", hint="Name hosts or groups.")
    options = [f"-{'v' * min(order.verbosity, 6)}"] if order.verbosity > 0 else []
    if order.limit is not None:
        options.append(f"--limit={order.limit}")
    if order.tags:
        options.append(f"--tags={','.join(order.tags)}")
    if order.skip_tags:
        options.append(f"--skip-tags={','.join(order.skip_tags)}")
    return options + ["--check"] * order.check + ["--diff"] * order.diff


def _inherited(wanted: Mapping[str, str], withheld: Collection[str]) -> dict[str, str]:
    """The worker's environment without relengq's own settings and the pool's secrets: no business of a playbook."""
    taken = {*_TAKEN_AWAY, *withheld}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN) and name not in taken}
    # A worker started by its full path has no activated environment; ansible-playbook is beside its Python.
    beside = str(Path(sys.executable).parent)
    path = wanted.get("PATH", kept.get("PATH", os.defpath))
    kept["PATH"] = path if beside in path.split(os.pathsep) else f"{beside}{os.pathsep}{path}"
    return kept


def _fixed(private: Path) -> dict[str, str]:
    return {
        "ANSIBLE_FORCE_COLOR": "0",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCAL_TEMP": str(private / "tmp"),
        MARK: private.name,
        pipe.VARIABLE: pipe.name(private),
    }


def _program(environment: Mapping[str, str]) -> str:
    found = shutil.which(PROGRAM, path=environment["PATH"])
    if found is None:
        raise AttemptFault(
            f"{PROGRAM} is not installed on this worker: it is not in {environment['PATH']}.",
            hint="Install ansible-core beside relengq.",
        )
    return found
