# SPDX-License-Identifier: GPL-3.0-or-later
"""How long programs take to start: the command line, a run's first task, a worker."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from benchmarks.measure import Ratio, by_turns
from benchmarks.plays.place import BIN, POOL, Place, environment

STAMP = """\
- name: Tell when it begins
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Tell it
      ansible.builtin.shell: date +%s.%N > {{ bench_file | quote }}
"""
READY = re.compile(rb"@\S+ ready\.")


def measure(place: Place, turns: int) -> Iterator[Ratio]:
    """Against programs of others that start for the same."""
    yield _help(place, turns)
    yield _first_task(place, turns)
    yield _worker(place, max(1, turns // 3))


def _help(place: Place, turns: int) -> Ratio:
    def shown(argv: Sequence[object]) -> None:
        done = subprocess.run(argv, env=environment(), capture_output=True, check=True)  # type: ignore[arg-type]
        assert b"Usage:" in done.stdout, "that is no help"

    sides = {
        "ours": lambda _: shown([BIN / "relengq", "--help"]),
        "celery": lambda _: shown([BIN / "celery", "--help"]),
    }
    times = by_turns(sides, turns)
    return Ratio("relengq --help", "celery --help", times["ours"], times["celery"])


def _first_task(place: Place, turns: int) -> Ratio:
    variables = "{bench_file: '{{ inputs.file }}'}"
    place.write("first", [f"{{name: first, playbook: first.yml, vars: {variables}}}"], first=STAMP)
    found: dict[str, list[float]] = {"ours": [], "plain": []}
    for turn in range(turns + 1):
        for who in found if turn % 2 else reversed(list(found)):
            file = place.made / f"first-{who}-{turn}"
            begun = time.time()
            if who == "ours":
                argv = [BIN / "relengq", "run", "first", "-i", f"file={file}", "--follow"]
                site = place.installation.settings.site
                subprocess.run(argv, cwd=site, env=environment(), capture_output=True, check=True)
            else:
                place.play("first.yml", bench_file=str(file))
            if turn:
                found[who].append(float(file.read_text()) - begun)
    what = "from the command that starts to its first task"
    return Ratio(f"{what}: relengq run", "ansible-playbook", found["ours"], found["plain"])


def _worker(place: Place, turns: int) -> Ratio:
    """Both on the same broker, with two processes each."""
    settings = place.installation.settings
    bare = f"import celery; app = celery.Celery(broker={settings.celery_broker_url!r}); app.worker_main(ARGV)"
    argv = ["worker", "--concurrency=2", "--hostname=bare@%h", "--queues=nobody", "--loglevel=info"]
    celery = [sys.executable, "-c", bare.replace("ARGV", repr(argv))]
    ours = [str(BIN / "relengq"), "worker", POOL, "--hostname=second@%h", "--queues=nobody"]
    times = by_turns({"ours": lambda _: _ready(place, ours), "bare": lambda _: _ready(place, celery)}, turns, warm=0)
    return Ratio("a worker, until it is ready", "a bare Celery worker", times["ours"], times["bare"])


def _ready(place: Place, argv: Sequence[str]) -> None:
    log = place.made / "worker.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            argv, cwd=place.installation.settings.site, env=environment(), stdout=file, stderr=file
        )  # fmt: skip
    place.wait_for(lambda: READY.search(log.read_bytes()), "a worker")
    process.send_signal(signal.SIGTERM)
    process.wait()
