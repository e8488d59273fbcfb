# SPDX-License-Identifier: GPL-3.0-or-later
"""A play of many tasks on many hosts, with the result of each task on each host stored."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import ansible_runner
from sqlalchemy import func, select

from benchmarks.measure import Ratio, by_turns
from benchmarks.plays.place import INVENTORY, Place, environment
from relengq.models import Attempt, TaskResult

PLAIN_TARGET, RUNNER_TARGET = 1.05, 0.75
RECAP = re.compile(r"^(\S+) +: ok=(\d+) .*failed=0", re.MULTILINE)


def measure(place: Place, hosts: int, tasks: int, turns: int) -> Iterator[Ratio]:
    """Against ansible-playbook, and against ansible-runner as its own documentation uses it."""
    names = [f"h{each:03}" for each in range(hosts)]
    (place.playbooks / "wide-hosts.yml").write_text(
        INVENTORY.replace("    localhost:\n", "".join(f"    {each}:\n" for each in names))
    )
    place.write("wide", ["{name: wide, playbook: wide.yml, inventory: wide-hosts.yml}"], wide=_playbook(tasks))
    expected = dict.fromkeys(names, tasks)

    played: list[str] = []
    done: list[ansible_runner.Runner] = []

    def ours(_: int) -> None:
        played.append(place.run("wide"))

    def plain(turn: int) -> None:
        place.play("wide.yml", place.made / f"wide-{turn}.log", "--inventory=wide-hosts.yml")

    def runner(turn: int) -> None:
        private = place.made / f"wide-{turn}"
        private.mkdir()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        made = ansible_runner.run(
            private_data_dir=str(private), project_dir=str(place.playbooks), playbook="wide.yml", quiet=True,
            inventory=str(place.playbooks / "wide-hosts.yml"), envvars={"PATH": environment()["PATH"]},
        )  # fmt: skip
        for number, handler in handlers.items():  # which it has taken over
            signal.signal(number, handler)
        done.append(made)

    times = by_turns({"ours": ours, "plain": plain, "runner": runner}, turns, warm=0)
    for turn in range(turns):
        recap = RECAP.findall((place.made / f"wide-{turn}.log").read_text())
        found = _stored(place, played[turn]), {host: int(count) for host, count in recap}, done[turn].stats["ok"]
        assert found == (expected, expected, expected), "not all have played every task on every host"
    what = f"{hosts} hosts, {tasks} tasks"
    yield Ratio(f"{what}, events stored", "ansible-playbook", times["ours"], times["plain"], PLAIN_TARGET)
    yield Ratio(f"{what}, events stored", "ansible_runner.run", times["ours"], times["runner"], RUNNER_TARGET)


def _playbook(tasks: int) -> str:
    """Facts, and of the others every sixth starts a module, every sixth is a loop, and the rest only says something."""
    kinds = {
        0: "ansible.builtin.command: {argv: [echo, hello]}",
        3: "ansible.builtin.debug: {msg: hi}, loop: [1, 2, 3]",
    }
    body = "    - {name: Task 0, ansible.builtin.setup: {}}\n" + "".join(
        f"    - {{name: Task {each}, {kinds.get(each % 6, 'ansible.builtin.debug: {msg: hi}')}}}\n"
        for each in range(1, tasks)
    )
    return f"- name: Wide\n  hosts: all\n  gather_facts: false\n  tasks:\n{body}"


def _stored(place: Place, run_id: str) -> dict[str, int]:
    with place.installation.database.read() as session:
        attempt = session.scalars(select(Attempt.id).where(Attempt.run_id == run_id)).one()
        query = select(TaskResult.host, func.count().label("tasks")).where(TaskResult.attempt_id == attempt)
        found = session.execute(query.where(TaskResult.status.in_(("ok", "changed"))).group_by(TaskResult.host))
        return {row.host: row.tasks for row in found}
