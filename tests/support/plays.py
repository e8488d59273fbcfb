# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays for tests: a project in a directory, and a sink that keeps what it gets."""

from __future__ import annotations

import fcntl
import os
import textwrap
import threading
from dataclasses import dataclass, field
from pathlib import Path

from relengq.execution import Outcome, PlayOrder, Stop, TaskOutcome, Warm, play

STUBBORN = """\
import fcntl, os, signal, sys, time
where = sys.argv[1]
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
file = open(os.path.join(where, f"{os.getpid()}.pid.new"), "w")
fcntl.flock(file, fcntl.LOCK_EX)
os.rename(file.name, os.path.join(where, f"{os.getpid()}.pid"))
if len(sys.argv) > 2:
    os.setuid(int(sys.argv[2]))
time.sleep(300)
"""
"""A program that turns into a daemon in a session of its own and ignores every polite signal; of another user, if told.

It holds a lock on a file as long as it lives: its process id says little outside of its PID namespace."""


@dataclass
class Collected:
    """A sink that keeps everything."""

    text: str = ""
    tasks: dict[int, TaskOutcome] = field(default_factory=dict)
    places: list[tuple[str | None, str | None, str | None]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def output(self, text: str) -> None:
        self.text += text
        self.threads.add(threading.current_thread().name)

    def task(self, outcome: TaskOutcome) -> None:
        self.tasks[outcome.number] = outcome
        self.threads.add(threading.current_thread().name)

    def progress(self, play: str | None, task: str | None, host: str | None) -> None:
        self.places.append((play, task, host))
        self.threads.add(threading.current_thread().name)

    def named(self, task: str) -> TaskOutcome:
        return next(outcome for outcome in self.tasks.values() if outcome.task == task)


def never() -> Stop | None:
    return None


@dataclass
class Project:
    """An Ansible project below a directory."""

    root: Path
    warm: Warm | None = None

    @property
    def playbooks(self) -> Path:
        return self.root / "playbooks"

    @property
    def workdir(self) -> Path:
        return self.root / "work"

    def file(self, name: str, text: str) -> Path:
        path = self.playbooks / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def tasks(self, text: str, name: str = "play.yml", hosts: str = "localhost") -> None:
        """A playbook of one play with these tasks."""
        head = f"- name: The play\n  hosts: {hosts}\n  gather_facts: false\n  tasks:\n"
        self.file(name, "").write_text(head + textwrap.indent(textwrap.dedent(text).lstrip("\n"), "    "))

    def order(self, **changes: object) -> PlayOrder:
        given: dict[str, object] = {
            "label": "test: step #1",
            "playbooks": self.playbooks,
            "playbook": "play.yml",
            "workdir": self.workdir,
            "warm": self.warm,
            # pytest changes it all the time, and each environment has a server of its own.
            "withheld": frozenset({"PYTEST_CURRENT_TEST"}),
        }
        return PlayOrder(**{**given, **changes})  # type: ignore[arg-type]

    def play(self, sink: Collected | None = None, **changes: object) -> tuple[Outcome, Collected]:
        sink = sink or Collected()
        return play(self.order(**changes), sink, never), sink

    def left(self) -> list[str]:
        """What plays left in the work directory."""
        # Not Path.rglob, for which a directory must not be removed meanwhile.
        found = (Path(at, name) for at, folders, files in os.walk(self.workdir) for name in (*folders, *files))
        return sorted(str(path.relative_to(self.workdir)) for path in found)


def alive(directory: Path) -> list[str]:
    """The files in a directory whose processes still run: they hold locks on them."""
    return [path.name for path in directory.glob("*.pid") if _locked(path)]


def _locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
