# SPDX-License-Identifier: GPL-3.0-or-later
"""Output of 100 MB through the whole way, from ansible-runner's pipe to the database and back.

Ansible itself takes minutes for such an output, so a program in its place prints it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from relengq.database import Database
from relengq.logs import Recorder, read
from relengq.states import AttemptState
from tests.support.attempts import running_attempt
from tests.support.plays import Project

LINES = 2_000_000
PROGRAMS = {
    "one line": "for _ in range(1000): sys.stdout.write('x' * 100_000)\nsys.stdout.write('\\n')",
    "lines": f"for n in range({LINES}): sys.stdout.write(f'line number {{n:012d}} of a long and rather dull log\\n')",
    "noise": "for _ in range(500): sys.stdout.buffer.write(os.urandom(66_000))",
}
PLAY = """
import resource, sys
from pathlib import Path
from relengq.logs import Recorder
from relengq.database import Database
from tests.support.plays import Project, never
from relengq.execution import play
root, url, attempt, hidden = sys.argv[1:]
project = Project(Path(root))
order = project.order(environment={"PATH": f"{root}/bin:{Path(sys.executable).parent}:/usr/bin:/bin"}, hidden=(hidden,))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with Recorder(Database(url), int(attempt), 1) as recorder:
    outcome = play(order, recorder, never)
print(outcome.state, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("kind", PROGRAMS)
def test_large_outputs_are_kept_in_little_memory(sqlite_database: Database, tmp_path: Path, kind: str) -> None:
    project = Project(tmp_path)
    project.tasks("- debug:\n")
    program = tmp_path / "bin" / "ansible-playbook"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport os, sys\n{PROGRAMS[kind]}\n")
    program.chmod(0o755)
    attempt = running_attempt(sqlite_database)
    url = str(sqlite_database.url)
    played = subprocess.run(
        [sys.executable, "-c", PLAY, str(tmp_path), url, str(attempt), "no-such-s3cret" * 20],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    state, megabytes = played.stdout.split()
    assert state == AttemptState.SUCCEEDED
    assert int(megabytes) < 80
    kept = hashlib.sha256()
    size = 0
    for text in read(sqlite_database, attempt):
        kept.update(text.encode())
        size += len(text)
    if kind == "noise":
        assert size > 16_000_000
        return
    printed = subprocess.run([program], stdout=subprocess.PIPE, check=True).stdout
    assert kept.hexdigest() == hashlib.sha256(printed).hexdigest()
    assert (
        sum(entry.stat().st_size for entry in os.scandir(Path(str(sqlite_database.url.database)).parent)) < 60_000_000
    )


def test_a_huge_result_is_no_huge_row(sqlite_database: Database, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.tasks(
        """
        - name: huge
          command: "{{ ansible_playbook_python }} -c \\"import sys; sys.exit('e' * 5_000_000)\\""
          ignore_errors: true
        - name: large
          command: "{{ ansible_playbook_python }} -c \\"import sys; sys.exit('e' * 500_000 + 'why')\\""
        """
    )
    attempt = running_attempt(sqlite_database)
    with Recorder(sqlite_database, attempt, 1) as recorder:
        outcome, sink = project.play()
        recorder.output(sink.text)
    assert "result was too large" in (sink.named("huge").message or "")
    message = sink.named("large").message or ""
    assert message.startswith("non-zero return code: eee")
    assert message.endswith("eeewhy")
    assert len(message) < 10_200
    assert len(outcome.message or "") < 10_200
    assert sum(map(len, read(sqlite_database, attempt))) > 5_500_000


def test_a_huge_result_that_is_well_costs_no_event(sqlite_database: Database, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.tasks(
        """
        - name: huge
          command: "{{ ansible_playbook_python }} -c \\"print('e' * 10_000_000)\\""
        - name: hands on
          set_stats: {data: {size: "{{ 7 * 6 }}", large: "{{ 'x' * 3_000_000 }}"}}
        """
    )
    outcome, sink = project.play()
    assert (sink.named("huge").status, sink.named("huge").changed) == ("changed", True)
    assert str(outcome.outputs["size"]) == "42"
    assert len(str(outcome.outputs["large"])) == 3_000_000
