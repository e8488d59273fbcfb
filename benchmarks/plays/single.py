# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays of one task, one after the other: from the call that starts a run to its stored result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Ratio, by_turns
from benchmarks.plays.place import DEBUG, WRITE, Place

TARGET = 0.5


def measure(place: Place, turns: int) -> Iterator[Ratio]:
    """Against ansible-playbook on the same play: one that starts no process of its own, and one that starts modules."""
    yield _measured(place, turns, "says", DEBUG)
    yield _measured(place, turns, "writes", WRITE)


def _measured(place: Place, turns: int, does: str, playbook: str) -> Ratio:
    name = f"single-{does}"
    variables = "{bench_text: '{{ inputs.text }}', bench_file: '{{ inputs.file }}'}"
    place.write(name, [f"{{name: write, playbook: {name}.yml, vars: {variables}}}"], **{name: playbook})
    done: dict[str, list[str]] = {"ours": [], "plain": []}

    def file(who: str, turn: int) -> Path:
        return place.made / f"{name}-{who}-{turn}"

    def ours(turn: int) -> None:
        done["ours"].append(place.run(name, {"text": f"turn {turn}.", "file": str(file("ours", turn))}))

    def plain(turn: int) -> None:
        log = file("log", turn)
        place.play(f"{name}.yml", log, bench_text=f"turn {turn}.", bench_file=str(file("plain", turn)))
        done["plain"].append(log.read_text())

    times = by_turns({"ours": ours, "plain": plain}, turns)
    for turn in range(turns + 1):
        wanted = f"turn {turn}."
        if does == "writes":
            same = {file(who, turn).read_text() for who in times} == {wanted}
        else:
            same = wanted in place.output(done["ours"][turn]) and wanted in done["plain"][turn]
        assert same, "the two have not done the same"
    what = f"a play of one task that {does} something, from run to stored result"
    return Ratio(what, "ansible-playbook", times["ours"], times["plain"], TARGET)
