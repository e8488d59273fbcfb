# SPDX-License-Identifier: GPL-3.0-or-later
"""Run git: it asks nobody anything, runs no hook, and never takes for ever.

A remote is not trusted with more than its content: transports that run programs (``ext::``) are refused, submodules
are not followed. What a commit's id names is checked by git itself, so a remote cannot give something else for it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from relengq.processes import bound

SECONDS = 60.0
"""How long git may take for what needs no network."""
TIMED_OUT = 124
STOPPED = 125
_LOOK_SECONDS = 0.1
_CAREFUL = (
    "safe.directory=*", "core.fsmonitor=false", "core.hooksPath=/dev/null", "gc.auto=0", "maintenance.auto=false",
    "submodule.recurse=false", "fetch.recurseSubmodules=false", "advice.detachedHead=false",
)  # fmt: skip
_ELSEWHERE = frozenset(
    f"GIT_{name}"
    for name in (
        "DIR", "WORK_TREE", "INDEX_FILE", "OBJECT_DIRECTORY", "ALTERNATE_OBJECT_DIRECTORIES", "COMMON_DIR",
        "SHALLOW_FILE", "GRAFT_FILE", "PREFIX", "NAMESPACE", "EXTERNAL_DIFF", "TRACE",
    )
)  # fmt: skip
"""Variables that would make git work on another repository than the one that is named: a hook sets them."""
_FIXED = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "SSH_ASKPASS_REQUIRE": "never",
    "LC_ALL": "C",
}
_SSH = "-oBatchMode=yes -oConnectTimeout=15 -oServerAliveInterval=15 -oServerAliveCountMax=4"
_USER = re.compile(r"(?<=://)[^/\s]*@")

Stop = Callable[[], bool]
"""Whether nobody wants it any more; asked several times a second."""


def never() -> bool:
    """Nobody stops it."""
    return False


def git(directory: Path, *arguments: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[bytes]:
    """Run git in a directory. A machine without git behaves as a site that is not in git."""
    line = command(directory, *arguments)
    try:
        return subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False, env=environment()
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(line, 127, b"", b"git is not installed")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(line, TIMED_OUT, b"", b"git did not answer")


def long(
    line: Sequence[str], until: float, stop: Stop, *, given: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run something that may take long, as far as the monotonic moment ``until``; it dies with this process.

    Its exit code is TIMED_OUT or STOPPED when it was ended, with all that it had started. Output goes through files:
    a connection that ssh keeps open for later would hold a pipe open.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            bound(line), stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
            env={**environment(), **(given or {})},
        )  # fmt: skip
        code = _await_end(process, until, stop)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(line), code, out.read(), err.read())


def _await_end(process: subprocess.Popen[bytes], until: float, stop: Stop) -> int:
    """Wait for it; its exit code, or why it was killed."""
    try:
        while process.poll() is None:
            if stop():
                return STOPPED
            if time.monotonic() > until:
                return TIMED_OUT
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_SECONDS)
        return process.returncode
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def command(directory: Path, *arguments: str) -> list[str]:
    """The command line of git in a directory."""
    settings = [part for setting in _CAREFUL for part in ("-c", setting)]
    return ["git", "-C", str(directory), *settings, *arguments]


def environment() -> dict[str, str]:
    """The environment of git: nothing that leads it elsewhere, and nobody to ask."""
    kept = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    return {**kept, **_FIXED}


def ssh_command(site: Path) -> dict[str, str]:
    """The environment in which ssh asks nobody: the command that was configured, with options of ours."""
    if "GIT_SSH" in os.environ and "GIT_SSH_COMMAND" not in os.environ:
        return {}  # a program whose options are unknown
    said = git(site, "config", "--get", "core.sshCommand").stdout.decode(errors="replace").strip()
    return {"GIT_SSH_COMMAND": f"{os.environ.get('GIT_SSH_COMMAND') or said or 'ssh'} {_SSH}"}


def first_line(text: bytes) -> str:
    """What git said first that says why, without the name and password of a URL."""
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:"))]
    return shown((telling or lines or ["git gave no reason"])[0])


def shown(url: str) -> str:
    """A URL, or a sentence that has one, without name and password."""
    return _USER.sub("", url)
