# SPDX-License-Identifier: GPL-3.0-or-later
"""Many runs of one task at once, on a pool of two: how many are finished a minute."""

from __future__ import annotations

import subprocess

from benchmarks.measure import Ratio, by_turns
from benchmarks.plays.place import BIN, DEBUG, SAID, Place, environment

TARGET = 2.0
SIDE_BY_SIDE = 2


def measure(place: Place, runs: int, turns: int) -> Ratio:
    """Against ``xargs -P 2 ansible-playbook``."""
    place.write("many", ["{name: say, playbook: many.yml, vars: {bench_text: '{{ inputs.text }}'}}"], many=DEBUG)
    started: list[list[str]] = []
    logs: list[str] = []

    def ours(_: int) -> None:
        started.append([place.start("many", {"text": str(each)}) for each in range(runs)])
        for run_id in started[-1]:
            place.await_end(run_id)

    def xargs(turn: int) -> None:
        argv = ["xargs", "-P", str(SIDE_BY_SIDE), "-I", "N", BIN / "ansible-playbook", "many.yml", "-e", "bench_text=N"]
        file = place.made / f"many-{turn}.log"
        numbers = "\n".join(map(str, range(runs)))
        with file.open("ab") as log:  # two append to it
            subprocess.run(
                argv, input=numbers.encode(), cwd=place.playbooks, env=environment(), stdout=log, check=True
            )  # fmt: skip
        logs.append(file.read_text())

    times = by_turns({"ours": ours, "xargs": xargs}, turns, warm=0)
    expected = [[str(each)] for each in range(runs)]
    for run_ids, log in zip(started, logs, strict=True):
        assert [SAID.findall(place.output(each)) for each in run_ids] == expected, "a run has said something else"
        assert sorted(SAID.findall(log), key=int) == [each for [each] in expected], "xargs has said something else"
    rates = {who: [runs / seconds * 60 for seconds in found] for who, found in times.items()}
    what = f"{runs} runs of one task on a pool of {SIDE_BY_SIDE}, finished a minute"
    return Ratio(
        what, f"xargs -P {SIDE_BY_SIDE} ansible-playbook", rates["ours"], rates["xargs"], TARGET, at_least=True, unit=""
    )
