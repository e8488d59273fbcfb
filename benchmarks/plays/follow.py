# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a follower is behind: from the moment at which a play prints a line to that line on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time

from benchmarks.measure import Figure, percentile
from benchmarks.plays.place import Place

TARGET = 0.5
STAMP = re.compile(rb"stamp (\d+\.\d+)")
CALLBACK = """\
import time

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = '''
name: stamps
type: notification
short_description: Prints when it prints
'''


class CallbackModule(CallbackBase):
    CALLBACK_TYPE, CALLBACK_NAME, CALLBACK_NEEDS_ENABLED = "notification", "stamps", False

    def v2_runner_on_ok(self, result):
        if result._task.get_name() == "Stamp":
            self._display.display("stamp %.6f" % time.time())
"""


def measure(place: Place, lines: int) -> Figure:
    """Follow a play with ``relengq logs --follow`` on a pseudo-terminal."""
    plugins = place.playbooks / "callback_plugins"
    plugins.mkdir(exist_ok=True)
    (plugins / "stamps.py").write_text(CALLBACK)
    place.write("follow", ["{name: follow, playbook: follow.yml}"], follow=_playbook(lines))
    run_id = place.start("follow")
    behind = _follow(place, run_id)
    place.await_end(run_id)
    (plugins / "stamps.py").unlink()
    assert len(behind) == lines, f"{len(behind)} of {lines} lines have come"
    how = "95th percentile, relengq logs --follow"
    return Figure("a line behind, on a follower's screen", how, behind, percentile(behind, 95), "s", TARGET)


def _playbook(lines: int) -> str:
    """Pauses of many lengths, so that lines come at any moment between two looks of the follower."""
    tasks = "".join(
        f"    - {{name: Wait, ansible.builtin.wait_for: {{timeout: 0}}}}\n"
        f"    - {{name: Pause, ansible.builtin.command: sleep {0.05 + (each * 37 % 41) / 100:.2f}}}\n"
        f"    - {{name: Stamp, ansible.builtin.debug: {{msg: x}}}}\n"
        for each in range(lines)
    )
    return f"- name: Stamps\n  hosts: localhost\n  gather_facts: false\n  tasks:\n{tasks}"


def _follow(place: Place, run_id: str) -> list[float]:
    screen, terminal = pty.openpty()
    argv = [sys.executable, "-m", "relengq", "logs", run_id, "--follow"]
    process = subprocess.Popen(argv, cwd=place.installation.settings.site, stdout=terminal, stderr=terminal)
    os.close(terminal)
    behind: list[float] = []
    rest = b""
    try:
        while data := _read(screen):
            now = time.time()
            *whole, rest = (rest + data).split(b"\n")
            behind += [now - float(found[1]) for line in whole if (found := STAMP.search(line))]
    finally:
        os.close(screen)
    assert process.wait() == 0, "following has failed"
    return behind


def _read(screen: int) -> bytes:
    try:
        return os.read(screen, 1 << 16)
    except OSError:  # how Linux tells that nobody has the terminal open any more
        return b""
