# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure what is asked for; exit code 1 when a target is missed."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import structlog

from benchmarks import scale
from benchmarks.scale import finished, gaps, queued
from benchmarks.scale.measure import Comparison
from tests.support.servers import PostgreSQLServer, RedisServer, running, short_directory

_PACKAGES = ("celery", "psycopg", "SQLAlchemy")


def main() -> int:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=scale.__doc__)
    parser.add_argument("--queued", type=int, default=100_000, help="runs that wait; 0: leave this part out")
    parser.add_argument("--finished", type=int, default=1_000_000, help="runs that are over; 0: leave this part out")
    parser.add_argument("--steps", type=int, default=60, help="steps of each chain; 0: leave this part out")
    parser.add_argument("--turns", type=int, default=30, help="turns of each side")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, {packages}")
    missed: list[Comparison] = []
    with short_directory() as directory, tempfile.TemporaryDirectory(prefix="relengq-bench-") as sites:
        (directory / "postgresql").mkdir()
        server = PostgreSQLServer(directory / "postgresql")
        server.create()
        with running(server):
            print(server.log.partition("starting ")[2].partition(" on ")[0])
            if given.queued:
                missed += told(queued.measure(server, Path(sites), given.queued, given.turns))
            if given.finished:
                missed += told(finished.measure(server, Path(sites), given.finished, given.turns))
            if given.steps:
                (directory / "redis").mkdir()
                with running(RedisServer(directory / "redis")) as redis:
                    missed += told(gaps.measure(server, redis, Path(sites), given.steps, max(1, given.turns // 10)))
    print(f"\nload {os.getloadavg()[0]:.1f}; targets missed: {len(missed)}")
    return 1 if missed else 0


def told(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Print each as it comes; returns those that missed their target."""
    missed = []
    for each in comparisons:
        print(each, flush=True)
        if each.missed:
            missed.append(each)
    return missed


if __name__ == "__main__":
    sys.exit(main())
