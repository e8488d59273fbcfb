# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor: start in order, pass lines on, start again what dies, stop all, leave nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from relengq.errors import Unavailable
from relengq.supervisor import Child, Supervisor
from tests.support.processes import alive
from tests.support.waiting import wait_until

SLEEP = "import time; time.sleep(600)"


class Lines(list[tuple[str, str]]):
    """What the supervisor said."""

    def __call__(self, name: str, line: str) -> None:
        self.append((name, line))

    def of(self, name: str) -> list[str]:
        return [line for each, line in self if each == name]


def python(name: str, code: str, **options: object) -> Child:
    return Child(name, [sys.executable, "-c", code], **options)  # type: ignore[arg-type]


@pytest.fixture
def lines() -> Lines:
    return Lines()


def watch_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    """Let the supervisor work until the condition holds."""

    def holds() -> bool:
        supervisor.watch(0.02)
        return condition()

    wait_until(holds)


def test_lines_come_with_the_name_of_their_child(lines: Lines) -> None:
    with Supervisor(lines) as supervisor:
        supervisor.start(python("one", f"import sys; print('out', flush=True); sys.stderr.write('err\\n'); {SLEEP}"))
        supervisor.start(python("two", f"print('two', flush=True); {SLEEP}"))
        watch_until(supervisor, lambda: len(lines) == 3)
    assert sorted(lines.of("one")) == ["err", "out"]
    assert lines.of("two") == ["two"]


def test_a_line_without_an_end_and_a_huge_one_come_in_pieces(lines: Lines) -> None:
    with Supervisor(lines) as supervisor:
        supervisor.start(python("one", "print('x' * 1_000_000, end='')"))
        watch_until(supervisor, lambda: bool(lines.of("up")))
    assert "".join(lines.of("one")) == "x" * 1_000_000


def test_start_waits_until_the_child_is_ready(lines: Lines, tmp_path: Path) -> None:
    sign = tmp_path / "ready"
    with Supervisor(lines) as supervisor:
        code = f"from pathlib import Path; Path({str(sign)!r}).touch(); {SLEEP}"
        supervisor.start(python("slow", code, ready=sign.exists))
        assert sign.exists()


def test_a_child_that_ends_before_it_is_ready_is_said(lines: Lines) -> None:
    with Supervisor(lines) as supervisor, pytest.raises(Unavailable, match="broken ended with 7 before"):
        supervisor.start(python("broken", "raise SystemExit(7)", ready=lambda: False))


def test_what_dies_starts_again(lines: Lines, tmp_path: Path) -> None:
    count = tmp_path / "count"
    code = f"open({str(count)!r}, 'a').write('x'); raise SystemExit(1)"
    with Supervisor(lines) as supervisor:
        supervisor.start(python("frail", code))
        watch_until(supervisor, lambda: count.exists() and count.read_text() == "xx")
    assert lines.of("up")[0] == "frail ended with 1; it starts again in 1 s."


def test_a_higher_stage_stops_first(lines: Lines) -> None:
    code = """if True:
        import os, signal, sys
        # Not print(): the signal may come in the middle of the other one.
        signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"stopped\\n"), sys.exit()))
        print("up", flush=True)
        signal.pause()
    """
    with Supervisor(lines) as supervisor:
        for name, stage in (("broker", 0), ("worker", 1)):
            up = partial(lambda name: "up" in lines.of(name), name)
            supervisor.start(python(name, code, stage=stage, ready=up))
    assert [name for name, line in lines if line == "stopped"] == ["worker", "broker"]


def test_a_child_that_does_not_stop_is_killed_with_its_children(lines: Lines) -> None:
    code = (
        "import signal, subprocess, sys; signal.signal(15, signal.SIG_IGN);"
        f"p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); print(p.pid, flush=True); p.wait()"
    )
    with Supervisor(lines) as supervisor:
        supervisor.start(python("stubborn", code, stop_seconds=0.2, ready=lambda: bool(lines.of("stubborn"))))
    grandchild = int(lines.of("stubborn")[0])
    wait_until(lambda: not alive(grandchild))
    assert "stubborn does not stop; it is killed." in lines.of("up")


@pytest.mark.timeout(60)
def test_a_signal_ends_the_wait_at_once(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relengq.supervisor._QUIET_TICK", 3600.0)
    before = signal.set_wakeup_fd(-1)
    with Supervisor(lines) as supervisor:
        supervisor.start(python("sleeper", SLEEP))
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        supervisor.wait()
        assert supervisor.stopping
    assert signal.set_wakeup_fd(before) == -1, "what was there before is there again"


def test_all_children_end_when_the_supervisor_is_killed() -> None:
    program = f"""if True:
        import sys
        from relengq.supervisor import Child, Supervisor
        with Supervisor(lambda name, line: print(line, flush=True)) as supervisor:
            for name in "ab":
                code = "import os; print(os.getpid(), flush=True); {SLEEP}"
                supervisor.start(Child(name, [sys.executable, "-c", code]))
            supervisor.wait()
    """
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert run.stdout is not None
    with run.stdout:
        children = [int(run.stdout.readline()) for _ in range(2)]
    run.kill()
    run.wait()
    wait_until(lambda: not any(map(alive, children)), what="the children ended as well")
