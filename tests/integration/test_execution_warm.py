# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays that a server with Ansible loaded starts: as with the plain command, and how servers come, serve and go."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from relengq.execution import Warm, servers
from relengq.execution.means import host
from relengq.states import AttemptState
from tests.support.plays import Project
from tests.support.processes import ended
from tests.support.waiting import busy, wait_until
from tests.support.warm import PLAY, Heard, Site, fine, own_site

SOON = 1.0
PROBE = """\
import json, locale, multiprocessing, os, resource, signal, sys, threading, time
from ansible import constants as C
from ansible.plugins.callback import CallbackBase
from ansible.utils.color import ANSIBLE_COLOR
from ansible.utils.display import Display

def held(name):
    try:
        return os.readlink(f"/proc/self/fd/{name}").split(":")[0].split("#")[0]
    except OSError:
        return ""  # that by which they are listed

class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, "notification", "probe"

    def v2_playbook_on_play_start(self, play):
        there = play.get_variable_manager().extra_vars.get("there")
        if there is None or "probe" not in there:
            return
        status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
        umask = os.umask(0)
        os.umask(umask)
        streams = (sys.stdin, sys.stdout, sys.stderr)
        hidden = ("RELENGQ_PLAY", "ANSIBLE_LOCAL_TEMP")
        limits = {name: resource.getrlimit(number) for name, number in vars(resource).items() if name[:7] == "RLIMIT_"}
        seen = dict(
            cwd=os.getcwd(), umask=umask, nice=os.nice(0), affinity=sorted(os.sched_getaffinity(0)), limits=limits,
            masks=[status[name] for name in ("SigBlk", "SigIgn", "SigCgt")],
            handlers=[(n, repr(signal.getsignal(n)).split(" at ")[0]) for n in signal.valid_signals()],
            python=[sys.executable, sys.prefix, sys.path, list(sys.flags), sys.argv[1:5], sys.warnoptions],
            command=sys.orig_argv[:6],
            main=sys.modules["__main__"].__file__, locale=locale.setlocale(locale.LC_ALL), zone=time.tzname,
            streams=[(s.name, s.encoding, s.errors, s.line_buffering, s.mode, s.newlines) for s in streams],
            raw=[(type(s.buffer).__name__, getattr(s.buffer, "raw", s.buffer).name, s.write_through) for s in streams],
            same=streams == (sys.__stdin__, sys.__stdout__, sys.__stderr__),
            descriptors=[n for n in range(3, 100) if os.path.exists(f"/proc/self/fd/{n}") and os.get_inheritable(n)],
            held=sorted(held(n) for n in os.listdir("/proc/self/fd") if int(n) > 2),
            links=[os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in (0, 1, 2)],
            session=os.getsid(0) == os.getpid() == os.getpgid(0), threads=threading.active_count(),
            columns=Display().columns, color=ANSIBLE_COLOR, uids=[os.getresuid(), os.getresgid(), os.getgroups()],
            inside=C.DEFAULT_LOCAL_TMP.startswith(os.environ["ANSIBLE_LOCAL_TEMP"] + f"/ansible-local-{os.getpid()}"),
            name=open("/proc/self/comm").read(),
            shown=open("/proc/self/cmdline").read().rstrip("\\0").split("\\0")[:9],
            children=len(multiprocessing.active_children()),
            environment={n: v for n, v in os.environ.items() if n not in hidden},
            mark="RELENGQ_PLAY=" + os.environ["RELENGQ_PLAY"] in open("/proc/self/environ").read().split("\\0"),
        )
        with open(there, "w") as file:
            json.dump(seen, file, default=str)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One for all tests that leave its server as it is."""
    site = Site(tmp_path_factory.mktemp("warm"))
    site.file("callback_plugins/probe.py", PROBE)
    site.file("fine.yml", PLAY + "    - debug: {msg: fine}\n")
    site.file(
        "stays.yml", PLAY + "    - shell: echo $PPID > {{ there }}.new; mv {{ there }}.new {{ there }}; sleep 300\n"
    )
    site.file(
        "asks.yml",
        "- hosts: localhost\n  gather_facts: false\n  vars_prompt: [{name: word}]\n  tasks:\n    - debug: var=word\n",
    )
    return site


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Site]:
    with own_site(tmp_path) as site:
        yield site


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_told", set())


def test_all_that_a_process_inherits_is_as_with_the_plain_command(site: Site, tmp_path: Path) -> None:
    seen = {}
    given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "umask": 0o27}

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, 1000))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.nice(3)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    for name in ("plain", "warm"):
        there = tmp_path / f"probe-{name}"
        words = ("fine.yml", "-e", f"there={there}")
        started = site.start(tmp_path / f"play-{name}", *words, warm=name == "warm", preexec_fn=limits, **given)
        out, err = started.process.communicate()
        assert started.process.returncode == 0, out + err
        assert started.cold() is None
        assert there.exists(), err
        seen[name] = json.loads(there.read_text()) | {"mode": there.stat().st_mode}
        assert list((started.private / "tmp").iterdir()) == []
    assert seen["warm"]["name"].strip() == "ansible-playboo"
    assert seen["warm"]["umask"] == 0o27
    assert seen["warm"] == seen["plain"]


def test_passwords_are_read_from_standard_input(site: Site, tmp_path: Path) -> None:
    said = {}
    for warm in (False, True):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started = site.start(tmp_path / f"play-{warm}", "--ask-become-pass", "asks.yml", warm=warm, **pipes)
        said[warm], _ = started.process.communicate(b"a word\n")
        assert started.process.returncode == 0
        assert started.cold() is None
    assert b"BECOME password" in said[True]
    assert b"Not prompting" in said[True]
    assert said[True] == said[False]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # by pytest -n
def test_prompts_and_signals_of_a_terminal(site: Site, tmp_path: Path) -> None:
    said = {}
    site.file(
        "asks-and-waits.yml",
        site.file("asks.yml", (site.root / "site/asks.yml").read_text()).read_text() + "    - pause: {prompt: go}\n",
    )
    for warm in (False, True):
        controller, terminal = pty.openpty()
        heard = Heard(controller)
        started = site.start(
            tmp_path / f"play-{warm}", "asks-and-waits.yml", warm=warm,
            stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        )  # fmt: skip
        os.close(terminal)
        wait_until(lambda heard=heard: b"word:" in heard.data)
        os.write(controller, b"typed\n")
        wait_until(lambda heard=heard: b"go:" in heard.data)
        os.write(controller, b"\r")
        assert started.process.wait() == 0
        said[warm] = heard.join()
        os.close(controller)
    assert b'"word": "typed"' in said[True]
    assert said[True] == said[False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_play_as_they_end_the_plain_command(site: Site, tmp_path: Path, number: signal.Signals) -> None:
    codes, said = {}, {}
    for warm in (False, True):
        there = tmp_path / f"there-{warm}"
        # Who runs tests under nohup, or in the background of a script, has signals ignored, and so would the play.
        before = signal.signal(number, signal.SIG_DFL)
        started = site.start(
            tmp_path / f"play-{warm}", "stays.yml", "-e", f"there={there}", warm=warm,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        signal.signal(number, before)
        wait_until(there.exists)
        started.process.send_signal(number)
        _, said[warm] = started.process.communicate()
        codes[warm] = started.process.returncode
        assert started.cold() is None
    if number is not signal.SIGTERM:  # which its guard's patience may turn into SIGKILL
        assert codes[True] == codes[False]
    assert 0 not in codes.values()
    assert said[True] == said[False]


@pytest.mark.parametrize("victim", ["stand-in", "guard", "server"])
def test_who_is_killed_takes_the_play_along_unless_it_is_the_server(own: Site, tmp_path: Path, victim: str) -> None:
    own.file(
        "stays.yml", PLAY + "    - shell: touch {{ there }}; exec sleep 2{{ 9999 | random }}.{{ 9999 | random }}\n"
    )
    there = tmp_path / "there"
    started = own.start(tmp_path / "play-x", "stays.yml", "-e", f"there={there}", stdout=subprocess.DEVNULL)
    wait_until(there.exists)
    guard, reaper = map(int, (started.private / "guard.pid").read_text().split())
    assert guard != started.process.pid
    below = psutil.Process(guard).children(recursive=True)
    assert reaper in {each.pid for each in below}
    (server,) = own.servers()
    begun = time.monotonic()
    os.kill({"stand-in": started.process.pid, "guard": guard, "server": server}[victim], signal.SIGKILL)
    if victim == "server":
        wait_until(lambda: own.servers() == [])
        assert all(each.is_running() for each in below)
        started.process.terminate()
    # A guard whose patience with a SIGTERM is over, as on a busy machine, ends it with SIGKILL.
    assert started.process.wait() in {-signal.SIGKILL, -signal.SIGTERM if victim == "server" else -signal.SIGKILL}
    wait_until(lambda: ended(below))
    assert time.monotonic() - begun < busy(SOON)


OWNER = """\
import pathlib, structlog, sys
from tests.support.warm import Site, fine
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
site = Site(pathlib.Path(sys.argv[1]))
assert fine(site, site.root / "play-x") is None
print(*site.servers(), flush=True)
sys.stdin.read()
"""


def test_a_server_ends_with_its_owner(own: Site, tmp_path: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": Path(__file__).parents[2]}
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(own.root)], **pipes)  # type: ignore[call-overload]
    server = psutil.Process(int(owner.stdout.readline()))
    owner.kill()
    owner.communicate()
    begun = time.monotonic()
    wait_until(lambda: ended([server]))
    assert time.monotonic() - begun < busy(SOON)
    wait_until(lambda: list(own.warm.directory.glob("*.server")) == [], what="it has cleared up")


def test_an_edited_configuration_holds_for_the_next_play(own: Site, tmp_path: Path) -> None:
    own.environment["ANSIBLE_CONFIG"] = str(own.file("ansible.cfg", "[defaults]\nverbosity = 0\n"))
    assert fine(own, tmp_path / "play-1") is None
    own.file("ansible.cfg", "[defaults]\nverbosity = 1\n")
    started = own.start(tmp_path / "play-2", "fine.yml", stdout=subprocess.PIPE)
    out, _ = started.process.communicate()
    assert started.cold() is None
    assert out.startswith(b"Using ")
    assert len(own.servers()) == 2


def test_a_server_that_has_loaded_what_has_changed_since_is_replaced(own: Site, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "sitecustomize.py").write_text("WORD = 1\n")
    own.environment["PYTHONPATH"] = str(library)
    wait_until(lambda: fine(own, tmp_path / f"play-{time.monotonic_ns()}") is None)
    (before,) = own.servers()
    (library / "sitecustomize.py").write_text("WORD = 12\n")
    assert fine(own, tmp_path / "play-3") == f"{library}/sitecustomize.py has changed"
    wait_until(lambda: own.servers() == [])
    wait_until(lambda: fine(own, tmp_path / f"play-{time.monotonic_ns()}") is None)
    assert before not in own.servers()


def test_without_its_server_a_play_is_played_by_the_plain_command_which_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path, Warm(tmp_path / "warm", os.getpid()))
    project.tasks("- debug:\n")
    assert project.play()[0].state is AttemptState.SUCCEEDED
    (server,) = servers.running(tmp_path / "warm")
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: servers.running(tmp_path / "warm") == [])
    with capture_logs() as logs:
        for _ in range(2):
            assert project.play()[0].state is AttemptState.SUCCEEDED
    assert [line["reason"] for line in logs if line["action"] == "warm_declined"] == [
        "the server died less than 30 seconds after its start"
    ]
    assert servers.running(tmp_path / "warm") == []
    monkeypatch.setattr(servers, "RESTART_SECONDS", 0.0)
    with capture_logs() as logs:
        assert project.play()[0].state is AttemptState.SUCCEEDED
    assert [line["action"] for line in logs] == ["warm_started"]
    assert servers.running(tmp_path / "warm") not in ([], [server])


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    project = Project(tmp_path, Warm(tmp_path / "warm", os.getpid()))
    project.tasks("- debug:\n")
    project.play()
    (server,) = servers.running(tmp_path / "warm")
    os.kill(server, signal.SIGSTOP)
    with capture_logs() as logs:
        outcome, sink = project.play()
    assert outcome.state is AttemptState.SUCCEEDED
    assert sink.text.count("PLAY RECAP") == 1
    assert [line["reason"] for line in logs] == ["the server did not answer within 10 seconds"]
    wait_until(lambda: servers.running(tmp_path / "warm") == [])


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_ended_while_the_play_goes_on_and_no_other_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "RESTART_SECONDS", 0.0)
    project = Project(tmp_path, Warm(tmp_path / "warm", os.getpid()))
    project.tasks("- debug:\n")
    project.play()
    (server,) = servers.running(tmp_path / "warm")
    os.kill(server, signal.SIGSTOP)
    gate = tmp_path / "gate"
    project.tasks(f"- wait_for: {{path: {gate}, sleep: 1}}\n", name="long.yml")
    with ThreadPoolExecutor() as pool:
        long = pool.submit(project.play, playbook="long.yml")
        wait_until(lambda: servers.running(tmp_path / "warm") == [], 60, "the server is ended at once")
        project.play()
        (replaced,) = servers.running(tmp_path / "warm")
        gate.touch()
        assert long.result()[0].state is AttemptState.SUCCEEDED
    assert servers.running(tmp_path / "warm") == [replaced]


def test_a_directory_that_cannot_be_written_means_the_plain_command(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    project = Project(tmp_path, Warm(tmp_path / "file" / "warm", os.getpid()))
    project.tasks("- debug:\n")
    with capture_logs() as logs:
        assert project.play()[0].state is AttemptState.SUCCEEDED
    assert [line["reason"] for line in logs] == [f"no server can be started in {tmp_path}/file/warm: Not a directory"]


def test_servers_are_few_and_the_unused_give_way(own: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "SERVERS_LIMIT", 1)
    assert fine(own, tmp_path / "play-1") is None
    (first,) = own.servers()
    own.environment["ANSIBLE_FORKS"] = "7"
    with capture_logs() as logs, pytest.raises(AssertionError):
        fine(own, tmp_path / "play-2")
    assert [line["reason"] for line in logs] == ["1 servers with other configurations of Ansible are in use"]
    monkeypatch.setattr(servers, "UNUSED_SECONDS", 0.0)
    assert fine(own, tmp_path / "play-3") is None
    wait_until(lambda: first not in own.servers())
    assert len(own.servers()) == 1


def test_a_server_whose_ansible_prints_while_it_is_loaded_starts_nothing(own: Site, tmp_path: Path) -> None:
    own.environment["ANSIBLE_LOG_PATH"] = str(tmp_path / "site")
    assert "Ansible prints something" in (fine(own, tmp_path / "play-1") or "")


def test_a_log_file_is_written_by_each_play_where_it_is_then(own: Site, tmp_path: Path) -> None:
    log = tmp_path / "ansible.log"
    own.environment["ANSIBLE_LOG_PATH"] = str(log)
    for number in range(2):
        assert fine(own, tmp_path / f"play-{number}") is None
        assert "PLAY RECAP" in log.read_text()
        log.rename(tmp_path / "ansible.log.1")


def test_a_log_that_cannot_be_written_any_more_is_said_by_the_plain_command(own: Site, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    own.environment["ANSIBLE_LOG_PATH"] = str(logs / "ansible.log")
    assert fine(own, tmp_path / "play-1") is None
    shutil.rmtree(logs)
    assert fine(own, tmp_path / "play-2") == f"the log {logs}/ansible.log cannot be written"


CALLBACK = """\
import tempfile

from ansible.plugins.callback import CallbackBase


class Closing:
    def __init__(self, path):
        self.path = path

    def __del__(self):
        open(self.path, "w").write("closed")


class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, "notification", "notes"

    def __init__(self):
        super().__init__()
        self.notes = open("{notes}", "a")
        self.temporary = tempfile.NamedTemporaryFile(dir="{directory}", suffix=".temporary")
        self.closing = Closing("{directory}/closed")

    def v2_playbook_on_stats(self, stats):
        self.notes.write("end\\n")
"""


def test_what_a_plugin_leaves_to_the_end_of_python_is_done(own: Site, tmp_path: Path) -> None:
    """It writes without closing, has a temporary file, and says goodbye in its ``__del__``."""
    notes = tmp_path / "notes"
    own.file("callback_plugins/notes.py", CALLBACK.replace("{notes}", str(notes)).replace("{directory}", str(tmp_path)))
    own.environment["ANSIBLE_CALLBACKS_ENABLED"] = "notes"
    assert fine(own, tmp_path / "play-1") is None
    assert notes.read_text() == "end\n"
    assert list(tmp_path.glob("*.temporary")) == []
    assert (tmp_path / "closed").read_text() == "closed"


def test_a_thread_of_what_ansible_loads_is_a_reason_for_the_plain_command(own: Site, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "sitecustomize.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    own.environment["PYTHONPATH"] = str(library)
    wait_until(lambda: "started a thread" in (fine(own, tmp_path / f"play-{time.monotonic_ns()}") or ""))
    assert "has started a thread" in servers.refusals(own.warm.directory)[0]


def test_a_module_of_the_site_may_be_called_as_one_of_ours(own: Site, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "guard.py").write_text("WORD = 'their own'\n")
    own.environment["PYTHONPATH"] = str(library)
    own.file("filter_plugins/word.py", "import guard\n\nclass FilterModule:\n    def filters(self):\n"
             "        return {'word': lambda _: guard.WORD}\n")  # fmt: skip
    own.file("word.yml", '- hosts: localhost\n  gather_facts: false\n  tasks: [{debug: {msg: "{{ 1 | word }}"}}]\n')
    wait_until(lambda: fine(own, tmp_path / f"play-{time.monotonic_ns()}") is None)
    started = own.start(tmp_path / "play-1", "word.yml", stdout=subprocess.PIPE)
    out, _ = started.process.communicate()
    assert started.cold() is None
    assert b"their own" in out


def test_a_configuration_in_a_home_of_the_pool_s_own_holds_once_it_is_there(own: Site, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    own.environment["HOME"] = str(home)
    assert fine(own, tmp_path / "play-1") is None
    (home / ".ansible.cfg").write_text("[defaults]\nverbosity = 1\n")
    assert fine(own, tmp_path / "play-2") == f"{home}/.ansible.cfg has changed"


def test_the_server_knows_nothing_of_the_values_that_plays_get(tmp_path: Path) -> None:
    project = Project(tmp_path, Warm(tmp_path / "warm", os.getpid()))
    project.tasks("- debug: {msg: '{{ word }}'}\n")
    secret = "".join(("s3", "cret-", str(os.getpid())))
    _, sink = project.play(variables={"word": secret})
    assert secret in sink.text
    (server,) = servers.running(tmp_path / "warm")
    assert secret.encode() not in memory(server)
    assert not any(secret.encode() in path.read_bytes() for path in (tmp_path / "warm").rglob("*") if path.is_file())


def memory(pid: int) -> bytes:
    """All that a process can write."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            if rights.startswith("rw"):
                first, last = (int(each, 16) for each in span.split("-"))
                file.seek(first)
                found.append(file.read(last - first))
    return b"".join(found)


def test_a_playbook_of_a_playbook(tmp_path: Path) -> None:
    said = {}
    for name, warm in (("plain", None), ("warm", Warm(tmp_path / "warm", os.getpid()))):
        project = Project(tmp_path / "project", warm)
        project.file("inner.yml", PLAY + "    - debug: {msg: inner}\n")
        project.tasks(
            """
            - command: ansible-playbook -i localhost, -c local inner.yml
              register: r
            - debug: {var: r.stdout_lines}
            """
        )
        outcome, sink = project.play()
        assert outcome.state is AttemptState.SUCCEEDED, sink.text
        said[name] = sink.text
    # It inherits ansible-runner's callback, whose events have numbers that differ each time.
    plain, warmed = (re.sub(r"[A-Za-z0-9+/=]{60,}", "...", said[name]) for name in ("plain", "warm"))
    assert "inner" in warmed
    assert warmed == plain


def test_plays_side_by_side(site: Site, tmp_path: Path) -> None:
    plays = [site.start(tmp_path / f"play-{n}", "fine.yml", stdout=subprocess.DEVNULL) for n in range(6)]
    assert [each.process.wait() for each in plays] == [0] * 6
    assert [each.cold() for each in plays] == [None] * 6


def test_memory_stays_flat(site: Site, tmp_path: Path) -> None:
    flat(site, tmp_path, 50)


@pytest.mark.long
@pytest.mark.timeout(0)
def test_memory_stays_flat_for_long(site: Site, tmp_path: Path) -> None:
    flat(site, tmp_path, int(os.environ.get("WARM_PLAYS", "10000")))


def flat(site: Site, tmp_path: Path, count: int) -> None:
    """After some plays that warm up, the server has at the end what it had, but for a MiB, and as many descriptors."""
    counts = iter(range(count + 10))
    play = partial(start_two, site, tmp_path, counts)
    for _ in range(5):
        play()
    (pid,) = site.servers()
    server = psutil.Process(pid)
    before, descriptors = server.memory_info().rss, server.num_fds()
    for _ in range(count // 2):
        play()
    assert site.servers() == [pid]
    assert server.memory_info().rss - before < 1 << 20
    wait_until(lambda: server.num_fds() == descriptors)
    wait_until(lambda: server.children() == [])


def start_two(site: Site, tmp_path: Path, counts: Iterator[int]) -> None:
    plays = [site.start(tmp_path / f"play-{next(counts)}", "fine.yml", stdout=subprocess.DEVNULL) for _ in range(2)]
    for each in plays:
        assert each.process.wait() == 0
        assert each.cold() is None


@pytest.mark.parametrize("kept_by", ["the kernel", "the guard"])
def test_a_play_beyond_its_memory_is_ended(tmp_path: Path, kept_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kept_by == "the guard":
        without = replace(host(), memory_v1="", memory_v2="")
        monkeypatch.setattr("relengq.execution.door.host", lambda: without)
    project = Project(tmp_path, Warm(tmp_path / "warm", os.getpid()))
    project.tasks(
        """
        - name: grows
          command: "{{ ansible_playbook_python }} -c 'x = bytearray(600 << 20); import time; time.sleep(60)'"
        """
    )
    with capture_logs() as logs:
        outcome, _ = project.play(memory=400 << 20)
    assert outcome.state is AttemptState.FAILED
    assert "memory limit" in (outcome.message or "")
    assert [line["action"] for line in logs] == ["warm_started"]
