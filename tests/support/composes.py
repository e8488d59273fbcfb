# SPDX-License-Identifier: GPL-3.0-or-later
"""Play the shipped compose playbooks with the real ansible-playbook, alone or chained as a workflow file says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import ansible.module_utils

from relengq import documents, expressions
from relengq.documents import Json
from relengq.inputs import check_inputs
from relengq.workflows import PlaybookStep, Workflow

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = ROOT / "playbooks"
SAMPLES = PLAYBOOKS / "samples" / "rpms"
TOOLS = Path(sys.executable).parent


def module(name: str) -> ModuleType:
    """One of ``playbooks/module_utils``, found as Ansible finds it: below ansible.module_utils."""
    here = str(PLAYBOOKS / "module_utils")
    if here not in ansible.module_utils.__path__:
        ansible.module_utils.__path__.append(here)
    return __import__(f"ansible.module_utils.{name}", fromlist=["*"])


@dataclass(frozen=True)
class Played:
    """How a play ended."""

    code: int
    text: str
    outputs: dict[str, Json]

    @property
    def changed(self) -> int:
        """How many tasks changed something."""
        return sum(int(count) for count in re.findall(r" changed=(\d+) ", self.text))

    @property
    def message(self) -> str:
        """The text without Ansible's line breaks, to look for sentences."""
        return " ".join(self.text.split())


def play(playbook: str, variables: Mapping[str, Json], *arguments: str, env: Mapping[str, str] | None = None) -> Played:
    """Play one playbook. Values go as relengq hands them over: in a file, with every string marked unsafe."""
    environment = {
        **os.environ,
        "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
        "ANSIBLE_SHOW_CUSTOM_STATS": "true",
        "ANSIBLE_NOCOLOR": "true",
        "LC_ALL": "C.UTF-8",
        **(env or {}),
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(unsafe(dict(variables)), file)
        file.flush()
        done = subprocess.run(
            [TOOLS / "ansible-playbook", playbook, "-e", f"@{file.name}", *arguments],
            cwd=PLAYBOOKS, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    stats = re.search(r"^\tRUN: (\{.*\})$", done.stdout, re.MULTILINE)
    return Played(done.returncode, done.stdout, json.loads(stats[1]) if stats else {})


def unsafe(value: Json) -> Json:
    """Mark every string as relengq does."""
    if isinstance(value, str):
        return {"__ansible_unsafe": value}
    if isinstance(value, list):
        return [unsafe(item) for item in value]
    if isinstance(value, dict):
        return {key: unsafe(item) for key, item in value.items()}
    return value


def compose(target: Path, *arguments: str, **variables: Json) -> Played:
    """The whole compose in one play."""
    given = {"compose_release": "rawhide", "compose_target_dir": str(target), **variables}
    return play("compose.yml", given, *arguments)


@dataclass
class Night:
    """A run of a workflow, step by step: what the engine does, without servers, queues and side by side."""

    workflow: str
    inputs: Mapping[str, object]
    run_id: str = "a-run"
    env: Mapping[str, str] = field(default_factory=dict)
    outputs: dict[str, Json] = field(default_factory=dict)
    steps: dict[str, dict[str, Json]] = field(default_factory=dict)
    played: list[str] = field(default_factory=list)
    result: str | None = None

    def __post_init__(self) -> None:
        written = documents.load(PLAYBOOKS / "workflows" / f"{self.workflow}.yml").data
        assert isinstance(written, dict)
        self._declared = Workflow.model_validate({"name": self.workflow, **written})
        self._values = check_inputs(self._declared.inputs, dict(self.inputs))

    def go(self) -> Night:
        """Play the steps from the first that has not succeeded, and finally the rest."""
        self.result = None
        for step in self._declared.steps:
            if not self._do(step):
                self.result = "failed"
                break
        self.result = self.result or "succeeded"
        for step in self._declared.finally_:
            self._do(step)
        return self

    def _do(self, step: PlaybookStep) -> bool:
        if not expressions.condition(step.when or "true").holds(self._context()):
            self.steps[step.name] = {"failed": [], "succeeded": [], "skipped": True}
            return True
        state = self.steps.setdefault(step.name, {"failed": [], "succeeded": [], "skipped": False})
        done, state["failed"] = set(state["succeeded"]), []
        good = True
        for matrix in self._instances(step):
            label = ", ".join(map(str, matrix.values()))
            if label in done and step not in self._declared.finally_:
                continue
            context = self._context() | {"matrix": matrix}
            played = play(step.playbook, expressions.render(dict(step.vars), context), env=self.env)
            self.played.append(f"{step.name}[{label}]" if label else step.name)
            self.outputs.update(played.outputs)
            if played.code == 0:
                state["succeeded"].append(label)
                continue
            state["failed"].append(label)
            state["message"] = played.message
            allowed = step.allow_failure
            good &= allowed if isinstance(allowed, bool) else expressions.condition(allowed).holds(context)
        return good

    def _instances(self, step: PlaybookStep) -> list[dict[str, Json]]:
        if not step.matrix:
            return [{}]
        [(name, axis)] = step.matrix.items()
        return [{name: value} for value in expressions.render(axis, self._context())]

    def _context(self) -> dict[str, Json]:
        return {
            "inputs": self._values,
            "outputs": self.outputs,
            "steps": self.steps,
            "run": {"id": self.run_id, "workflow": self.workflow, "result": self.result},
            "site": {"path": str(ROOT), "state_dir": str(ROOT / ".relengq")},
        }
