# SPDX-License-Identifier: GPL-3.0-or-later
"""A run of several steps, each a play of one task that notes its number: from step to step."""

from __future__ import annotations

import subprocess

from benchmarks.measure import Ratio, by_turns
from benchmarks.plays.place import BIN, Place, environment

TARGET = 0.45
NOTE = """\
- name: Note a number
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Note it
      ansible.builtin.shell: echo {{ bench_text | quote }} >> {{ bench_file | quote }}
"""
LOOP = """\
for number in $(seq "$2"); do
    "$0" note.yml -e "bench_text=$number" -e "bench_file=$1"
done > "$1.log" 2>&1
"""


def measure(place: Place, steps: int, turns: int) -> Ratio:
    """Against a shell's loop of ansible-playbook."""
    numbers = [
        f"{{name: s{each}, playbook: note.yml, vars: {{bench_text: '{each}', bench_file: '{{{{ inputs.file }}}}'}}}}"
        for each in range(1, steps + 1)
    ]
    place.write("chain", numbers, note=NOTE)

    def ours(turn: int) -> None:
        place.run("chain", {"file": str(place.made / f"chain-ours-{turn}")})

    def loop(turn: int) -> None:
        argv = ["sh", "-e", "-c", LOOP, BIN / "ansible-playbook", place.made / f"chain-loop-{turn}", str(steps)]
        subprocess.run(argv, cwd=place.playbooks, env=environment(), check=True)

    times = by_turns({"ours": ours, "loop": loop}, turns)
    expected = [str(each) for each in range(1, steps + 1)]
    for turn in range(turns + 1):
        for who in times:
            noted = (place.made / f"chain-{who}-{turn}").read_text().split()
            assert noted == expected, f"{who} has noted {noted}"
    what = f"a chain of {steps} steps of one task"
    return Ratio(what, "a shell loop of ansible-playbook", times["ours"], times["loop"], TARGET)
