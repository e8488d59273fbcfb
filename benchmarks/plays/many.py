# SPDX-License-Identifier: GPL-3.0-or-later
"""Many runs of one task at once, on a pool of two: how many are finished a minute."""

from __future__ import annotations

import subprocess

from benchmarks.measure import Ratio, by_turns
from benchmarks.plays.place import BIN, WRITE, Place, environment

TARGET = 2.0
SIDE_BY_SIDE = 2


def measure(place: Place, runs: int, turns: int) -> Ratio:
    """Against ``xargs -P 2 ansible-playbook``."""
    variables = "{bench_text: '{{ inputs.text }}', bench_file: '{{ inputs.file }}'}"
    place.write("many", [f"{{name: write, playbook: many.yml, vars: {variables}}}"], many=WRITE)

    def ours(turn: int) -> None:
        started = [
            place.start("many", {"text": str(each), "file": str(place.made / f"many-ours-{turn}-{each}")})
            for each in range(runs)
        ]
        for run_id in started:
            place.await_end(run_id)

    def xargs(turn: int) -> None:
        file = place.made / f"many-xargs-{turn}-N"
        extra = f'{{"bench_text": "N", "bench_file": "{file}"}}'
        program = [BIN / "ansible-playbook", "many.yml", "-e", extra]
        numbers = "\n".join(map(str, range(runs)))
        argv = ["xargs", "-P", str(SIDE_BY_SIDE), "-I", "N", *program]
        with (place.made / "many.log").open("wb") as log:
            subprocess.run(
                argv, input=numbers.encode(), cwd=place.playbooks, env=environment(), stdout=log, check=True
            )  # fmt: skip

    times = by_turns({"ours": ours, "xargs": xargs}, turns, warm=0)
    for turn in range(turns):
        for who in times:
            found = [(place.made / f"many-{who}-{turn}-{each}").read_text() for each in range(runs)]
            assert found == list(map(str, range(runs))), f"{who} has not written every file"
    rates = {who: [runs / seconds * 60 for seconds in found] for who, found in times.items()}
    what = f"{runs} runs of one task on a pool of {SIDE_BY_SIDE}, finished a minute"
    return Ratio(
        what, f"xargs -P {SIDE_BY_SIDE} ansible-playbook", rates["ours"], rates["xargs"], TARGET, at_least=True, unit=""
    )
