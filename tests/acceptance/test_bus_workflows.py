# SPDX-License-Identifier: GPL-3.0-or-later
"""The shipped workflows of the bus, started by messages and played by a real worker, with programs that stand in for
koji, skopeo, buildah, ostree and gpgv.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relengq.documents import Json
from relengq.models import Run
from tests.support.composes import PLAYBOOKS, SAMPLES, TOOLS
from tests.support.recorded import recorded
from tests.support.release_programs import World, image_compose
from tests.support.systems import PATIENCE, System, private_redis, system

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
BUILDS = {
    "container": "Fedora-Container-Base-Generic-44-20261120.0",
    "toolbox": "Fedora-Container-Toolbox-44-20261120.0",
}
ISO = "Server/x86_64/iso/Fedora-Server-dvd-x86_64-Rawhide-20261120.n.0.iso"
COMMIT = str(recorded("ostree").body["commitid"])
ARCHES = ("x86_64", "aarch64")


@dataclass
class Land:
    """An installation with the shipped workflows, and the world around it."""

    system: System
    world: World
    runs: dict[str, str] = field(default_factory=dict)

    def message(self, name: str, **changes: Json) -> str:
        """A file with a recorded message, with this test's directory for Fedora's."""
        message = recorded(name, {"/mnt/koji": str(self.world.top / "mnt")}, **changes)
        told = {"topic": message.topic, "headers": message.headers, "id": message.id, "body": message.body}
        file = self.world.top / "messages" / f"{name}-{message.id}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(told))
        return str(file)

    def trigger(self, *files: str) -> list[str]:
        """Start what the messages start; the run that each started, or why none."""
        told = self.system.shell.json("trigger", *files)["messages"]
        found = []
        for each in told:
            runs = [workflow["run"] for workflow in each["workflows"] if workflow["outcome"] == "started"]
            found += runs or [each["outcome"]]
        return found

    def ended(self, name: str, *states: str) -> Run:
        return self.system.wait(self.runs[name], *states, timeout=3 * PATIENCE)

    @property
    def output(self) -> dict[str, str]:
        return {name: " ".join(self.system.output(run_id).split()) for name, run_id in self.runs.items()}


@pytest.fixture(scope="module")
def land(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Land]:
    """Everything is there, one worker runs, and every message has been triggered in one go."""
    top = tmp_path_factory.mktemp("land")
    world = World.make(top / "world")
    shutil.copytree(PLAYBOOKS, top / "site" / "playbooks")
    for file in (top / "site" / "playbooks" / "workflows").iterdir():
        # Nobody waits here for the minutes between two tries, or for the third architecture.
        text = re.sub("attempts: [0-9]", "attempts: 1", file.read_text())
        file.write_text(text.replace("default: [x86_64, aarch64, ppc64le, s390x]", "default: [x86_64, aarch64]"))
    files = {
        "playbooks/ansible.cfg": (PLAYBOOKS / "ansible.cfg").read_text(),
        "playbooks/inventory/hosts.yml": (PLAYBOOKS / "inventory" / "hosts.yml").read_text(),
        "workers/default.yml": "queues: [default, compose]\nconcurrency: 2\n",
    }
    programs = {"PATH": world.path(os.environ["PATH"]), "RELEASE_PROGRAMS": str(world.top)}
    with private_redis(top / "redis") as broker, system(top, files, broker.url, **programs) as made:
        land = Land(made, world)
        prepare(land)
        made.worker()
        messages = {
            "container": land.message("koji-tag-container"), "toolbox": land.message("koji-tag-toolbox"),
            "finished": land.message("compose-finished"), "damaged": land.message("compose-finished-incomplete"),
            "push": land.message("bodhi-complete"), "bad push": land.message("bodhi-stray-comma"),
            "ostree": land.message("ostree"), "ostree again": land.message("ostree-again"),
            "ostree before": land.message("ostree", commitid="0" * 64),
            "ostree elsewhere": land.message("ostree", commitid="e" * 64),
        }  # fmt: skip
        land.runs = dict(zip(messages, land.trigger(*messages.values()), strict=True))
        assert land.runs.pop("ostree again") == "duplicate"
        yield land


def prepare(land: Land) -> None:
    """What the messages speak of."""
    world, mnt = land.world, land.world.top / "mnt"
    world.build(*ARCHES, build=BUILDS["container"])
    world.build(*ARCHES, build=BUILDS["toolbox"], aarch64="x86_64")
    good, damaged = mnt / "compose/rawhide/Fedora-Rawhide-20261120.n.0", mnt / "compose/branched/Fedora-44-20261121.n.1"
    image_compose(good, {ISO: b"an image" * 1000, ISO.replace("dvd", "boot"): b"small"})
    image_compose(damaged, {f"Server/{name}.iso": name.encode() * 9 for name in ("gone", "short", "other", "whole")})
    (damaged / "compose/Server/gone.iso").unlink()
    (damaged / "compose/Server/short.iso").write_bytes(b"short")
    (damaged / "compose/Server/other.iso").write_bytes(b"OTHER" * 9)
    repo = mnt / "compose/iot/repo"
    for commit in ("0" * 64, COMMIT):
        world.commit(repo, "fedora/stable/x86_64/iot", commit)
    pushes = land.system.site / "pushes"
    for name, arches in (("f43-updates-testing", ("x86_64", "aarch64")), ("epel10.1-testing", ("x86_64",))):
        for arch in arches:
            tree = pushes / name / "Everything" / arch
            shutil.copytree(SAMPLES / "monday" / arch, tree / "Packages")
            subprocess.run([TOOLS / "createrepo_c", "--quiet", tree], check=True, capture_output=True)
    next((pushes / "epel10.1-testing").rglob("*primary.xml*")).write_bytes(b"half of it")
    next((pushes / "epel10.1-testing").rglob("*filelists.xml*")).unlink()


def test_a_container_image_reaches_the_registry_for_each_architecture_and_for_all(land: Land) -> None:
    run = land.ended("container", "succeeded")
    assert run.outputs == {"build": BUILDS["container"], "tags": ["44"], "arches": list(ARCHES)}
    images = land.world.images
    digests = [images[f"localhost:5000/fedora:44-{arch}"] for arch in ARCHES]
    assert len(set(digests)) == 2
    assert images["localhost:5000/fedora:44"].split() == [f"docker://localhost:5000/fedora@{each}" for each in digests]
    assert not list((land.world.top / "lists").iterdir())


def test_an_image_for_another_architecture_is_not_copied_and_no_image_of_all_is_made(land: Land) -> None:
    land.ended("toolbox", "failed")
    assert "aarch64.oci.tar is an image for amd64, not for arm64" in land.output["toolbox"]
    steps = land.system.steps(land.runs["toolbox"])
    assert (steps["copy [aarch64]"], steps["manifest"]) == ("failed", "skipped")
    assert "localhost:5000/fedora-toolbox:44-aarch64" not in land.world.images
    assert "localhost:5000/fedora-toolbox:44" not in land.world.images


def test_the_images_of_a_compose_are_vouched_for(land: Land) -> None:
    run = land.ended("finished", "succeeded")
    assert run.outputs == {"images": 2, "bytes": 8005}


def test_what_is_wrong_with_images_is_said_of_each(land: Land) -> None:
    land.ended("damaged", "failed")
    said = land.output["damaged"]
    assert "3 of 4 are not as they should be" in said
    for sentence in ("gone.iso: it is not there", "short.iso: it has 5 bytes, not 45", "other.iso: its sha256 is"):
        assert f"Server/{sentence}" in said


def test_a_push_that_is_whole_is_listed(land: Land) -> None:
    run = land.ended("push", "succeeded")
    pushes = land.system.site / "pushes"
    lists = pushes / "fullfilelist-f43-updates-testing"
    assert run.outputs == {"repositories": ["Everything/aarch64", "Everything/x86_64"], "list": str(lists)}
    rows = [line.split("\t") for line in lists.read_text().splitlines()]
    listed = {name: (int(time), kind, int(size)) for time, kind, size, name in rows}
    found = {str(path.relative_to(pushes / "f43-updates-testing")): path.lstat() for path in pushes.rglob("f43*/**/*")}
    assert listed.keys() == found.keys()
    for name, (time, kind, size) in listed.items():
        assert (time, size) == (int(found[name].st_mtime), found[name].st_size if kind == "f" else 0)


def test_a_push_that_is_not_whole_is_not_listed(land: Land) -> None:
    land.ended("bad push", "failed")
    said = land.output["bad push"]
    assert "-primary.xml" in said
    assert "is not what repomd.xml says" in said
    assert "-filelists.xml" in said
    assert not (land.system.site / "pushes" / "fullfilelist-epel10.1-testing").exists()


def test_a_commit_that_its_ref_leads_to_gets_into_the_summary(land: Land) -> None:
    assert land.ended("ostree", "succeeded").outputs == {"state": "current"}
    assert COMMIT in (land.world.top / "mnt/compose/iot/repo/summary").read_text()


def test_a_commit_from_which_the_ref_went_on_is_left_alone(land: Land) -> None:
    assert land.ended("ostree before", "succeeded").outputs == {"state": "superseded"}
    assert land.system.steps(land.runs["ostree before"]) == {"check": "succeeded", "summary": "skipped"}


def test_a_commit_that_the_repository_does_not_have_fails(land: Land) -> None:
    land.ended("ostree elsewhere", "failed")
    assert land.system.steps(land.runs["ostree elsewhere"]) == {"check": "failed", "summary": "skipped"}


def test_a_compose_is_released_when_its_tests_have_passed(land: Land) -> None:
    run_id = land.system.run("gated-compose", release="rawhide", arches="x86_64")
    run = land.system.wait(run_id, "waiting", timeout=3 * PATIENCE)
    step = next(step for step in run.steps if step.name == "compose")
    outputs = step.outputs or {}
    path = Path(str(outputs["compose_path"]))
    link = path.with_name("latest-Fedora-Rawhide")
    assert ((path / "STATUS").read_text(), link.is_symlink()) == ("FINISHED\n", False)
    name = path.name
    messages = [
        land.message("ci-passed", artifact={"type": "productmd-compose", "id": name}),
        land.message("openqa-one-of-many", BUILD=name),
        land.message("openqa-last", BUILD=name),
    ]
    assert land.trigger(*messages) == ["awaited"] * 3
    run = land.system.wait(run_id, "succeeded")
    assert run.outputs == {"compose_id": name, "compose_path": str(path)}
    assert link.readlink() == Path(name)
