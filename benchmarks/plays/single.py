# SPDX-License-Identifier: GPL-3.0-or-later
"""A play of one task, one after the other: from the call that starts a run to its stored result."""

from __future__ import annotations

from benchmarks.measure import Ratio, by_turns
from benchmarks.plays.place import WRITE, Place

TARGET = 0.5


def measure(place: Place, turns: int) -> Ratio:
    """Against ansible-playbook on the same play."""
    variables = "{bench_text: '{{ inputs.text }}', bench_file: '{{ inputs.file }}'}"
    place.write("single", [f"{{name: write, playbook: single.yml, vars: {variables}}}"], single=WRITE)

    def ours(turn: int) -> None:
        place.run("single", {"text": f"turn {turn}", "file": str(place.made / f"single-ours-{turn}")})

    def plain(turn: int) -> None:
        place.play("single.yml", bench_text=f"turn {turn}", bench_file=str(place.made / f"single-plain-{turn}"))

    times = by_turns({"ours": ours, "plain": plain}, turns)
    for turn in range(turns + 1):
        texts = {(place.made / f"single-{who}-{turn}").read_text() for who in times}
        assert texts == {f"turn {turn}"}, "the two have not done the same"
    return Ratio(
        "a play of one task, from run to stored result", "ansible-playbook", times["ours"], times["plain"], TARGET
    )
