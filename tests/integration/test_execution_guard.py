# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard process by itself: what it passes through, and that nothing outlives it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relengq.execution import guard as guard_module
from relengq.execution.processes import MARK, Guard, sweep
from tests.support.plays import STUBBORN, alive
from tests.support.waiting import wait_until

SOON = 1.0
"""Seconds within which everything is gone."""


def start(private: Path, *command: str, **more: object) -> tuple[Guard, subprocess.Popen[bytes]]:
    private.mkdir(exist_ok=True)
    guard = Guard(private, command)
    return guard, subprocess.Popen(guard.command, **more)  # type: ignore[call-overload, no-any-return]


def python(private: Path, code: str, **more: object) -> tuple[Guard, subprocess.Popen[bytes]]:
    return start(private, sys.executable, "-c", code, **more)


@pytest.fixture
def private(tmp_path: Path) -> Path:
    return tmp_path / "private"


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
def test_exit_codes_pass_through(private: Path, code: int) -> None:
    assert python(private, f"raise SystemExit({code})")[1].wait() == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_deadly_signal_passes_through(private: Path, number: signal.Signals) -> None:
    assert python(private, f"import os; os.kill(os.getpid(), {int(number)})")[1].wait() == -number


def test_streams_directory_environment_and_signal_dispositions_are_as_with_the_plain_command(
    private: Path, tmp_path: Path
) -> None:
    code = (
        "import os, sys; status = open('/proc/self/status').read().splitlines();"
        "masks = [line for line in status if line.startswith(('SigBlk', 'SigIgn'))];"
        "print(os.getcwd(), os.environ['X'], os.umask(0), sys.stdin.read(), masks); print('err', file=sys.stderr)"
    )
    given = {"cwd": tmp_path, "env": {"X": "é\n2"}, "umask": 0o27, "text": True, "capture_output": True, "input": "in"}
    private.mkdir()
    guard = Guard(private, [sys.executable, "-c", code])
    guarded = subprocess.run(guard.command, check=True, **given)  # type: ignore[call-overload]
    plain = subprocess.run([sys.executable, "-c", code], check=True, **given)  # type: ignore[call-overload]
    assert (guarded.stdout, guarded.stderr) == (plain.stdout, plain.stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH])
def test_signals_are_passed_on(private: Path, tmp_path: Path, number: signal.Signals) -> None:
    ready = tmp_path / "ready"
    code = (
        f"import signal, pathlib; signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}]);"
        f"pathlib.Path({str(ready)!r}).touch(); raise SystemExit(signal.sigwait([{int(number)}]))"
    )
    _, process = python(private, code)
    wait_until(ready.exists)
    process.send_signal(number)
    assert process.wait() == number


def test_the_command_has_the_terminal(private: Path) -> None:
    private.mkdir()
    code = "import os; print([os.isatty(n) for n in range(3)], os.ttyname(0) and open('/dev/tty').isatty(), input())"
    child, terminal = pty.fork()
    if not child:
        command = Guard(private, [sys.executable, "-c", code]).command
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


def test_a_command_that_is_not_there_is_said(private: Path) -> None:
    _, process = start(private, "/no/such/program", stderr=subprocess.PIPE)
    _, error = process.communicate()
    assert process.returncode == 127
    assert error.decode() == "ERROR! /no/such/program cannot be started: No such file or directory\n"


def test_a_daemon_does_not_outlive_the_command(private: Path, pids: Path) -> None:
    _, process = python(private, daemon(pids))
    started = time.monotonic()
    assert process.wait() == 0
    assert list(pids.glob("*.pid"))
    assert alive(pids) == []
    assert time.monotonic() - started < SOON + 2


def test_a_stop_ends_the_whole_tree(private: Path, pids: Path) -> None:
    guard, process = python(private, daemon(pids) * 3 + "time.sleep(300)")
    wait_until(lambda: len(alive(pids)) == 3)
    started = time.monotonic()
    assert guard.stop()
    assert process.wait() == -signal.SIGTERM
    assert time.monotonic() - started < SOON
    assert alive(pids) == []
    guard.close()


def test_those_who_listen_get_the_time_to_say_goodbye(private: Path, tmp_path: Path) -> None:
    ready, status = tmp_path / "ready", tmp_path / "STATUS"
    code = (
        "import signal, pathlib, time\n"
        f"def end(*_): time.sleep(0.1); pathlib.Path({str(status)!r}).write_text('TERMINATED'); raise SystemExit(9)\n"
        f"signal.signal(signal.SIGTERM, end); pathlib.Path({str(ready)!r}).touch(); time.sleep(300)"
    )
    guard, process = python(private, code)
    wait_until(ready.exists)
    guard.stop()
    assert process.wait() == 9
    assert status.read_text() == "TERMINATED"
    guard.close()


def test_a_fork_storm_is_ended(private: Path, pids: Path) -> None:
    storm = (
        "import os, time\n"
        "for _ in range(40):\n"
        "    if not os.fork():\n"
        "        while True:\n"
        "            if os.fork(): os._exit(0)\n"
        "            os.setsid(); time.sleep(0.02)\n"
        f"open({str(pids / 'ready')!r}, 'w').close(); time.sleep(300)"
    )
    mark = {MARK: private.name + "-storm"}
    guard, process = python(private, storm, env={**os.environ, **mark})
    wait_until((pids / "ready").exists)
    guard.stop()
    process.wait()
    assert sweep(mark[MARK]) == 0
    guard.close()


def test_the_death_of_the_worker_ends_everything_and_removes_its_files(private: Path, pids: Path) -> None:
    private.mkdir()
    (private / "env").mkdir()
    (private / "env" / "secret").write_text("s3cret")
    (private / "link").symlink_to(pids)
    code = (
        "import subprocess, sys, time; from pathlib import Path; from relengq.execution.processes import Guard\n"
        f"guard = Guard(Path({str(private)!r}), [sys.executable, '-c', {daemon(pids) + 'time.sleep(300)'!r}])\n"
        "subprocess.run(guard.command)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: alive(pids))
    started = time.monotonic()
    worker.kill()
    worker.wait()
    wait_until(lambda: not alive(pids) and not private.exists(), timeout=5)
    assert time.monotonic() - started < SOON
    assert pids.exists()


def test_a_worker_that_died_before_the_guard_began_starts_nothing(private: Path, tmp_path: Path) -> None:
    private.mkdir()
    touched = tmp_path / "touched"
    command = Guard(private, ["touch", str(touched)]).command
    command[command.index(str(os.getpid()))] = "1"
    if os.getppid() == 1:
        pytest.skip("the test's own parent is process 1")
    assert subprocess.run(command, check=False).returncode == 0
    assert not touched.exists()
    assert not private.exists()


def test_what_a_killed_guard_leaves_is_swept(private: Path, pids: Path) -> None:
    mark = f"{private.parent.name}-swept"
    guard, process = python(private, daemon(pids) + "time.sleep(300)", env={**os.environ, MARK: mark})
    wait_until(lambda: alive(pids))
    process.kill()
    process.wait()
    started = time.monotonic()
    assert sweep(mark) >= 1
    wait_until(lambda: not alive(pids))
    assert time.monotonic() - started < SOON
    assert sweep(mark) == 0
    guard.close()


def test_a_stop_comes_too_late_or_too_early_without_harm(private: Path) -> None:
    private.mkdir()
    guard = Guard(private, ["true"])
    assert not guard.stop()
    subprocess.run(guard.command, check=True)
    assert guard.stop()
    guard.close()


def test_the_guard_needs_the_standard_library_only() -> None:
    code = f"import sys; sys.argv = ['x']; exec(open({guard_module.__file__!r}).read(), {{'__name__': 'guard'}})"
    subprocess.run([sys.executable, "-I", "-S", "-E", "-c", code], check=True)
