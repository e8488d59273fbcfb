# SPDX-License-Identifier: GPL-3.0-or-later
"""A site with plays to measure, the whole system in it, and the ways to play without relengq."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
from sqlalchemy import select

from relengq.engine.installation import Installation, at
from relengq.engine.start import Trigger, start
from relengq.errors import DatabaseUnavailable
from relengq.logs import read
from relengq.models import Attempt, Run
from relengq.runs.timeline import alive
from relengq.states import RunState

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LOOK_AGAIN = 0.005
"""Seconds between two looks at the database at first: what is measured is at most so much too long."""
PART = 1 / 200
"""Later, the part of the time that has passed: 200 looks a second take a third of a core from what is looked at."""
PATIENCE = 1800.0
POOL = "bench"
INVENTORY = """\
all:
  hosts:
    localhost:
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
"""
WRITE = """\
- name: Write a file
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Write it
      ansible.builtin.copy:
        content: "{{ bench_text }}"
        dest: "{{ bench_file }}"
        mode: "0644"
"""
DEBUG = """\
- name: Say something
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Say it
      ansible.builtin.debug: {msg: "{{ bench_text }}"}
"""

SAID = re.compile(r'"msg": "(.*)"')
"""What ``DEBUG`` makes of its text in the output."""

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """The site, and the system that runs in it."""

    installation: Installation
    system: psutil.Process
    made: Path
    """Where plays leave what they make."""

    @property
    def playbooks(self) -> Path:
        return self.installation.settings.site / "playbooks"

    def write(self, workflow: str, steps: Sequence[str], **files: str) -> None:
        """Add playbooks (``name="text"`` is ``name.yml``) and a workflow of these steps with any inputs."""
        for name, text in files.items():
            (self.playbooks / f"{name}.yml").write_text(text)
        inputs = "inputs: {text: {type: string, default: ''}, file: {type: string, default: ''}}"
        text = f"queue: {POOL}\n{inputs}\nsteps:\n" + "".join(f"  - {step}\n" for step in steps)
        (self.playbooks / "workflows" / f"{workflow}.yml").write_text(text)

    def start(self, workflow: str, inputs: Mapping[str, object] | None = None) -> str:
        """Start a run. Returns its id."""
        return start(self.installation, workflow, inputs or {}, Trigger("person", "bench")).run_id

    def await_end(self, run_id: str) -> None:
        """Wait until the run's result can be read."""
        assert self.wait_for(lambda: self._final(run_id), f"the end of run {run_id}") is RunState.SUCCEEDED

    def run(self, workflow: str, inputs: Mapping[str, object] | None = None) -> str:
        """Start a run and wait until its result is stored. Returns its id."""
        run_id = self.start(workflow, inputs)
        self.await_end(run_id)
        return run_id

    def output(self, run_id: str) -> str:
        """What the run's attempts have printed, one after the other."""
        with self.installation.database.read() as session:
            attempts = session.scalars(select(Attempt.id).where(Attempt.run_id == run_id).order_by(Attempt.id)).all()
        return "".join(text for each in attempts for text in read(self.installation.database, each))

    def _final(self, run_id: str) -> RunState | None:
        with self.installation.database.read() as session:
            state = session.get_one(Run, run_id).state
        return state if state.final else None

    def wait_for(self, look: Callable[[], T | None], what: str) -> T:
        """What ``look`` returns, as soon as that is something."""
        begun = time.monotonic()
        while not (found := look()):
            passed = time.monotonic() - begun
            assert passed < PATIENCE, f"no end of waiting for {what}"
            assert self.system.is_running(), "relengq up has ended"
            time.sleep(max(LOOK_AGAIN, passed * PART))
        return found

    def play(self, playbook: str, log: Path | None = None, *options: str, **variables: str) -> None:
        """Play without relengq, with the output in a file as people do."""
        with (log or self.made / "plain.log").open("wb") as file:
            argv = [str(BIN / "ansible-playbook"), playbook, *options, "--extra-vars", json.dumps(variables)]
            subprocess.run(argv, cwd=self.playbooks, env=environment(), stdout=file, stderr=file, check=True)

    def processes(self) -> list[psutil.Process]:
        """Those of the system, and no longer of its plays when there are none."""
        return [self.system, *self.system.children(recursive=True)]


def environment() -> dict[str, str]:
    """For what is run beside relengq: programs of the same virtual environment are found."""
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}


def write_site(site: Path, pool: str) -> None:
    """A site with one pool and nothing to play yet, with the shipped ansible.cfg. ``pool`` is added to its file."""
    for name in ("playbooks/workflows", "playbooks/inventory", "workers", "beat"):
        (site / name).mkdir(parents=True)
    (site / "relengq.toml").touch()
    shipped = (ROOT / "playbooks/ansible.cfg").read_text()
    # Each side has the forks that relengq would set for this pool.
    (site / "playbooks/ansible.cfg").write_text(shipped.replace("[defaults]\n", "[defaults]\nforks = 10\n", 1))
    (site / "playbooks/inventory/hosts.yml").write_text(INVENTORY)
    (site / f"workers/{POOL}.yml").write_text(f"queues: [{POOL}]\nconcurrency: 2\n{pool}\n")


@contextmanager
def running(site: Path) -> Iterator[Place]:
    """``relengq up`` in the site's directory, once its workers are there."""
    variables = {**environment(), "RELENGQ_SITE": str(site), "RELENGQ_FLOWER_PORT": str(_free_port())}
    with (site / "up.log").open("wb") as log:
        argv = [sys.executable, "-m", "relengq", "up"]
        process = subprocess.Popen(argv, cwd=site, env=variables, stdout=log, stderr=log)
    before = os.environ.get("RELENGQ_SITE")
    os.environ["RELENGQ_SITE"] = str(site)
    try:
        made = site.parent / f"{site.name}-made"
        made.mkdir(exist_ok=True)
        place = Place(at(site), psutil.Process(process.pid), made)
        place.wait_for(lambda: _ready(place.installation), "the workers")
        yield place
        place.installation.database.close()
    finally:
        if before is None:
            del os.environ["RELENGQ_SITE"]
        else:
            os.environ["RELENGQ_SITE"] = before
        process.send_signal(signal.SIGINT)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _ready(installation: Installation) -> bool:
    """Whether each pool has a living worker."""
    if not (installation.settings.state_dir / "relengq.db").exists():
        return False
    try:
        with installation.database.read() as session:
            found = {worker.pool for worker in alive(session, installation.database.now(session))}
    except DatabaseUnavailable:  # its tables are still being made
        return False
    return set(installation.site.pools) <= found
