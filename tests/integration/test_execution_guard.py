# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard process by itself: what it passes through, and that nothing outlives it."""

from __future__ import annotations

import json
import os
import pty
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from relengq.execution.guard.groups import PREFIX
from relengq.execution.guard.plan import Plan
from relengq.execution.means import GUARD, Host, Means, host
from relengq.execution.private import clear
from relengq.execution.processes import MARK, Guard, end_leftovers, sweep
from tests.support.plays import STUBBORN, alive
from tests.support.waiting import busy, wait_until

SOON = 1.0
"""Seconds within which everything is gone, on a quiet machine."""


HERE = [each for each in Means if host().means(each) is each]
"""The means that this machine has."""


@pytest.fixture(params=HERE)
def plan(request: pytest.FixtureRequest) -> Plan:
    """Every test is one for each means."""
    means: Means = request.param
    return host().plan(means)


Start = Callable[..., tuple[Guard, "subprocess.Popen[bytes]"]]


@pytest.fixture
def start(private: Path, plan: Plan) -> Start:
    def started(*command: str, **more: object) -> tuple[Guard, subprocess.Popen[bytes]]:
        private.mkdir(exist_ok=True)
        guard = Guard(private, command, plan)
        return guard, subprocess.Popen(guard.command, **more)  # type: ignore[call-overload]

    return started


@pytest.fixture
def python(start: Start) -> Start:
    return partial(start, sys.executable, "-c")


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Path]:
    # Control groups are named after it, and tests run side by side.
    path = tmp_path / f"play-{tmp_path.parent.name}-{tmp_path.name}"
    yield path
    assert not [
        each for each in (host().group, host().memory) if each and (Path(each) / f"{PREFIX}{path.name}").exists()
    ]


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    directory = tmp_path / "pids"
    directory.mkdir()
    return directory


def daemon(pids: Path) -> str:
    """Code that starts the stubborn daemon and waits until it is one."""
    return (
        f"import subprocess, sys, time, glob; subprocess.run([sys.executable, '-c', {STUBBORN!r}, {str(pids)!r}])\n"
        f"while not glob.glob({str(pids)!r} + '/*.pid'): time.sleep(0.01)\n"
    )


@pytest.mark.parametrize("code", [0, 1, 4, 250])
def test_exit_codes_pass_through(code: int, python: Start) -> None:
    assert python(f"raise SystemExit({code})")[1].wait() == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_deadly_signal_passes_through(number: signal.Signals, python: Start) -> None:
    assert python(f"import os; os.kill(os.getpid(), {int(number)})")[1].wait() == -number


def test_streams_directory_environment_and_signal_dispositions_are_as_with_the_plain_command(
    private: Path, tmp_path: Path, plan: Plan
) -> None:
    code = (
        "import os, sys; status = open('/proc/self/status').read().splitlines();"
        "masks = [line for line in status if line.startswith(('SigBlk', 'SigIgn'))];"
        "print(os.getcwd(), os.environ['X'], os.umask(0), sys.stdin.read(), masks); print('err', file=sys.stderr)"
    )
    given = {"cwd": tmp_path, "env": {"X": "é\n2"}, "umask": 0o27, "text": True, "capture_output": True, "input": "in"}
    private.mkdir()
    guard = Guard(private, [sys.executable, "-c", code], plan)
    guarded = subprocess.run(guard.command, check=True, **given)  # type: ignore[call-overload]
    plain = subprocess.run([sys.executable, "-c", code], check=True, **given)  # type: ignore[call-overload]
    assert (guarded.stdout, guarded.stderr) == (plain.stdout, plain.stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH])
def test_signals_are_passed_on(tmp_path: Path, number: signal.Signals, python: Start) -> None:
    ready = tmp_path / "ready"
    code = (
        f"import signal, pathlib; signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}]);"
        f"pathlib.Path({str(ready)!r}).touch(); raise SystemExit(signal.sigwait([{int(number)}]))"
    )
    _, process = python(code)
    wait_until(ready.exists)
    process.send_signal(number)
    assert process.wait() == number


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # by pytest -n
def test_the_command_has_the_terminal(private: Path, plan: Plan) -> None:
    private.mkdir()
    code = "import os; print([os.isatty(n) for n in range(3)], os.ttyname(0) and open('/dev/tty').isatty(), input())"
    child, terminal = pty.fork()
    if not child:
        command = Guard(private, [sys.executable, "-c", code], plan).command
        # pty.fork() made a new process, so the guard's parent is the test itself.
        command[command.index(str(os.getpid()))] = str(os.getppid())
        os.execv(command[0], command)
    os.write(terminal, b"typed\n")
    seen = b""
    while b"True typed" not in seen:
        seen += os.read(terminal, 1000)
    assert b"[True, True, True] True typed" in seen
    os.waitpid(child, 0)
    os.close(terminal)


def test_a_command_that_is_not_there_is_said(start: Start) -> None:
    _, process = start("/no/such/program", stderr=subprocess.PIPE)
    _, error = process.communicate()
    assert process.returncode == 127
    assert error.decode() == "ERROR! /no/such/program cannot be started: No such file or directory\n"


def test_a_daemon_does_not_outlive_the_command(pids: Path, python: Start) -> None:
    _, process = python(daemon(pids))
    started = time.monotonic()
    assert process.wait() == 0
    assert list(pids.glob("*.pid"))
    assert alive(pids) == []
    assert time.monotonic() - started < busy(SOON)


def test_a_stop_ends_the_whole_tree(pids: Path, python: Start) -> None:
    guard, process = python(daemon(pids) * 3 + "time.sleep(300)")
    wait_until(lambda: len(alive(pids)) == 3)
    started = time.monotonic()
    assert guard.stop()
    assert process.wait() == -signal.SIGTERM
    assert time.monotonic() - started < busy(SOON)
    assert alive(pids) == []
    guard.close()


def test_those_who_listen_get_the_time_to_say_goodbye(tmp_path: Path, python: Start) -> None:
    ready, status = tmp_path / "ready", tmp_path / "STATUS"
    code = (
        "import signal, pathlib, time\n"
        f"def end(*_): time.sleep(0.1); pathlib.Path({str(status)!r}).write_text('TERMINATED'); raise SystemExit(9)\n"
        f"signal.signal(signal.SIGTERM, end); pathlib.Path({str(ready)!r}).touch(); time.sleep(300)"
    )
    guard, process = python(code)
    wait_until(ready.exists)
    guard.stop()
    assert process.wait() == 9
    assert status.read_text() == "TERMINATED"
    guard.close()


def test_a_fork_storm_is_ended(private: Path, pids: Path, python: Start) -> None:
    storm = (
        "import os, time\n"
        "last = time.monotonic() + 60\n"  # should this test be killed, nobody would ever end its storm
        "for _ in range(20):\n"
        "    if not os.fork():\n"
        "        while time.monotonic() < last:\n"
        "            if os.fork(): os._exit(0)\n"
        "            os.setsid(); time.sleep(0.05)\n"
        "        os._exit(0)\n"
        f"open({str(pids / 'ready')!r}, 'w').close(); time.sleep(300)"
    )
    mark = {MARK: private.name + "-storm"}
    guard, process = python(storm, env={**os.environ, **mark})
    wait_until((pids / "ready").exists)
    guard.stop()
    process.wait()
    assert sweep(mark[MARK]) == 0
    guard.close()


@pytest.fixture
def worker(private: Path, plan: Plan) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """A worker that plays some code, in a directory that it holds."""
    made: list[subprocess.Popen[bytes]] = []

    def started(code: str) -> subprocess.Popen[bytes]:
        private.mkdir()
        worker = (
            "import fcntl, os, subprocess; from pathlib import Path\n"
            "from relengq.execution.guard.plan import Plan; from relengq.execution.processes import MARK, Guard\n"
            f"private = Path({str(private)!r}); fcntl.flock(os.open(private, os.O_RDONLY), fcntl.LOCK_EX)\n"
            f"guard = Guard(private, [{sys.executable!r}, '-c', {code!r}], Plan.of({plan.words()!r}))\n"
            "subprocess.run(guard.command, env={**os.environ, MARK: private.name})"
        )
        made.append(subprocess.Popen([sys.executable, "-c", worker]))
        return made[-1]

    yield started
    for each in made:
        each.kill()
        each.wait()


def test_the_death_of_the_worker_ends_everything_and_removes_its_files(
    private: Path, pids: Path, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    process = worker(daemon(pids) + "time.sleep(300)")
    wait_until(lambda: alive(pids))
    (private / "env").mkdir()
    (private / "env" / "secret").write_text("s3cret")
    (private / "link").symlink_to(pids)
    started = time.monotonic()
    process.kill()
    process.wait()
    wait_until(lambda: not alive(pids) and not private.exists())
    assert time.monotonic() - started < busy(SOON)
    assert pids.exists()


LEAVER = """\
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", {daemon!r}, {pids!r}, *{more!r}], env={{}})
if not os.fork():
    os.setsid()
    subprocess.run([sys.executable, "-c", {daemon!r}, {pids!r}], env={env})
    os._exit(0)
"""


def leave(pids: Path, *more: str, env: str = "{}") -> str:
    """Code that leaves two daemons: one of ``more``'s user, and one whose parent is a fork in a session of its own."""
    return (
        LEAVER.format(daemon=STUBBORN, pids=str(pids), more=more, env=env)
        + f"import glob, time\nwhile len(glob.glob({str(pids)!r} + '/*.pid')) < 2: time.sleep(0.01)\n"
    )


def family(private: Path) -> tuple[int, int]:
    """Guard and reaper."""
    guard, reaper = wait_until((private / "guard.pid").read_text).split()
    return int(guard), int(reaper)


def test_worker_and_guard_killed_at_once_take_with_them_what_left_and_cleared_its_environment(
    private: Path, pids: Path, plan: Plan, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    process = worker(leave(pids) + "time.sleep(300)")
    wait_until(lambda: len(alive(pids)) == 2)
    guard, _ = family(private)
    started = time.monotonic()
    os.kill(process.pid, signal.SIGKILL)
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: not alive(pids))
    assert time.monotonic() - started < busy(SOON)
    process.wait()
    if plan.namespace:
        # The kernel left nobody who could remove it.
        assert clear(private.parent) == [private.name]
    wait_until(lambda: not private.exists())


def test_worker_guard_and_reaper_killed_at_once(
    private: Path, pids: Path, plan: Plan, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    kept = "None" if not plan.words() else "{}"
    process = worker(leave(pids, env=kept).replace("env={})", f"env={kept})") + "time.sleep(300)")
    wait_until(lambda: len(alive(pids)) == 2)
    started = time.monotonic()
    for pid in (process.pid, *family(private)):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    if plan.namespace:
        wait_until(lambda: not alive(pids), what="the kernel ends it, with nobody's help")
    assert clear(private.parent) == [private.name]
    wait_until(lambda: not alive(pids))
    assert time.monotonic() - started < busy(SOON)


def test_a_guard_that_stands_still_can_be_killed_and_takes_the_play_with_it(
    private: Path, pids: Path, python: Start
) -> None:
    guard, process = python(daemon(pids) + "time.sleep(300)")
    wait_until(lambda: alive(pids))
    process.send_signal(signal.SIGSTOP)
    assert guard.stop()
    assert guard.stop(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    wait_until(lambda: not alive(pids))
    end_leftovers(private)
    guard.close()


def test_the_moment_passes_while_the_guard_stands_still(private: Path, pids: Path, python: Start) -> None:
    _, process = python(daemon(pids) + "time.sleep(300)")
    wait_until(lambda: alive(pids))
    process.send_signal(signal.SIGSTOP)
    (private / "until").write_text(f"{time.monotonic():032.6f}")
    wait_until(lambda: not alive(pids))
    process.send_signal(signal.SIGCONT)
    assert process.wait() == -signal.SIGTERM


ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


@ROOT
def test_processes_of_another_user_are_ended(pids: Path, python: Start) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    guard, process = python(leave(pids, str(nobody)) + "time.sleep(300)")
    wait_until(lambda: len(alive(pids)) == 2)
    started = time.monotonic()
    guard.stop()
    process.wait()
    assert alive(pids) == []
    assert time.monotonic() - started < busy(SOON)
    guard.close()


WEAK = ("setpriv", "--bounding-set=-kill,-sys_admin", "--inh-caps=-kill,-sys_admin")
"""Root that may neither signal other users' processes nor make namespaces: what a worker of its own user is like."""


@ROOT
@pytest.mark.skipif(Means.CGROUP not in HERE, reason="this machine has no control groups of version 2")
def test_a_control_group_ends_processes_that_the_worker_may_not_signal(private: Path, pids: Path) -> None:
    private.mkdir()
    nobody = pwd.getpwnam("nobody").pw_uid
    code = leave(pids, str(nobody)) + "time.sleep(300)"
    guard = Guard(private, [sys.executable, "-c", code], host().plan(Means.CGROUP))
    process = subprocess.Popen([*WEAK, *guard.command])  # the same process becomes the guard
    wait_until(lambda: len(alive(pids)) == 2)
    guard.stop()
    process.wait()
    assert alive(pids) == []
    guard.close()


@ROOT
def test_without_the_right_the_next_means_is_used_and_the_reason_is_known(private: Path) -> None:
    told = subprocess.run([*WEAK, sys.executable, "-I", "-S", "-E", GUARD, "--probe"], check=True, capture_output=True)
    found = Host(**json.loads(told.stdout))
    assert found.namespace_refused == "unshare: Operation not permitted"
    assert found.means() is not Means.NAMESPACE
    private.mkdir()
    guard = Guard(private, [sys.executable, "-c", "raise SystemExit(7)"], Plan(namespace=True))
    assert subprocess.run([*WEAK, *guard.command], check=False).returncode == 7


@pytest.mark.skipif(Means.NAMESPACE not in HERE, reason="this machine has no PID namespaces for us")
def test_a_namespace_that_cannot_be_finished_is_done_without(private: Path) -> None:
    private.mkdir()
    words = [str(os.getpid()), str(private), *Plan(namespace=True).words(), "--", "sh", "-c", "exit $((PPID == 1))"]
    code = (
        f"import sys; sys.path.append({str(GUARD.parent.parent)!r}); from guard import cold, reaper\n"
        "def refused(): raise OSError(1, 'refused')\n"
        f"reaper.own_proc = refused; cold.main({words!r})"
    )
    assert subprocess.run([sys.executable, "-I", "-S", "-c", code], check=False).returncode == 0


@pytest.mark.skipif(Means.NAMESPACE not in HERE, reason="this machine has no PID namespaces for us")
def test_in_a_namespace_a_play_sees_its_own_processes_and_all_mounts(private: Path) -> None:
    code = (
        "import os; print(os.getpid() < 9, os.readlink('/proc/self') == str(os.getpid()), os.getppid());"
        "print(*sorted(each.split()[1] for each in open('/proc/self/mounts')))"
    )
    private.mkdir()
    guard = Guard(private, [sys.executable, "-c", code], host().plan())
    first, seen = subprocess.run(guard.command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert first == "True True 1"
    outside = [each.split()[1] for each in Path("/proc/self/mounts").read_text().splitlines()]
    assert seen.split() == sorted([*outside, "/proc"])


@pytest.mark.parametrize("kept_by", ["the kernel", "the guard"])
def test_a_play_that_uses_more_memory_than_it_may_is_ended(private: Path, plan: Plan, pids: Path, kept_by: str) -> None:
    group = (host().memory or None) if kept_by == "the kernel" else None
    limited = Plan(namespace=plan.namespace, group=plan.group, memory_group=group, limit=64 << 20)
    eat = f"import time; {daemon(pids)}eaten = [bytearray(1 << 20) for _ in range(200)]; time.sleep(300)"
    private.mkdir()
    guard = Guard(private, [sys.executable, "-c", eat], limited)
    assert subprocess.run(guard.command, check=False).returncode < 0
    assert guard.exceeded
    assert alive(pids) == []


@pytest.mark.parametrize("kept_by", ["the kernel", "the guard"])
def test_what_processes_share_counts_once(private: Path, kept_by: str) -> None:
    group = (host().memory or None) if kept_by == "the kernel" else None
    code = (
        "import os, time; shared = bytearray(b'x') * (40 << 20)\n"
        "for _ in range(4):\n    if not os.fork(): time.sleep(2); os._exit(0)\n"
        "time.sleep(2)"
    )
    private.mkdir()
    guard = Guard(private, [sys.executable, "-c", code], Plan(memory_group=group, limit=128 << 20))
    assert subprocess.run(guard.command, check=False).returncode == 0
    assert not guard.exceeded


def test_a_worker_that_died_before_the_guard_began_starts_nothing(private: Path, tmp_path: Path, plan: Plan) -> None:
    private.mkdir()
    touched = tmp_path / "touched"
    command = Guard(private, ["touch", str(touched)], plan).command
    command[command.index(str(os.getpid()))] = "1"
    if os.getppid() == 1:
        pytest.skip("the test's own parent is process 1")
    assert subprocess.run(command, check=False).returncode == 0
    assert not touched.exists()
    assert not private.exists()


def test_what_a_killed_guard_leaves_is_ended(private: Path, pids: Path, python: Start) -> None:
    guard, process = python(daemon(pids) + "time.sleep(300)", env={**os.environ, MARK: private.name})
    wait_until(lambda: alive(pids))
    process.kill()
    process.wait()
    started = time.monotonic()
    end_leftovers(private)
    assert alive(pids) == []
    assert time.monotonic() - started < busy(SOON)
    assert sweep(private.name) == 0
    guard.close()


def test_a_stop_comes_too_late_or_too_early_without_harm(private: Path, plan: Plan) -> None:
    private.mkdir()
    guard = Guard(private, ["true"], plan)
    assert not guard.stop()
    subprocess.run(guard.command, check=True)
    assert guard.stop()
    guard.close()


def test_the_guard_needs_the_standard_library_only(private: Path) -> None:
    # -S leaves out site-packages, so anything else would not be found.
    private.mkdir()
    isolated = Guard(private, ["true"]).command
    assert isolated[1:4] == ["-I", "-S", "-E"]
    subprocess.run(isolated, check=True)
