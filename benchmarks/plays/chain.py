# SPDX-License-Identifier: GPL-3.0-or-later
"""A run of several steps, each a play of one task that says its number: from step to step."""

from __future__ import annotations

import subprocess

from benchmarks.measure import Ratio, by_turns
from benchmarks.plays.place import BIN, DEBUG, SAID, Place, environment

TARGET = 0.45
LOOP = """\
for number in $(seq "$2"); do
    "$0" chain.yml -e "bench_text=$number"
done > "$1" 2>&1
"""


def measure(place: Place, steps: int, turns: int) -> Ratio:
    """Against a shell's loop of ansible-playbook."""
    said = [f"{{name: s{each}, playbook: chain.yml, vars: {{bench_text: '{each}'}}}}" for each in range(1, steps + 1)]
    place.write("chain", said, chain=DEBUG)
    outputs: dict[str, list[str]] = {"ours": [], "loop": []}

    def ours(_: int) -> None:
        outputs["ours"].append(place.output(place.run("chain")))

    def loop(turn: int) -> None:
        log = place.made / f"chain-{turn}.log"
        argv = ["sh", "-e", "-c", LOOP, BIN / "ansible-playbook", log, str(steps)]
        subprocess.run(argv, cwd=place.playbooks, env=environment(), check=True)
        outputs["loop"].append(log.read_text())

    times = by_turns({"ours": ours, "loop": loop}, turns)
    expected = [str(each) for each in range(1, steps + 1)]
    for who, texts in outputs.items():
        assert [SAID.findall(text) for text in texts] == [expected] * (turns + 1), f"{who} has said something else"
    what = f"a chain of {steps} steps of one task"
    return Ratio(what, "a shell loop of ansible-playbook", times["ours"], times["loop"], TARGET)
