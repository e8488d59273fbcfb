# SPDX-License-Identifier: GPL-3.0-or-later
"""A child process of a test: logs to a file, dies with the test run, leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from relengq.database import Database
from relengq.processes import bound
from tests.support.waiting import wait_until


def alive(pid: int) -> bool:
    """Whether a process runs. One that ended and that nobody has reaped does not."""
    try:
        return not ended([psutil.Process(pid)])
    except psutil.NoSuchProcess:
        return False


def ended(processes: Iterable[psutil.Process]) -> bool:
    """Whether none of them runs any more."""
    return not any(map(_runs, processes))


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # just now
        return False


def _stopped(process: psutil.Process) -> bool:
    return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)


def words(process: psutil.Process) -> list[str]:
    """What it was started with; nothing when it has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


class Process:
    """One program that can be started, stopped, killed and started again.

    It leads a session of its own, so that its whole group can be ended, and it gets SIGKILL when the test
    run dies.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        directory: Path,
        environment: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None:
        self.argv = [str(part) for part in argv]
        self.directory = directory
        self.environment = {**os.environ, **(environment or {})}
        self.log_file = directory / f"{name or Path(self.argv[0]).name}.log"
        self._popen: subprocess.Popen[bytes] | None = None
        self._mark = 0

    @property
    def pid(self) -> int:
        assert self._popen is not None, "not started"
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        return self._popen.poll() if self._popen else None

    @property
    def log(self) -> str:
        """All that the process has written, of all its starts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def new_log(self) -> str:
        """What it has written since its last start."""
        return self.log[self._mark :]

    def command(self) -> list[str]:
        """What is executed."""
        return bound(self.argv)

    def start(self) -> None:
        assert not self.running, "already started"
        self._mark = len(self.log)
        with self.log_file.open("ab") as output:
            self._popen = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for_log(self, text: str, timeout: float = 60.0) -> None:
        """Wait until the process has written ``text`` since its last start."""

        def written() -> bool:
            assert self.running, f"{self.argv[0]} ended with {self.returncode}:\n{self.new_log}"
            return text in self.new_log

        wait_until(written, timeout, f"{text!r} in the log of {self.argv[0]}:\n{self.new_log}")

    def signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        if self.running:
            os.kill(self.pid, number)

    def freeze(self, database: Database) -> None:
        """SIGSTOP for the whole group between two writes: in one, it would keep SQLite's write lock to itself."""
        with database.write():
            os.killpg(self.pid, signal.SIGSTOP)
            wait_until(lambda: all(map(_stopped, self._group())), what="all of it is stopped")

    def thaw(self) -> None:
        """Let a group that is frozen go on."""
        if self.running:
            os.killpg(self.pid, signal.SIGCONT)

    def _group(self) -> list[psutil.Process]:
        leader = psutil.Process(self.pid)
        return [each for each in (leader, *leader.children(recursive=True)) if os.getpgid(each.pid) == self.pid]

    def kill(self) -> None:
        """SIGKILL for the whole group, as when a host loses its power."""
        if self._popen is None:
            return
        if self._popen.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def stop(self, timeout: float = 10.0) -> None:
        """SIGTERM, SIGKILL after ``timeout`` seconds, and nothing of its group stays."""
        if self._popen is None:
            return
        self.signal(signal.SIGTERM)

        def ended() -> bool:
            # The group is killed while the leader is still to be reaped, because then its id is certainly
            # ours.
            assert self._popen is not None
            done = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return self._popen.returncode is not None or os.waitid(os.P_PID, self._popen.pid, done) is not None

        with suppress(AssertionError):
            wait_until(ended, timeout)
        self.kill()
