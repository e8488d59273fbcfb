# SPDX-License-Identifier: GPL-3.0-or-later
"""What the whole system needs while nothing is to do, and whether plays leave something behind in its memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import psutil

from benchmarks.measure import Figure
from benchmarks.plays.output import MEGABYTE, resident
from benchmarks.plays.place import DEBUG, Place

TARGET = 1.0
GROWTH_TARGET = 10.0
IDLE_GROWTH_TARGET = 2.0
_AT_ONCE = 20
_SETTLE = 10.0
"""Seconds after which plays that were measured before are forgotten."""


def measure(place: Place, seconds: float, looks: int = 10) -> Iterator[Figure]:
    """The share of one core that all processes of ``relengq up`` use, the broker among them, and what they grow by."""
    time.sleep(min(5 * seconds, _SETTLE))
    shares = []
    sizes = [resident(place.processes()) / MEGABYTE]
    for _ in range(looks):
        before, begun = _used(place), time.monotonic()
        time.sleep(seconds / looks)
        after, took = _used(place), time.monotonic() - begun
        used = sum(after[pid] - before.get(pid, 0.0) for pid in after)
        shares.append(100 * used / took)
        sizes.append(resident(place.processes()) / MEGABYTE)
    how = f"all of relengq up, for {seconds:g} s"
    yield Figure("idle, share of a core", how, shares, sum(shares) / len(shares), "%", TARGET)
    yield Figure("idle, memory", f"growth, {how}", sizes, sizes[-1] - sizes[0], "MB", IDLE_GROWTH_TARGET)


def _used(place: Place) -> dict[int, float]:
    """Seconds of the processor that each process of the system has used so far, and its children that have ended."""
    used = {}
    for process in place.processes():
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used[process.pid] = times.user + times.system + times.children_user + times.children_system
    return used


def memory(place: Place, plays: int) -> Iterator[Figure]:
    """How much the system's processes have grown from a tenth of the plays to the last of them."""
    place.write("memory", ["{name: say, playbook: memory.yml, vars: {bench_text: x}}"], memory=DEBUG)
    first = max(1, plays // 10)
    _play(place, first)
    samples = [resident(place.processes()) / MEGABYTE]
    for part in range(9):
        _play(place, (plays - first) * (part + 1) // 9 - (plays - first) * part // 9)
        samples.append(resident(place.processes()) / MEGABYTE)
    how = f"growth from play {first:,} to the last"
    grown = samples[-1] - samples[0]
    yield Figure(f"memory of the whole system after {plays:,} plays", how, samples, grown, "MB", GROWTH_TARGET)


def _play(place: Place, plays: int) -> None:
    while plays > 0:
        for run_id in [place.start("memory") for _ in range(min(plays, _AT_ONCE))]:
            place.await_end(run_id)
        plays -= _AT_ONCE
