# SPDX-License-Identifier: GPL-3.0-or-later
"""``ansible-playbook`` under guard, with streams of the test's choice: by the plain command, or from a server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from relengq.execution import Warm
from relengq.execution.command import PROGRAM
from relengq.execution.means import Means, host
from relengq.execution.processes import MARK, Guard
from relengq.execution.servers import Offer, Wanted, offer, running
from tests.support.waiting import wait_until

ANSIBLE = str(Path(sys.executable).with_name(PROGRAM))
PLAY = "- hosts: localhost\n  gather_facts: false\n  tasks:\n"
"""A play without its tasks."""
UNSTEADY = ("PYTEST_CURRENT_TEST", "COLUMNS", "LINES")


@dataclass
class Site:
    """A directory in which plays are started, and the servers for it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    owner: int = field(default_factory=os.getpid)

    @property
    def warm(self) -> Warm:
        return Warm(self.root / "warm", self.owner)

    def servers(self) -> list[int]:
        return running(self.warm.directory)

    def wait_until_loaded(self) -> None:
        """Wait until a server has nothing more to load: it sleeps, which it does not between the parts."""
        (pid,) = self.servers()
        server = psutil.Process(pid)
        wait_until(lambda: all(server.status() == psutil.STATUS_SLEEPING for _ in range(9)), what="all is loaded")

    def file(self, name: str, text: str) -> Path:
        path = self.root / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def given(self, private: Path) -> dict[str, str]:
        """The environment of a play with this private directory."""
        inherited = {name: value for name, value in os.environ.items() if name not in UNSTEADY}
        return {**inherited, "ANSIBLE_LOCAL_TEMP": str(private / "tmp"), **self.environment, MARK: private.name}

    def offer(self, private: Path) -> Offer | None:
        """A server for a play with this private directory."""
        return offer(self.warm, Wanted(ANSIBLE, self.given(private), self.root / "site", private))

    def start(
        self, private: Path, *words: str, warm: bool = True, means: Means = Means.NAMESPACE, **more: object
    ) -> Started:
        """Start ``ansible-playbook`` with these words."""
        private.mkdir()
        private = private.resolve()
        offered = self.offer(private) if warm else None
        assert bool(offered) is warm
        local = ["-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
        guard = Guard(private, [ANSIBLE, *local, *words], host().plan(means, warm=offered.socket if offered else None))
        given: dict[str, object] = {"cwd": self.root / "site", "env": self.given(private), **more}
        return Started(guard, subprocess.Popen(guard.command, **given), private)  # type: ignore[call-overload]


@dataclass
class Started:
    """A play that runs."""

    guard: Guard
    process: subprocess.Popen[bytes]
    private: Path

    def cold(self) -> str | None:
        """Why it was started by the plain command although it was not meant to be."""
        path = self.private / "cold"
        return path.read_text().partition("\n")[2] if path.exists() else None


@dataclass
class Heard:
    """Output that is read while the test does other things."""

    descriptor: int
    data: bytes = b""

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while more := os.read(self.descriptor, 4096):
                self.data += more
        except OSError:
            return  # a terminal whose other end is closed

    def join(self) -> bytes:
        self._thread.join()
        return self.data


@contextmanager
def own_site(directory: Path) -> Iterator[Site]:
    """A site with a small play, whose servers nobody else uses, and which end with it."""
    site = Site(directory)
    site.file("fine.yml", PLAY + "    - debug: {msg: fine}\n")
    yield site
    end_servers(site.warm)


def end_servers(warm: Warm) -> None:
    """End the servers that plays have started."""
    for pid in running(warm.directory):
        os.kill(pid, signal.SIGKILL)


def fine(site: Site, private: Path) -> str | None:
    """Play a small play. None: the server did; else why it did not."""
    started = site.start(private, "fine.yml", stdout=subprocess.PIPE)
    out, _ = started.process.communicate()
    assert started.process.returncode == 0
    assert b'"msg": "fine"' in out
    return started.cold()
