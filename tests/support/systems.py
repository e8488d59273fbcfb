# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole installation for tests: a site's directory, a broker, a database, workers, a clock, and a person's shell.

Everything in it is a process of its own, started as an operator would. What the test only looks at is read from the
database directly, because each call of the command line costs most of a second.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psutil

from relengq import migrations
from relengq.engine.installation import Installation
from relengq.logs import read
from relengq.models import Run
from relengq.runs import results
from relengq.settings import Settings
from tests.support.commands import Shell
from tests.support.processes import Process, words
from tests.support.servers import RedisServer, running
from tests.support.waiting import wait_until

RELENGQ = (sys.executable, "-m", "relengq")
NOWHERE = "redis://127.0.0.1:1/0"
"""Celery's broker where nothing is ever sent to it."""
PATIENCE = 60.0
"""Seconds for a machine that is busy with other things."""

GATE = """\
#!/bin/sh
# gate.sh DIRECTORY NAME: note the start, wait until DIRECTORY/NAME.open exists, note the end.
# Says "twice" when another one of the same name is alive.
# (A lock says so: process ids mean nothing from one PID namespace to another.)
exec 9> "$1/.$2.lock"
flock --nonblock 9 || echo "$2 twice" >> "$1/ledger"
echo "$2 start" >> "$1/ledger"
echo "waiting at the gate of $2"
until [ -e "$1/$2.open" ]; do sleep 0.05 9>&-; done
echo "$2 end" >> "$1/ledger"
"""

GATED_PLAYBOOK = """\
- name: Wait at a gate
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Say that it begins
      ansible.builtin.debug:
        msg: the gate of {{ gate_name }} is {{ relengq.inputs.gates }}
    - name: Wait until the test opens
      ansible.builtin.command:
        argv: [./gate.sh, "{{ relengq.inputs.gates }}", "{{ gate_name }}"]
    - name: Hand on who was let through
      ansible.builtin.set_stats:
        data: {passed: "{{ gate_name }}"}
"""

FILES = {
    "relengq.toml": "",
    ".gitignore": ".relengq/\n*.log\n",
    "playbooks/ansible.cfg": "[defaults]\ninventory = inventory\n",
    "playbooks/inventory/hosts.yml": """\
all:
  hosts:
    localhost: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
""",
    "playbooks/gated.yml": GATED_PLAYBOOK,
    "playbooks/gate.sh": GATE,
    "playbooks/workflows/gated.yml": """\
inputs:
  gates: {type: string}
steps:
  - {name: first, playbook: gated.yml, vars: {gate_name: first}}
""",
    "workers/default.yml": "queues: [default]\nconcurrency: 4\n",
}


class Gates:
    """Where playbooks of a test wait, and the ledger of what they did."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def ledger(self) -> list[str]:
        """What began and ended, in order: ``first start``, ``first end``; ``first twice`` must never be there."""
        file = self.directory / "ledger"
        return file.read_text().splitlines() if file.exists() else []

    def open(self, *names: str) -> None:
        """Let all through, now and later."""
        for name in names:
            (self.directory / f"{name}.open").touch()

    def waiting(self, name: str) -> psutil.Process:
        """The process that waits at a gate, the youngest of them."""
        arguments = [str(self.directory), name]
        found = [each for each in psutil.process_iter(["cmdline", "create_time"]) if self._at(each, arguments)]
        return max(found, key=lambda each: float(each.info["create_time"]))

    def play(self, name: str) -> list[psutil.Process]:
        """A play's own processes, from the program that waits at a gate up to the guard's child."""
        gate = self.waiting(name)
        return [gate, *(each for each in gate.parents() if "ansible-playbook" in " ".join(words(each)))]

    @staticmethod
    def _at(process: psutil.Process, arguments: list[str]) -> bool:
        with suppress(psutil.NoSuchProcess):
            parent = process.parent()
            # What the gate has just forked looks like the gate itself.
            found = process.info["cmdline"] or []  # None: it has just become a zombie
            return found[-2:] == arguments and not (parent and parent.cmdline()[-2:] == arguments)
        return False


@dataclass
class System:
    """One installation. Use ``system()`` to have everything stopped at the end."""

    site: Path
    broker_url: str
    database_url: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)

    @cached_property
    def shell(self) -> Shell:
        """A person in the site's directory."""
        return Shell(self.site, self.settings_in_environment)

    @property
    def settings_in_environment(self) -> dict[str, str]:
        url = {"RELENGQ_DATABASE_URL": self.database_url} if self.database_url else {}
        return {"RELENGQ_BROKER_URL": self.broker_url, **url, **self.environment}

    @cached_property
    def installation(self) -> Installation:
        """The engine's view, for the test's own process: it never sends anything."""
        loaded = Settings.load(self.site)
        changes = {"broker_url": self.broker_url, "database_url": self.database_url or loaded.database_url}
        return Installation(loaded.model_copy(update=changes), send=_refuse)

    def write(self, files: Mapping[str, str]) -> None:
        """Write files of the site."""
        for name, text in files.items():
            path = self.site / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            if text.startswith("#!"):
                path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def gates(self, name: str) -> Gates:
        return Gates(self.site.parent / "gates" / name)

    def process(self, name: str, *argv: str, **environment: str) -> Process:
        """Any program, in the site's directory; stopped at the end."""
        made = Process(argv, self.site, {**self.settings_in_environment, **environment}, name=name)
        self.processes.append(made)
        made.start()
        return made

    def worker(self, pool: str = "default", *extra: str, name: str = "", **environment: str) -> Process:
        """``relengq worker POOL``, not awaited."""
        name = name or pool
        return self.process(f"worker-{name}", *RELENGQ, "worker", pool, "-n", f"{name}@%h", *extra, **environment)

    def clock(self) -> Process:
        """``relengq beat``."""
        return self.process("clock", *RELENGQ, "beat")

    def run(self, workflow: str, code: int = 0, **inputs: str) -> str:
        """Start a run by the command line; returns its id."""
        pairs = [part for name, value in inputs.items() for part in ("-i", f"{name}={value}")]
        started: str = self.shell.json("run", workflow, *pairs, code=code)["run"]
        return started

    def get(self, run_id: str) -> Run:
        with self.installation.database.read() as session:
            run = session.get_one(Run, run_id)
            for step in run.steps:
                _ = [attempt.state for attempt in step.attempts]
        return run

    def state(self, run_id: str) -> str:
        return str(self.get(run_id).state)

    def steps(self, run_id: str) -> dict[str, str]:
        return {step.label: str(step.state) for step in self.get(run_id).steps}

    def attempts(self, run_id: str, step: str | None = None) -> list[results.AttemptLine]:
        with self.installation.database.read() as session:
            return results.attempts(session, run_id, step)

    def wait(self, run_id: str, *states: str, timeout: float = PATIENCE) -> Run:
        """Wait for one of the states; any other that is final fails the test at once."""

        def there() -> bool:
            run = self.get(run_id)
            if run.state.final and run.state not in states:
                raise AssertionError(f"run {run_id} {run.state}: {run.reason}\n{self.output(run_id)}\n{self.logs()}")
            return run.state in states

        try:
            wait_until(there, timeout, f"run {run_id} becomes {' or '.join(states)}")
        except AssertionError as error:
            raise AssertionError(f"{error} {self.state(run_id)} {self.steps(run_id)}\n{self.logs()}") from None
        return self.get(run_id)

    def reach(self, run_id: str, gates: Gates, line: str, times: int = 1, timeout: float = PATIENCE) -> None:
        """Wait until the ledger has the line so often; a run that ended without it fails the test at once."""

        def there() -> bool:
            ended = self.get(run_id).state.final
            if gates.ledger.count(line) >= times:
                return True
            assert not ended, f"run {run_id} ended without {line}:\n{self.output(run_id)}\n{self.logs()}"
            return False

        try:
            wait_until(there, timeout, f"{line} ×{times} in {gates.directory}")
        except AssertionError as error:
            raise AssertionError(f"{error} {self.steps(run_id)}\n{self.logs()}") from None

    def output(self, run_id: str) -> str:
        """The output of all attempts, in order."""
        database = self.installation.database
        return "".join("".join(read(database, attempt.id)) for attempt in self.attempts(run_id))

    def logs(self) -> str:
        """The ends of what the processes said, for messages of failures."""
        return "\n".join(f"--- {each.log_file.name}\n{each.log[-3000:]}" for each in self.processes)

    def close(self) -> None:
        for each in reversed(self.processes):
            each.stop(15)
        if "installation" in self.__dict__:
            self.installation.database.close()


def _refuse(_: object) -> None:
    raise AssertionError("the test's own process sends nothing")


@contextmanager
def system(
    directory: Path, files: Mapping[str, str], broker_url: str, database_url: str = "", **environment: str
) -> Iterator[System]:
    """An installation with nothing running in it yet; stopped at the end with all that the test started."""
    site = directory / "site"
    made = System(site, broker_url, database_url, environment)
    made.write({**FILES, **files})
    assert made.installation.site.faults == (), made.installation.site.faults
    try:
        migrations.upgrade(made.installation.database)
        yield made
    finally:
        made.close()


@contextmanager
def private_redis(directory: Path) -> Iterator[RedisServer]:
    """A Redis server of one test's own, to be stopped, flushed and searched."""
    directory.mkdir(parents=True, exist_ok=True)
    with running(RedisServer(directory)) as server:
        yield server
