# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that have Ansible loaded: which one may start a play, and starting them. What they do is in ``guard.warm``.

A server fits plays whose Ansible would read the same while it is imported: the same environment, program, working
directory and ansible.cfg. It belongs to one worker, whose processes share it; it ends with the worker, when nobody has
asked it for a while, and when a file that it has loaded changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from relengq.execution.guard.channel import reachable, without_private
from relengq.execution.guard.handover import FAILED
from relengq.execution.guard.inherited import inherited
from relengq.execution.guard.plan import MARK, PROGRAM
from relengq.execution.guard.tree import send

SERVERS_LIMIT = 4
"""How many servers a pool may have on one host."""
RESTART_SECONDS = 30.0
"""A server that died is not started again any sooner after its last start."""
UNUSED_SECONDS = 60.0
"""When there are too many, one that nobody has asked for so long gives way to another."""
_PROGRAM = Path(__file__).with_name("guard") / "warm" / "__main__.py"
_ALONE_SECONDS = 1.0
"""So long another process may take to start a server before a play does without."""
_LOOK_SECONDS = 0.01
_BACKLOG = 128
_FORGET_SECONDS = 3600.0
_SCRIPT_BYTES = 4096
_ROOM = 255
"""Characters that a play's mark may have."""
_SCRIPTS = (
    # Where the interpreter's path is long or has a space.
    re.compile(r"""#!/bin/sh\n'{3}exec' "?(?P<python>[^"\n]+?)"?(?P<options>(?: -\w+)*) "\$0" "\$@"\n' '{3}\n"""),
    re.compile(r"#!\s*(?P<python>/\S+)(?P<options>(?: -\w+)*) *\n"),
)
"""How the script begins that pip installs."""
_CALL = re.compile(r"^from ansible\.cli\.playbook import main$", re.MULTILINE)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Warm:
    """Where a pool's servers are, and to which process they belong."""

    directory: Path
    owner: int


@dataclass(frozen=True)
class Offer:
    """A server that may start a play."""

    socket: str
    server: str
    """Which one: another one may have its socket by the time that it turns out to be no good."""


@dataclass(frozen=True)
class Wanted:
    """A play before it starts, as far as it decides which server fits."""

    program: str
    environment: Mapping[str, str]
    directory: Path
    private: Path


_children: set[int] = set()
"""Process ids of servers that this process started: it collects them when they have ended."""
_told: set[str] = set()
"""Reasons for plain plays that have been logged."""


def offer(warm: Warm | None, wanted: Wanted) -> Offer | None:
    """The server that may start a play, or None: it is played by the plain command.

    Starts the server when there is none; it is asked while it loads. Raises nothing: there is the plain command.
    """
    if warm is None:
        return None
    _collect()
    try:
        interpreter = _interpreter(wanted.program)
        server = _Server(warm.directory, _key(warm, wanted, interpreter))
        if not server.asked():
            warm.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _alone(warm.directory):
                _make_room(warm.directory, server)
                server.start(warm, wanted, interpreter)
    except _Declined as reason:
        _tell(str(reason))
        return None
    except OSError as error:
        _tell(f"no server can be started in {warm.directory}: {error.strerror}")
        return None
    return Offer(str(server.socket), server.identity)


class Answer:
    """What came of an offer: the play may have been started by the plain command all the same."""

    def __init__(self, offered: Offer | None, private: Path, label: str) -> None:
        self._offered = offered
        self._file = private / "cold"
        self._label = label

    def look(self) -> None:
        """Log why, each reason once; a server that did not say why is ended, so that a later play gets another one."""
        if self._offered is None:
            return
        try:
            kind, _, reason = self._file.read_text("utf-8", errors="replace").partition("\n")
        except OSError:
            return
        _tell(reason, self._label)
        if kind == FAILED:
            socket_file = Path(self._offered.socket)
            server = _Server(socket_file.parent, socket_file.stem)
            if server.identity == self._offered.server:
                server.end(signal.SIGKILL)
        self._offered = None


def running(directory: Path) -> list[int]:
    """The process ids of a pool's servers on this host."""
    return sorted(pid for server in _servers(directory) if (pid := server.pid()) is not None)


def refusals(directory: Path) -> list[str]:
    """Why servers that run on this host start no plays."""
    return sorted({server.refusal for server in _servers(directory) if server.pid() is not None and server.refusal})


class _Declined(Exception):
    """Why no server is offered."""


def _collect() -> None:
    for pid in list(_children):
        with suppress(ChildProcessError):
            if not os.waitpid(pid, os.WNOHANG)[0]:
                continue
        _children.discard(pid)


def _tell(reason: str, label: str | None = None) -> None:
    if reason not in _told:
        _told.add(reason)
        _log.warning("a play starts by the plain command", action="warm_declined", reason=reason, label=label)


class _Server:
    """The files of one server: its socket, what says that it runs, what it prints, and its private directory."""

    def __init__(self, directory: Path, key: str) -> None:
        self.socket = directory / f"{key}.socket"
        self._state = directory / f"{key}.server"
        self._printed = directory / f"{key}.log"
        self._scratch = directory / f"{key}.play"
        self._refusal = directory / f"{key}.refusal"

    def pid(self) -> int | None:
        """Its process id, None when it does not run."""
        try:
            pid = int(self._state.read_text("ascii").split()[0])
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            return None
        return pid if os.fsencode(self._scratch) in words else None

    @property
    def identity(self) -> str:
        """What no other server has, before it or after it; empty when there is none."""
        with suppress(OSError):
            return self._state.read_text("ascii")
        return ""

    @property
    def refusal(self) -> str:
        """Why it starts no plays; empty when it does."""
        with suppress(OSError):
            return self._refusal.read_text("utf-8", errors="replace")
        return ""

    def asked(self) -> bool:
        """Note that it is asked for a play. False when it does not run."""
        if self.pid() is None:
            return False
        with suppress(OSError):
            os.utime(self._state)
        return True

    @property
    def unused(self) -> float:
        """Seconds since it was asked for the last time."""
        with suppress(OSError):
            return time.time() - self._state.stat().st_mtime
        return 0.0

    def start(self, warm: Warm, wanted: Wanted, interpreter: list[str]) -> None:
        """Start it, unless somebody else has by now. Raises OSError or _Declined."""
        if self.asked():
            return
        self._check_last_start()
        self.forget()
        began = _now()
        try:
            # Before there is a process, so that there is room to say which one it is.
            self._note(0, began)
            pid = self._launch(warm, wanted, interpreter)
        except OSError:
            self.forget()
            raise
        try:
            self._note(pid, began)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            raise
        _log.info("a server with Ansible loaded was started", action="warm_started", pid=pid)

    def _launch(self, warm: Warm, wanted: Wanted, interpreter: list[str]) -> int:
        """Start the process. Returns its id; raises OSError."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, self._printed.open("ab") as printed:
            with reachable(str(self.socket)) as name:
                listener.bind(name)
            listener.listen(_BACKLOG)
            # Without the program's name: who looks for it in ``ps`` wants to see plays.
            words = [_PROGRAM, listener.fileno(), self._state, warm.owner, Path(wanted.program).parent, self._scratch]
            given = [f"{name}={value}" for name, value in inherited().items()]
            process = subprocess.Popen(
                [*interpreter, *map(str, words), *given],
                env=_environment(wanted, self._scratch),
                cwd=wanted.directory,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        _children.add(process.pid)
        # It goes on when this process ends, about which Popen would complain.
        process.returncode = 0
        return process.pid

    def _note(self, pid: int, began: float) -> None:
        """Say which process it is, 0 while there is none, always in as many bytes. Raises OSError."""
        descriptor = os.open(self._state, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, f"{pid:010d} {began:020.6f}".encode("ascii"), 0)
        finally:
            os.close(descriptor)

    def _check_last_start(self) -> None:
        with suppress(OSError, ValueError, IndexError):
            # A server that ended as it should has removed the file.
            if 0 <= _now() - float(self._state.read_text("ascii").split()[1]) < RESTART_SECONDS:
                raise _Declined(f"the server died less than {RESTART_SECONDS:.0f} seconds after its start")

    def end(self, number: signal.Signals) -> None:
        """Send it a signal that ends it. Plays that it has started go on."""
        if (pid := self.pid()) is not None:
            send(pid, number)

    def forget(self) -> None:
        """Remove the files of one that does not run."""
        for path in (self._state, self.socket, self._printed, self._refusal):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._scratch, ignore_errors=True)


def _servers(directory: Path) -> list[_Server]:
    return [_Server(directory, path.stem) for path in sorted(directory.glob("*.server"))]


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """While nobody else starts servers there. Raises _Declined when somebody is at it for long (it may be stopped)."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        deadline = time.monotonic() + _ALONE_SECONDS
        while not _locked(descriptor):
            if time.monotonic() > deadline:
                raise _Declined(f"another process has been starting a server for {_ALONE_SECONDS:.0f} seconds")
            time.sleep(_LOOK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _make_room(directory: Path, wanted: _Server) -> None:
    """See to it that one more server is not one too many. Raises _Declined."""
    others = []
    for server in _servers(directory):
        if server.socket == wanted.socket:
            continue
        if server.pid() is not None:
            others.append(server)
        elif server.unused > _FORGET_SECONDS:
            server.forget()
    if len(others) < SERVERS_LIMIT:
        return
    oldest = max(others, key=lambda each: each.unused)
    if oldest.unused < UNUSED_SECONDS:
        raise _Declined(f"{SERVERS_LIMIT} servers with other configurations of Ansible are in use")
    oldest.end(signal.SIGTERM)


def _now() -> float:
    """Seconds since this host was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _interpreter(program: str) -> list[str]:
    """The Python that runs ansible-playbook, with its options. Raises _Declined, or OSError."""
    if Path(program).name != PROGRAM:
        raise _Declined(f"{program} is not {PROGRAM}")
    with Path(program).open("rb") as file:
        text = file.read(_SCRIPT_BYTES).decode("utf-8", "replace")
    for script in _SCRIPTS:
        if (found := script.match(text)) and _CALL.search(text):
            return [found["python"], *found["options"].split()]
    raise _Declined(f"{program} is not the script that pip installs")


def _key(warm: Warm, wanted: Wanted, interpreter: list[str]) -> str:
    """What is the same for all plays that one server may start, as a name for its files. Raises OSError."""
    program = Path(wanted.program).stat()
    configuration = wanted.environment.get("ANSIBLE_CONFIG")
    parts = [
        repr(warm.owner),
        repr([str(Path(f"/proc/self/ns/{each}").readlink()) for each in ("mnt", "net", "pid", "user")]),
        repr((wanted.program, program.st_mtime_ns, program.st_ino, interpreter, str(wanted.directory))),
        Path(configuration).read_bytes().hex() if configuration else "",
        repr(sorted(without_private(wanted.environment, str(wanted.private)).items())),
    ]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _environment(wanted: Wanted, scratch: Path) -> dict[str, str]:
    """The play's environment, with a directory of the server's wherever the play's own is named."""
    private = wanted.private
    given = {
        name: value.replace(str(private), str(scratch)).replace(private.name, scratch.name)
        for name, value in wanted.environment.items()
    }
    return {**given, MARK: "-" * _ROOM}
