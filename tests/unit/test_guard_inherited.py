# SPDX-License-Identifier: GPL-3.0-or-later
"""What a process takes over from the one that starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ABOVE = Path(__file__).parents[2] / "relengq/execution"
SHOW = """\
import json, sys
sys.path.append(sys.argv[1])
from guard.inherited import inherited, touched
print(json.dumps([inherited(), sorted(touched())]))
"""


def seen(change: str = "") -> tuple[dict[str, str], list[int]]:
    """In a Python of its own, after the change."""
    said = subprocess.check_output([sys.executable, "-I", "-S", "-c", f"{change}\n{SHOW}", str(ABOVE)])
    state, touched = json.loads(said)
    return state, touched


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    state, touched = seen()
    assert touched == []
    return state


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("import os; os.umask(0o006)", "umask"),
        ("import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (100, r.getrlimit(r.RLIMIT_NOFILE)[1]))", "limits"),
        ("import os; os.nice(2)", "niceness"),
        ("import signal as s; s.signal(s.SIGUSR2, s.SIG_IGN)", "ignored signals"),
        ("import signal as s; s.pthread_sigmask(s.SIG_BLOCK, [s.SIGUSR2])", "blocked signals"),
    ],
)
def test_what_was_changed_is_seen(before: dict[str, str], change: str, name: str) -> None:
    after, touched = seen(change)
    assert [each for each in before if after[each] != before[each]] == [name]
    assert touched == []


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ("import signal as s; s.signal(s.SIGUSR1, print)", [10]),
        ("import signal as s; s.signal(s.SIGINT, s.SIG_DFL)", [2]),
        ("import signal as s; s.signal(s.SIGINT, print)", [2]),
        ("import signal as s; s.signal(s.SIGPIPE, s.SIG_DFL)", [13]),
        ("import faulthandler; faulthandler.register(12)", [12]),
        ("import faulthandler; faulthandler.enable()", []),
    ],
)
def test_signals_that_would_do_something_else_are_seen(before: dict[str, str], change: str, touched: list[int]) -> None:
    assert seen(change) == (before, touched)
