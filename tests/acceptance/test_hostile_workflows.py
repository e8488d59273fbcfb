# SPDX-License-Identifier: GPL-3.0-or-later
"""Every shipped workflow with hostile values: in each input whose checks let them through, and then past all checks.

What is shipped is read from the directory, so a new workflow, input or variable is tried without a change here.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from relengq.documents import Json
from relengq.engine.control import cancel
from relengq.engine.execute import execute
from relengq.engine.orders import warm_directory
from relengq.errors import AttemptFault, InputFault
from relengq.execution import Outcome, PlayOrder, Warm, play
from relengq.inputs import check_inputs
from relengq.logs import read
from relengq.settings import POOL_VARIABLE
from relengq.site import Site
from relengq.states import AttemptState, RunState, StepState
from relengq.testing import Bench
from relengq.workflows import ApprovalStep, PlaybookStep, WaitForStep, Workflow
from tests.support import release_programs
from tests.support.composes import PLAYBOOKS
from tests.support.plays import Collected, never
from tests.support.release_programs import BUILD, World
from tests.support.warm import end_servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WORKFLOWS = sorted(path.stem for path in (PLAYBOOKS / "workflows").glob("*.yml"))
PER_INPUT = 2
"""So many hostile values are tried in one input: a play takes a second."""
EXPANDED = "what-the-variable-holds"
POOL = "default"
DIGEST = "sha256:" + "0" * 64
COMPOSE = "Fedora-Rawhide-20261120.n.0"


@dataclass(frozen=True)
class Stage:
    """Where everything happens: what may be written, what may not, and the trap that no value may spring."""

    top: Path
    bench: Bench
    world: World

    @property
    def allowed(self) -> Path:
        return self.top / "allowed"

    @property
    def trap(self) -> Path:
        return self.top / "trap"

    @property
    def evil(self) -> str:
        """One text with everything in it that some shell, template engine or parser would act on."""
        touch = f"touch {self.trap}"
        return (
            f"{{{{ lookup('pipe', '{touch}') }}}}{{% set x = lookup('pipe', '{touch}') %}} !unsafe $(({touch}))"
            f"$({touch}) `{touch}` ; {touch} && {touch} | {touch} ' ; {touch} ' \" ; {touch} \" $RELEASE_CANARY"
            " ${RELEASE_CANARY} ~ %s %(x)s * ? [a] <b> # \\ ✓ \u202e\u2028\N{FULLWIDTH SOLIDUS}.."
        )

    def values(self) -> list[str]:
        """Hostile values, the worst first."""
        return [
            self.evil,
            f"--option={self.evil}",
            f"{self.allowed}/{self.evil}",
            f"../outside\n{self.evil}",
            f"{self.allowed}/" + "long/" * 1000,
            f"{self.allowed}/nul\0{self.evil}",
        ]

    def unharmed(self) -> None:
        """Nothing was executed, expanded, or written where nothing may be."""
        assert not self.trap.exists(), "a value was executed"
        assert [path for path in self.top.rglob(f"*{EXPANDED}*") if path.exists()] == [], "a variable was expanded"
        assert sorted(path.name for path in self.outside.rglob("*")) == ["victim"]
        assert (self.outside / "victim").read_text() == "as it was"
        known = {"allowed", "outside", "state", "site", "world"}
        assert {path.name for path in self.top.iterdir()} == known
        pungi = self.world.top / "pungi"
        assert EXPANDED not in f"{self.world.calls} {pungi.read_text() if pungi.exists() else ''}"

    @property
    def outside(self) -> Path:
        return self.top / "outside"

    @property
    def warm(self) -> Warm:
        """The servers that start the plays, as those of a pool do where nobody says otherwise."""
        pool = self.bench.installation.site.pools[POOL]
        return Warm(warm_directory(self.bench.installation, pool), os.getpid())

    @property
    def good(self) -> dict[str, Json]:
        """Values that let a play come far; a variable that is not here is given hostile alone."""
        compose = str(self.allowed / COMPOSE)
        return {
            "compose_release": "rawhide", "compose_target_dir": str(self.allowed / "composes"), "compose_label": "",
            "compose_run": "run", "compose_path": compose, "compose_source": "samples/rpms/monday",
            "compose_arch": "x86_64", "compose_arches": ["x86_64"], "compose_failable_arches": [],
            "compose_pungi_config": str(self.allowed / "pungi.conf"), "compose_pungi_options": [],
            "compose_closure": "report", "compose_keep": 3, "compose_result": "", "compose_kind": "nightly",
            "compose_latest_link": True, "compose_stage_dir": str(self.allowed / "stage"),
            "container_koji_tag": "f44-updates-candidate", "container_image": "Fedora-Container-Base-Generic",
            "container_build": BUILD, "container_arch": "x86_64", "container_release": "44",
            "container_repository": "fedora", "container_registries": ["localhost:5000"],
            "container_digests": {"x86_64": {"localhost:5000": DIGEST}}, "container_arches": ["x86_64"],
            "container_extra_tags": [], "images_compose_id": COMPOSE, "images_compose_path": compose,
            "images_location": "", "images_keyring": "", "images_signed": False, "ostree_ref": "fedora/x",
            "ostree_commit": "0" * 64, "ostree_repo": str(self.allowed / "repo"),
            "push_path": str(self.allowed / "push"), "push_list": str(self.allowed / "list"),
        }  # fmt: skip

    def inputs(self, workflow: Workflow) -> dict[str, Json]:
        """Inputs that the workflow takes, as small as they may be."""
        own: dict[str, Json] = {
            "release": "f44" if workflow.name == "release-candidate" else "rawhide", "arches": ["x86_64"],
            "label": "RC-1.2" if workflow.name == "release-candidate" else "", "closure": "report",
            "target_dir": str(self.allowed / "composes"), "stage_dir": str(self.allowed / "stage"),
            "koji_tag": "f44-updates-candidate", "image": "Fedora-Container-Base-Generic",
            "compose_id": COMPOSE, "compose_path": str(self.allowed / COMPOSE), "ref": "fedora/x", "commit": "0" * 64,
            "repo": str(self.allowed / "repo") if workflow.name == "ostree" else "f43-updates-testing",
            "root": str(self.allowed),
        }  # fmt: skip
        if workflow.name == "container-base":
            own["release"] = "44"
        return {name: value for name, value in own.items() if name in workflow.inputs}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    top = tmp_path_factory.mktemp("hostile")
    site = top / "site"
    for name in ("allowed/push", "allowed/f43-updates-testing", "outside", "site", "state"):
        (top / name).mkdir(parents=True)
    (top / "outside" / "victim").write_text("as it was")
    world = World.make(top / "world")
    world.build("x86_64")
    (world.top / "bin" / "pungi-koji").symlink_to(Path(release_programs.__file__).with_name("pungi-koji"))
    shutil.copytree(PLAYBOOKS, site / "playbooks")
    shutil.copytree(PLAYBOOKS.parent / "workers", site / "workers")
    for file in (site / "playbooks" / "workflows").iterdir():
        file.write_text(re.sub("attempts: [0-9]", "attempts: 1", file.read_text()))  # nobody waits between two tries
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", world.path(os.environ["PATH"]))
        patch.setenv("RELEASE_PROGRAMS", str(world.top))
        patch.setenv("RELEASE_CANARY", EXPANDED)
        patch.setenv(POOL_VARIABLE, POOL)
        (top / "world" / COMPOSE).mkdir()
        for name, value in {"RECORD": "pungi", "STATUS": "FINISHED", "COMPOSE": COMPOSE}.items():
            patch.setenv(f"FAKE_PUNGI_{name}", value if name == "STATUS" else str(top / "world" / value))
        bench = Bench(site, top / "state")
        made = Stage(top, bench, world)
        yield made
        end_servers(made.warm)
        bench.close()


def shipped(bench: Bench) -> list[Workflow]:
    site: Site = bench.installation.site
    assert site.faults == ()
    return [site.workflow(name) for name in WORKFLOWS]


def hostile_inputs(stage: Stage, workflow: Workflow) -> Iterator[tuple[str, dict[str, Json]]]:
    """The workflow's inputs with one hostile value in them, as often as its checks let one through."""
    good = stage.inputs(workflow)
    if "engine" in workflow.inputs:
        yield "engine", {**good, "engine": "pungi", "pungi_config": str(stage.allowed / "pungi.conf")}
    for name in workflow.inputs:
        engine = {"engine": "pungi", "pungi_config": f"{stage.allowed}/pungi.conf"} if "pungi" in name else {}
        tries = 0
        for value in stage.values():
            for given in (value, [value]):
                tried = {**good, **engine, name: given}
                try:
                    check_inputs(workflow.inputs, tried)
                except InputFault:
                    continue
                tries += 1
                if tries <= PER_INPUT:
                    yield name, tried
                break


def go_on(stage: Stage, run_id: str) -> None:
    """Do what a person or the bus would, until the run has ended; what nobody can do ends it."""
    run = stage.bench.run(run_id)
    workflow = stage.bench.installation.site.workflow(run.workflow)
    for step in run.steps:
        declared = workflow.chain[step.position]
        if step.state is StepState.WAITING and isinstance(declared, ApprovalStep):
            stage.bench.decide(run_id, step.label, note=stage.evil)
            return
        if step.state is StepState.WAITING and isinstance(declared, WaitForStep):
            topic = declared.wait_for.message.replace("*", "x").replace("#", "x")
            stage.bench.receive(
                stage.bench.message(topic, msg=stage.evil, artifact=stage.evil, test={"result": stage.evil})
            )
            if not stage.bench.run(run_id).state.final:
                cancel(stage.bench.installation, run_id, who="tester", note=stage.evil)
            return
    raise AssertionError(f"run {run_id} is stuck: {stage.bench.steps(run_id)} {run.reason}")


def play_all(stage: Stage, runs: list[str]) -> None:
    """Play what is sent, two plays side by side, until every run has ended."""
    bench = stage.bench

    def work(_: int) -> None:
        with suppress(IndexError):
            while True:
                execute(bench.installation, bench.sent.popleft().attempt_id, "bench@here")

    while runs:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, range(2)))
        bench.tick()
        runs = [run_id for run_id in runs if not bench.run(run_id).state.final]
        for run_id in [] if bench.sent else runs:
            if bench.run(run_id).started_at is not None:
                go_on(stage, run_id)


def test_every_workflow_with_hostile_inputs(stage: Stage) -> None:
    bench = stage.bench
    started: dict[str, tuple[str, dict[str, Json]]] = {}
    for workflow in shipped(bench):
        for name, inputs in hostile_inputs(stage, workflow):
            started[bench.start(workflow.name, **inputs)] = (f"{workflow.name}.{name}", inputs)
    assert started

    play_all(stage, list(started))
    for run_id, (name, _) in started.items():
        run = bench.run(run_id)
        assert run.state in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED), (name, run.state)
        attempts = [attempt for step in run.steps for attempt in step.attempts]
        texts = [f"{attempt.message} {''.join(read(bench.installation.database, attempt.id))}" for attempt in attempts]
        for text in [*texts, str(run.outputs), str(run.reason)]:
            assert EXPANDED not in text, (name, text)
            assert "Traceback" not in text, (name, text)
            assert "a bug in relengq" not in text, (name, text)
    stage.unharmed()


def hostile_variables(stage: Stage) -> Iterator[tuple[str, str, dict[str, Json]]]:
    """Each playbook of each workflow with each of its variables hostile, as if nothing had checked an input."""
    seen: set[tuple[str, str]] = set()
    for workflow in shipped(stage.bench):
        for step in workflow.chain:
            if not isinstance(step, PlaybookStep):
                continue
            good = {name: value for name, value in stage.good.items() if name in step.vars}
            for name in step.vars:
                if (step.playbook, name) in seen:
                    continue
                seen.add((step.playbook, name))
                text = str(good.get(name, ""))
                bad: Json = f"{text}/{stage.evil}" if text.startswith("/") else f"--option={stage.evil}"
                if isinstance(good.get(name), list):
                    bad = [bad]
                if isinstance(good.get(name), dict):
                    bad = {"x86_64": {"localhost:5000": bad}, str(bad): bad}
                yield step.playbook, name, {**good, name: bad}


def test_every_playbook_with_hostile_variables(stage: Stage) -> None:
    orders = list(hostile_variables(stage))

    def one(given: tuple[str, str, dict[str, Json]]) -> tuple[Outcome, str]:
        playbook, name, variables = given
        sink = Collected()
        order = PlayOrder(
            label=f"{playbook} {name}", playbooks=stage.bench.settings.site / "playbooks", playbook=playbook,
            workdir=stage.top / "state" / "attempts", variables={**variables, "relengq": {"inputs": variables}},
            timeout=600, warm=stage.warm,
        )  # fmt: skip
        return play(order, sink, never), sink.text

    with ThreadPoolExecutor(2) as pool:
        for (playbook, name, _), (outcome, text) in zip(orders, pool.map(one, orders), strict=True):
            assert outcome.state in (AttemptState.SUCCEEDED, AttemptState.FAILED), (playbook, name, outcome)
            said = f"{text} {outcome.message} {outcome.outputs}"
            assert EXPANDED not in said, (playbook, name, said)
            assert "Traceback" not in said, (playbook, name, said)
    stage.unharmed()


@pytest.mark.parametrize("name", ["ansible_ssh_common_args", "ansible_connection", "ansible_python_interpreter"])
def test_reserved_names_reach_no_play(stage: Stage, name: str) -> None:
    order = PlayOrder(
        label="reserved", playbooks=stage.bench.settings.site / "playbooks", playbook="push-check.yml",
        workdir=stage.top / "state" / "attempts", variables={name: stage.evil},
    )  # fmt: skip
    with pytest.raises(AttemptFault, match="reserved by Ansible"):
        play(order, Collected(), never)
    stage.unharmed()
