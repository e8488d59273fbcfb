# SPDX-License-Identifier: GPL-3.0-or-later
"""What the settings of the shipped ansible.cfg give, each against Ansible's own default, by ansible-playbook alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping

from benchmarks.measure import Ratio, by_turns
from benchmarks.plays.place import BIN, INVENTORY, Place, environment

MODULES = """\
- name: Several modules
  hosts: localhost
  tasks:
    - name: Run it
      ansible.builtin.command: {argv: [echo, hello]}
      loop: "{{ range(MODULES) | list }}"
"""
FACTS = """\
- name: Needs facts of the host
  hosts: localhost
  gather_facts: GATHER
  tasks:
    - name: Look at one
      ansible.builtin.assert: {that: ansible_facts.distribution | length > 0}
"""
WAITING = """\
- name: Hosts that are waited for
  hosts: all
  gather_facts: false
  tasks:
    - name: Wait
      ansible.builtin.raw: sleep 1
"""


def measure(place: Place, hosts: int, modules: int, turns: int) -> Iterator[Ratio]:
    """A row for each setting."""
    playbooks = place.playbooks
    (playbooks / "modules.yml").write_text(MODULES.replace("MODULES", str(modules)))
    for name, gather in (("gathered", "true"), ("cached", "false")):
        (playbooks / f"{name}.yml").write_text(FACTS.replace("GATHER", gather))
    (playbooks / "waiting.yml").write_text(WAITING)
    (playbooks / "waiting-hosts.yml").write_text(
        INVENTORY.replace("    localhost:\n", "".join(f"    h{each}:\n" for each in range(hosts)))
    )
    cache = {"ANSIBLE_CACHE_PLUGIN_CONNECTION": str(place.made / "facts")}
    _play(place, "gathered.yml", cache)
    many, waiting = f"a play of {modules} modules", f"{hosts} hosts that are waited for"
    yield _row(place, turns, f"pipelining: {many}", "pipelining off", "modules.yml", {"ANSIBLE_PIPELINING": "false"})
    gathering = {"ANSIBLE_GATHERING": "implicit"}
    yield _row(place, turns, f"gathering = explicit: {many}", "implicit", "modules.yml", gathering)
    sides = {
        "ours": lambda _: _play(place, "cached.yml", cache),
        "theirs": lambda _: _play(place, "gathered.yml", cache),
    }
    times = by_turns(sides, turns)
    yield Ratio("fact_caching: a play that reads a fact", "gathering it again", times["ours"], times["theirs"])
    for forks, size in ((10, 2), (20, 1)):
        sides = {
            "ours": lambda _, forks=forks: _play(place, "waiting.yml", {"ANSIBLE_FORKS": str(forks)}),
            "theirs": lambda _: _play(place, "waiting.yml", {"ANSIBLE_FORKS": "5"}),
        }
        times = by_turns(sides, turns)
        what = f"forks = {forks}, as for a pool with concurrency {size}: {waiting}"
        yield Ratio(what, "forks = 5", times["ours"], times["theirs"])


def _row(place: Place, turns: int, what: str, against: str, playbook: str, other: Mapping[str, str]) -> Ratio:
    sides = {"ours": lambda _: _play(place, playbook, {}), "theirs": lambda _: _play(place, playbook, other)}
    times = by_turns(sides, turns)
    return Ratio(what, against, times["ours"], times["theirs"])


def _play(place: Place, playbook: str, variables: Mapping[str, str]) -> None:
    argv = [BIN / "ansible-playbook", playbook]
    if playbook == "waiting.yml":
        argv += ["--inventory", "waiting-hosts.yml"]
    done = subprocess.run(
        argv, cwd=place.playbooks, env={**environment(), **variables}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == os.EX_OK, done.stdout
