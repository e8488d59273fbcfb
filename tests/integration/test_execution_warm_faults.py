# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers with Ansible loaded where something is wrong: who may ask them, full disks, limits, what a site sets up."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from relengq.execution import servers
from relengq.execution.guard.channel import Request
from relengq.execution.guard.warm import plays
from relengq.execution.means import Means
from tests.support.processes import ended
from tests.support.waiting import wait_until
from tests.support.warm import ANSIBLE, PLAY, Site, fine, own_site

ROOT = Path(__file__).parents[2]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Site]:
    with own_site(tmp_path) as site:
        yield site


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_told", set())


def library(site: Site, text: str) -> None:
    """Have Python run this when it starts."""
    directory = site.root / "library"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(text)
    # As old as what was installed long ago: not changed while a server starts.
    os.utime(directory / "sitecustomize.py", (0, 0))
    site.environment["PYTHONPATH"] = str(directory)


def processes(site: Site) -> list[psutil.Process]:
    """All that were started as servers, also those of which nobody knows."""
    found = []
    for each in psutil.process_iter(["cmdline"]):
        words = each.info["cmdline"] or []
        if any(word.endswith("warm/__main__.py") for word in words) and any(str(site.root) in word for word in words):
            found.append(each)
    return found


ASKS = """\
import json, os, sys
from contextlib import suppress
sys.path.insert(0, {execution!r})
from guard.channel import connected, line
from guard.handover import _request
from guard.plan import Plan

socket, private, environment, program = sys.argv[1:]
request = _request(private, Plan(), [program, "--version"])
request.numbers = [0, 1, 2]
with open(environment) as file:
    request.environment = json.load(file)
connection = connected(socket, 10)
with suppress(BrokenPipeError):
    request.send(connection, os.open(".", os.O_PATH))
print(line(connection).decode())
"""
"""Asks for a play that is guarded by nothing, as the stand-in does, and prints the answer."""


@pytest.mark.parametrize("means", [Means.NAMESPACE, Means.PROCESS])
def test_what_runs_in_a_play_may_not_ask_for_another_one(own: Site, tmp_path: Path, means: Means) -> None:
    assert fine(own, tmp_path / "play-1") is None
    (socket,) = own.warm.directory.glob("*.socket")
    asks = own.file("asks.py", ASKS.replace("{execution!r}", repr(str(ROOT / "relengq/execution"))))
    private = tmp_path / "play-inner"
    environment = own.file("environment.json", json.dumps(own.given(private)))
    words = [sys.executable, str(asks), str(socket), str(private), str(environment), ANSIBLE]
    own.file(
        "asks.yml",
        PLAY + f"    - command: {{argv: {json.dumps(words)}}}\n      register: r\n    - debug: {{var: r.stdout}}\n",
    )
    started = own.start(tmp_path / "play-2", "asks.yml", means=means, stdout=subprocess.PIPE)
    out, _ = started.process.communicate()
    assert started.cold() is None
    assert b"-it starts plays for its own worker, and for nothing that runs in a play" in out
    # It is not what is asked that is declined, but who asks.
    assert subprocess.check_output(words).startswith(b"+")


POOL = """\
import os, pathlib, structlog, sys
from tests.integration.test_execution_warm_faults import fine
from tests.support.warm import Site
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
site = Site(pathlib.Path(sys.argv[1]))
pid = os.fork()
if not pid:
    print(fine(site, site.root / "play-x"), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_a_process_of_the_pool_may_ask_also_where_its_worker_is_in_a_play_itself(own: Site) -> None:
    environment = {**os.environ, "RELENGQ_PLAY": "play-of-another-worker"}
    said = subprocess.check_output([sys.executable, "-c", POOL, str(own.root)], cwd=ROOT, env=environment)
    assert said == b"None\n"


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process gets any longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_no_server_is_started_of_which_nobody_would_know(own: Site, tmp_path: Path) -> None:
    with capture_logs() as logs:
        for _ in range(2):
            with full_disk():
                assert own.offer(tmp_path / "play-1") is None
    assert [line["reason"] for line in logs] == [f"no server can be started in {own.warm.directory}: File too large"]
    assert processes(own) == []
    assert fine(own, tmp_path / "play-2") is None


def test_a_server_that_cannot_be_noted_is_ended_and_none_is_started_for_a_while(
    own: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = servers._Server._note

    def full(server: servers._Server, pid: int, began: float) -> None:
        if pid:
            raise OSError(28, "No space left on device")
        note(server, pid, began)

    monkeypatch.setattr(servers._Server, "_note", full)
    with capture_logs() as logs:
        assert own.offer(tmp_path / "play-1") is None
        assert own.offer(tmp_path / "play-2") is None
    assert [line["reason"] for line in logs] == [
        f"no server can be started in {own.warm.directory}: No space left on device",
        "the server died less than 30 seconds after its start",
    ]
    wait_until(lambda: processes(own) == [])


def test_a_server_of_which_nobody_knows_leaves_the_next_one_its_files(own: Site, tmp_path: Path) -> None:
    assert fine(own, tmp_path / "play-1") is None
    (first,) = map(psutil.Process, own.servers())
    (state,) = own.warm.directory.glob("*.server")
    state.unlink()
    assert fine(own, tmp_path / "play-2") is None
    (second,) = own.servers()
    assert first.is_running()
    first.terminate()
    wait_until(lambda: ended([first]))
    assert own.servers() == [second]
    assert (own.warm.directory / f"{state.stem}.play").is_dir()
    assert fine(own, tmp_path / "play-3") is None
    assert own.servers() == [second]


@pytest.mark.slow
def test_a_server_of_which_nobody_knows_ends(own: Site, tmp_path: Path) -> None:
    assert fine(own, tmp_path / "play-1") is None
    (server,) = map(psutil.Process, own.servers())
    (state,) = own.warm.directory.glob("*.server")
    state.unlink()
    wait_until(lambda: ended([server]), 60)


def test_while_another_process_starts_a_server_for_long_plays_do_without(
    own: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_ALONE_SECONDS", 0.05)
    own.warm.directory.mkdir()
    stopped = os.open(own.warm.directory, os.O_RDONLY)
    fcntl.flock(stopped, fcntl.LOCK_EX)
    with capture_logs() as logs:
        assert own.offer(tmp_path / "play-1") is None
    assert "another process has been starting a server" in logs[0]["reason"]
    os.close(stopped)
    assert own.offer(tmp_path / "play-2") is not None


LOWER = """\
import pathlib, resource, structlog, sys
from tests.integration.test_execution_warm_faults import fine
from tests.support.warm import Site
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
print(fine(Site(pathlib.Path(sys.argv[1]), owner=int(sys.argv[2])), pathlib.Path(sys.argv[3])))
"""


def test_a_server_that_may_not_raise_a_limit_leaves_the_play_to_the_plain_command(own: Site, tmp_path: Path) -> None:
    """Root in a container may not either. Who may does so."""
    words = [sys.executable, "-c", LOWER, str(own.root), str(os.getpid()), str(tmp_path / "play-1")]
    assert subprocess.check_output(words, cwd=ROOT) == b"None\n"
    assert len(own.servers()) == 1
    assert fine(own, tmp_path / "play-2") in {
        "it may not have what the worker has now: not allowed to raise maximum limit",
        None,
    }
    assert len(own.servers()) == 1


class Unmoved(plays._Moved):
    def move(self) -> None:
        """Leave the test's process where it is."""


def test_what_the_kernel_refuses_is_declined_before_the_play_begins() -> None:
    request = Request(
        arguments=[], environment={}, private="", options=[], numbers=[0, 1, 2], umask=0,
        limits={resource.RLIMIT_NOFILE: (20, 10)}, signals=([], []), niceness=0, affinity=[0],
    )  # fmt: skip
    with socket_pair() as connection:
        moved = Unmoved(connection, request.numbers, [0])
        assert (plays._taken_over(request, moved) or "").startswith("it may not have what the worker has now: ")
        request.numbers = [0, 1, 2, 20]
        assert plays._taken_over(request, moved) == "a descriptor of the play is beyond its limit"


@contextmanager
def socket_pair() -> Iterator[plays.socket.socket]:
    one, other = plays.socket.socketpair()
    with one, other:
        yield one


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import os\nos.umask(0o007)\n", "umask"),
        ("import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)\n", "disposition of signal 10"),
    ],
)
def test_what_a_site_s_python_sets_up_is_left_to_the_plain_command(
    own: Site, tmp_path: Path, text: str, what: str
) -> None:
    library(own, text)
    assert fine(own, tmp_path / "play-1") == (
        f"something that Ansible loads has changed the {what}, as it would for each play"
    )


@pytest.mark.parametrize(("value", "asks"), [("always", True), ("ignore", False)])
def test_where_python_warns_of_what_nobody_has_closed_it_is_the_plain_command_that_ends(
    own: Site, tmp_path: Path, value: str, asks: bool
) -> None:
    own.environment["PYTHONWARNINGS"] = value
    said = {warm: output(own, tmp_path / f"play-{warm}", warm=warm) for warm in (False, True)}
    assert said[True] == said[False]
    assert ("ResourceWarning: unclosed file" in said[True]) is asks


def output(site: Site, private: Path, *, warm: bool) -> str:
    """What a small play says, without the number of a file that nobody has closed."""
    started = site.start(private, "fine.yml", warm=warm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = started.process.communicate()
    return re.sub(r"name=\d+", "", out.decode())


CRASH = """\
import ctypes

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, "notification", "crash"

    def v2_playbook_on_play_start(self, play):
        ctypes.string_at(0)
"""


def test_a_crash_of_python_is_said_where_it_is_asked_for(own: Site, tmp_path: Path) -> None:
    own.environment.update(PYTHONFAULTHANDLER="1", ANSIBLE_CALLBACKS_ENABLED="crash")
    own.file("callback_plugins/crash.py", CRASH)
    for warm in (False, True):
        started = own.start(tmp_path / f"play-{warm}", "fine.yml", warm=warm, stderr=subprocess.PIPE)
        _, said = started.process.communicate()
        assert started.cold() is None
        assert started.process.returncode == -signal.SIGSEGV
        assert said.startswith(b"Fatal Python error: Segmentation fault\n")


def test_a_log_that_has_become_a_directory_is_said_by_the_plain_command(own: Site, tmp_path: Path) -> None:
    log = tmp_path / "ansible.log"
    own.environment["ANSIBLE_LOG_PATH"] = str(log)
    assert fine(own, tmp_path / "play-1") is None
    log.unlink()
    log.mkdir()
    assert fine(own, tmp_path / "play-2") == f"the log {log} cannot be written"


def test_a_temporary_directory_that_cannot_be_made_is_said_as_by_the_plain_command(own: Site, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    own.environment["ANSIBLE_LOCAL_TEMP"] = str(temporary / "local")
    assert fine(own, tmp_path / "play-1") is None
    temporary.rename(tmp_path / "gone")
    temporary.touch()
    said = {}
    for warm in (False, True):
        started = own.start(
            tmp_path / f"play-{warm}", "fine.yml", warm=warm, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        said[warm] = *started.process.communicate(), started.process.returncode
        assert ("it could not begin: " in (started.cold() or "")) is warm
    assert said[True] == said[False]
    assert b"ERROR" in said[True][1]
