# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a worker on RabbitMQ takes for many short tasks, with the gate of ``relengq.slots`` and as Celery has it.

Both sides have a worker with two processes on a quorum queue of their own on the same private RabbitMQ, acknowledge
early, and take the tasks by turns in one run: from the beginning of the first task to the end of the last one. A task
lasts 0.3 seconds, as the shortest plays do. ``python -m benchmarks.slots --turns 5 --tasks 60``, part of
``make bench``; ``--seconds 0`` shows what the gate costs by itself. Exit code 1 when the target is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from celery import Celery
from kombu import Queue

from benchmarks.scale import ledger
from benchmarks.scale.measure import Comparison, heading
from relengq.consumer import Consumer
from relengq.slots import Slots
from tests.support.processes import Process
from tests.support.servers import RabbitMQServer, running, short_directory
from tests.support.waiting import wait_until

TARGET = 1.1
ROOT = Path(__file__).parents[1]
PATIENCE = 300.0
SIDES = ("stock", "gated")

app = Celery("slots", broker=os.environ.get("BENCH_BROKER", ""), set_as_current=False)
app.conf.update(
    task_queues=[Queue(name, queue_arguments={"x-queue-type": "quorum"}) for name in SIDES],
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_consumer=f"{Consumer.__module__}:{Consumer.__name__}",
    broker_transport_options={"confirm_publish": True},
)
if os.environ.get("BENCH_SIDE") == "gated":
    app.steps["consumer"].add(Slots)


@app.task(name="slots.last")
def last(place: str, seconds: float) -> None:
    """Last so long, and write down when it began and when it ended."""
    ledger.note(Path(place), seconds)


def main() -> int:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slots", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=60, help="of each turn")
    parser.add_argument("--seconds", type=float, default=0.3, help="how long a task lasts")
    given = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    with short_directory() as directory, running(RabbitMQServer(directory)) as server:
        found = measure(server, directory, given.turns, given.tasks, given.seconds)
    print(f"{given.tasks} tasks of {given.seconds:g} seconds, {given.turns} turns")
    print(heading("as Celery has it", "with slots"))
    print(found)
    return 1 if found.missed else 0


def measure(server: RabbitMQServer, directory: Path, turns: int, tasks: int, seconds: float) -> Comparison:
    """Compare the two; the first turn of each does not count."""
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    with ExitStack() as stack:
        for side in SIDES:
            argv = [sys.executable, "-m", "celery", "-A", "benchmarks.slots", "worker", "-c", "2", "-Q", side]
            environment = {"BENCH_BROKER": server.url, "BENCH_SIDE": side, "PYTHONPATH": str(ROOT)}
            worker = Process([*argv, "-n", f"{side}@%h", "--loglevel", "INFO"], directory, environment, name=side)
            stack.callback(worker.stop)
            worker.start()
            worker.wait_for_log("ready.", PATIENCE)
        app.conf.broker_url = server.url
        for turn in range(turns + 1):
            for side in SIDES if turn % 2 else reversed(SIDES):
                whole = taken(directory / f"{side}-{turn}", side, tasks, seconds)
                if turn:
                    found[side].append(whole)
    return Comparison("short tasks", found["stock"], found["gated"], TARGET)


def taken(place: Path, side: str, tasks: int, seconds: float) -> float:
    """Seconds from the beginning of the first to the end of the last."""
    for _ in range(tasks):
        last.apply_async((str(place), seconds), queue=side)
    wait_until(lambda: ledger.lines(place) >= tasks, PATIENCE, "all tasks have ended")
    times = ledger.times(place)
    return max(ended for _, ended in times) - min(begun for begun, _ in times)


if __name__ == "__main__":
    sys.exit(main())
