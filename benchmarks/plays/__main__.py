# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure every row, print the table, and write it where the manual shows it; exit code 1 when a target is missed."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import structlog

from benchmarks import plays
from benchmarks.measure import Row, as_rst, as_text
from benchmarks.plays import chain, compose, defaults, follow, idle, many, output, single, starts, wide
from benchmarks.plays.place import ROOT, Place, running, write_site

FILE = ROOT / "docs/measured.inc"
_PACKAGES = ("relengq", "ansible-core", "ansible-runner", "celery", "SQLAlchemy")


@dataclass(frozen=True)
class Sizes:
    """How much is measured: turns of each side, and how large a turn is."""

    turns: int = 15
    chain: int = 10
    chains: int = 5
    runs: int = 200
    many: int = 3
    hosts: int = 20
    tasks: int = 61
    wide: int = 3
    megabytes: int = 100
    outputs: int = 5
    lines: int = 100
    idle: float = 60.0
    plays: int = 10_000
    composes: int = 3
    defaults: int = 5
    modules: int = 10


QUICK = Sizes(1, 3, 1, 4, 1, 2, 7, 1, 1, 1, 3, 2.0, 10, 0, 1, 2)
Part = Callable[[Place, Sizes], Iterator[Row]]


def _one(row: Row) -> Iterator[Row]:
    yield row


PARTS: dict[str, Part] = {
    "single": lambda place, sizes: single.measure(place, sizes.turns),
    "chain": lambda place, sizes: _one(chain.measure(place, sizes.chain, sizes.chains)),
    "many": lambda place, sizes: _one(many.measure(place, sizes.runs, sizes.many)),
    "wide": lambda place, sizes: wide.measure(place, sizes.hosts, sizes.tasks, sizes.wide),
    "output": lambda place, sizes: output.measure(place, sizes.megabytes, sizes.outputs),
    "follow": lambda place, sizes: _one(follow.measure(place, sizes.lines)),
    "idle": lambda place, sizes: idle.measure(place, sizes.idle),
    "starts": lambda place, sizes: starts.measure(place, sizes.turns),
    "defaults": lambda place, sizes: defaults.measure(place, sizes.hosts, sizes.modules, sizes.defaults),
    "memory": lambda place, sizes: idle.memory(place, sizes.plays),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plays", description=plays.__doc__)
    parser.add_argument("--only", action="append", choices=[*PARTS, "compose"], help="this part, not all; repeatable")
    parser.add_argument("--quick", action="store_true", help="everything once, in a small size")
    parser.add_argument(
        "--size", action="append", default=[], metavar="NAME=N", help=f"one of {', '.join(vars(Sizes()))}; repeatable"
    )
    parser.add_argument("--pool", default="", help="a line for the pool's file: 'ansible: {warm: off}'")
    parser.add_argument("--write", type=Path, help=f"where to write the table for the manual: {FILE.relative_to(ROOT)}")
    given = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    sizes = replace(QUICK if given.quick else Sizes(), **dict(map(_size, given.size)))
    wanted = given.only or [*PARTS, *(["compose"] if sizes.composes else [])]
    machine = f"{_machine()}; load {os.getloadavg()[0]:.1f} before"
    rows = list(_measured(wanted, sizes, given.pool))
    machine = f"{machine}, {os.getloadavg()[0]:.1f} after"
    missed = sum(row.missed for row in rows)
    print(f"\n{machine}; targets missed: {missed}")
    if given.write:
        given.write.write_text("\n".join([*_preface(machine, given.pool), *as_rst(rows)]), "utf-8")
    return 1 if missed else 0


def _size(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    return name, int(number)


def _measured(wanted: Sequence[str], sizes: Sizes, pool: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="relengq-bench-") as directory:
        site = Path(directory) / "site"
        write_site(site, pool)
        with running(site) as place:
            for name in (each for each in PARTS if each in wanted):
                yield from _printed(PARTS[name](place, sizes))
    if "compose" in wanted:
        yield from _printed(_one(compose.measure(sizes.composes or 1)))


def _printed(rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        print("\n".join(as_text([row])), flush=True)
        yield row


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return f"{os.cpu_count()} processors, Python {sys.version.split()[0]}, {packages}"


def _preface(machine: str, pool: str) -> Iterator[str]:
    yield ".. Made by 'make bench'."
    yield ""
    yield f"Measured on {datetime.now(UTC):%Y-%m-%d}: {machine}."
    if pool:
        yield f"The pool's file had ``{pool}``."
    yield ""


if __name__ == "__main__":
    sys.exit(main())
