# SPDX-License-Identifier: GPL-3.0-or-later
"""A play that says very much: how long until all of it is stored, and what the worker needs for it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType

import psutil

from benchmarks.measure import Figure, Ratio, Row, by_turns
from benchmarks.plays.place import Place

TARGET = 1.2
MEMORY_TARGET = 50.0
LINE = "a line of a long and rather dull log, as programs print them"
MEGABYTE = 1_000_000


def measure(place: Place, megabytes: int, turns: int) -> Iterator[Row]:
    """Against ansible-playbook writing to a file."""
    place.write("output", ["{name: output, playbook: output.yml}"], output=_playbook(megabytes))
    grown: list[float] = []
    played: list[str] = []
    # Once: what the first play has grown by, and nobody gave back, is not forgotten at the second.
    before = resident(place.processes())

    def ours(_: int) -> None:
        with Watch(place.processes(), before) as watch:
            played.append(place.run("output"))
        grown.append(watch.grown / MEGABYTE)

    def plain(_: int) -> None:
        place.play("output.yml", place.made / "output.log")

    times = by_turns({"ours": ours, "plain": plain}, turns)
    printed = hashlib.sha256((place.made / "output.log").read_bytes()).hexdigest()
    stored = {hashlib.sha256(place.output(each).encode()).hexdigest() for each in played}
    assert stored == {printed}, "what is stored is not what ansible-playbook prints"
    size = f"{(place.made / 'output.log').stat().st_size / MEGABYTE:.0f} MB of output"
    yield Ratio(f"{size}, stored", "ansible-playbook > file", times["ours"], times["plain"], TARGET)
    how = "the most of the system's processes, over what they had before the first"
    yield Figure(f"{size}, memory", how, grown, max(grown), "MB", MEMORY_TARGET)


def _playbook(megabytes: int) -> str:
    """A task for each megabyte, in one line of JSON each, as Ansible prints results."""
    said = f"{{{{ ('{LINE}' ~ '\\n') * {MEGABYTE // (len(LINE) + 2)} }}}}"
    tasks = f'    - {{ansible.builtin.debug: {{msg: "{said}"}}}}\n'.replace("\\n", "\\\\n") * megabytes
    return f"- name: Say much\n  hosts: localhost\n  gather_facts: false\n  tasks:\n{tasks}"


class Watch:
    """Looks every few milliseconds how much memory processes have. What they have together counts, not their peaks."""

    def __init__(self, processes: Sequence[psutil.Process], before: int) -> None:
        self._processes = processes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._before = before
        self.grown = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.grown = max(self.grown, resident(self._processes) - self._before)


def resident(processes: Sequence[psutil.Process]) -> int:
    """Bytes of memory that the processes have now."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total
