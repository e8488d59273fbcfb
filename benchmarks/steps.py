# SPDX-License-Identifier: GPL-3.0-or-later
"""What relengq adds to plain ansible-playbook: a play of one task, and the shipped compose.

Both are done by turns in one run, with the same playbooks, the same Python and the same Ansible, and what they have
made is compared. ``make bench``, or ``python benchmarks/steps.py --plays 15 --composes 3``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from relengq.engine.installation import Installation, at
from relengq.engine.start import Trigger, start
from relengq.errors import DatabaseUnavailable
from relengq.models import Run
from relengq.runs.timeline import alive
from relengq.states import RunState

ROOT = Path(__file__).parents[1]
LOOK_AGAIN = 0.005
"""Seconds between two looks at the database: what is measured is at most so much too long."""
PATIENCE = 300.0

PLAYBOOK = """\
- name: Write a file
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Write it
      ansible.builtin.copy:
        content: "{{ bench_text }}"
        dest: "{{ bench_file }}"
        mode: "0644"
"""
WORKFLOW = """\
inputs:
  text: {type: string}
  file: {type: string}
steps:
  - name: write
    playbook: write.yml
    vars: {bench_text: "{{ inputs.text }}", bench_file: "{{ inputs.file }}"}
"""

Turn = Callable[[int], None]


def main() -> None:
    """Measure what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plays", type=int, default=15, help="plays of one task each; 0: none")
    parser.add_argument("--composes", type=int, default=3, help="composes each; 0: none")
    given = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="relengq-bench-") as directory:
        made = Path(directory)
        place = made / "site"
        for name in ("playbooks", "workers", "beat"):
            shutil.copytree(ROOT / name, place / name)
        (place / "playbooks/write.yml").write_text(PLAYBOOK)
        (place / "playbooks/workflows/write.yml").write_text(WORKFLOW)
        with running(place) as installation:
            if given.plays:
                plays(installation, made, given.plays)
            if given.composes:
                composes(installation, made, given.composes)


def plays(installation: Installation, made: Path, count: int) -> None:
    """A play of one task: from the start of a run to its stored result, and ``ansible-playbook`` alone."""

    def with_relengq(turn: int) -> None:
        run_to_end(installation, "write", {"text": f"turn {turn}", "file": str(made / f"relengq-{turn}")})

    def plain(turn: int) -> None:
        variables = {"bench_text": f"turn {turn}", "bench_file": str(made / f"plain-{turn}")}
        ansible_playbook(installation, "write.yml", variables)

    times = by_turns({"relengq": with_relengq, "plain": plain}, count)
    for turn in range(count + 1):
        texts = {(made / f"{who}-{turn}").read_text() for who in times}
        assert texts == {f"turn {turn}"}, "the two have not done the same"
    report("a play of one task", times)


def composes(installation: Installation, made: Path, count: int) -> None:
    """The shipped compose: as the workflow of ``make demo``, and as one play of ``compose.yml`` alone."""

    def with_relengq(turn: int) -> None:
        run_to_end(installation, "nightly-compose", {"release": "f44", "target_dir": str(made / "relengq")})

    def plain(turn: int) -> None:
        variables = {"compose_release": "f44", "compose_target_dir": str(made / "plain")}
        ansible_playbook(installation, "compose.yml", variables)

    times = by_turns({"relengq": with_relengq, "plain": plain}, count)
    found = {who: packages(made / who / "latest-Fedora-44") for who in times}
    assert found["relengq"] == found["plain"], "the two have not composed the same packages"
    report(f"a compose of {len(found['plain'])} packages, from start to published", times)


def packages(compose: Path) -> list[str]:
    """The packages that a published compose names in its metadata."""
    assert (compose / "STATUS").read_text().strip() == "FINISHED"
    metadata = json.loads((compose / "compose/metadata/rpms.json").read_text())
    found: list[str] = []
    for arches in metadata["payload"]["rpms"].values():
        for arch, sources in arches.items():
            found += [f"{arch} {rpm}" for rpms in sources.values() for rpm in rpms]
    return sorted(found)


def by_turns(sides: Mapping[str, Turn], count: int) -> dict[str, list[float]]:
    """The seconds of each turn of each side. Turn 0 warms up and does not count; who begins changes each turn."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(count + 1):
        order = list(sides) if turn % 2 else list(reversed(sides))
        for name in order:
            begun = time.perf_counter()
            sides[name](turn)
            if turn:
                times[name].append(time.perf_counter() - begun)
    return times


def report(what: str, times: Mapping[str, Sequence[float]]) -> None:
    """Medians, the ratio of the medians, and how far the middle half of the samples spreads."""
    print(f"\n{what}, {len(times['plain'])} samples each")
    for name, seconds in times.items():
        low, _, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else (seconds[0],) * 3
        print(f"  {name:8} median {statistics.median(seconds):6.2f}s, middle half {low:.2f}s to {high:.2f}s")
    pairs = [one / other for one, other in zip(times["relengq"], times["plain"], strict=True)]
    ratio = statistics.median(times["relengq"]) / statistics.median(times["plain"])
    print(f"  ratio    {ratio:.2f} (of single turns: {min(pairs):.2f} to {max(pairs):.2f})")


def run_to_end(installation: Installation, workflow: str, inputs: Mapping[str, object]) -> None:
    """Start a run and wait until its result is stored."""
    started = start(installation, workflow, inputs, Trigger("person", "bench"))
    until = time.monotonic() + PATIENCE
    state = started.state
    while not state.final:
        assert time.monotonic() < until, f"run {started.run_id} is {state}"
        time.sleep(LOOK_AGAIN)
        with installation.database.read() as session:
            state = session.get_one(Run, started.run_id).state
    assert state is RunState.SUCCEEDED, f"run {started.run_id} {state}"


def ansible_playbook(installation: Installation, name: str, variables: Mapping[str, str]) -> None:
    """Play a playbook of the site without relengq, with its output kept in a file as people do."""
    playbooks = installation.settings.site / "playbooks"
    program = Path(sys.executable).parent / "ansible-playbook"
    with (playbooks / "plain.log").open("ab") as log:
        argv = [str(program), name, "--extra-vars", json.dumps(variables)]
        subprocess.run(argv, cwd=playbooks, stdout=log, stderr=log, check=True)


@contextmanager
def running(place: Path) -> Iterator[Installation]:
    """``relengq up`` in the site's directory, once its workers are there."""
    environment = {**os.environ, "RELENGQ_SITE": str(place), "RELENGQ_FLOWER_PORT": "0"}
    with (place / "up.log").open("wb") as log:
        argv = [sys.executable, "-m", "relengq", "up"]
        process = subprocess.Popen(argv, cwd=place, env=environment, stdout=log, stderr=log)
    os.environ["RELENGQ_SITE"] = str(place)
    try:
        installation = at(place)
        await_workers(installation, process)
        yield installation
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def await_workers(installation: Installation, process: subprocess.Popen[bytes]) -> None:
    """Wait until each pool has a living worker."""
    until = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, "relengq up has ended"
        assert time.monotonic() < until, "no workers"
        time.sleep(0.2)
        if not (installation.settings.state_dir / "relengq.db").exists():
            continue
        try:
            with installation.database.read() as session:
                found = {worker.pool for worker in alive(session, installation.database.now(session))}
        except DatabaseUnavailable:  # its tables are still being made
            continue
        if set(installation.site.pools) <= found:
            return


if __name__ == "__main__":
    main()
