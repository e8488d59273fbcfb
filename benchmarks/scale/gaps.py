# SPDX-License-Identifier: GPL-3.0-or-later
"""From the end of a step to the beginning of the next one, against a bare Celery chain on the same broker.

Both sides write down when what does nothing began and ended, by the same clock: Celery's task, and what relengq calls
in the place of Ansible. So relengq's gap has everything from the end of a play to the beginning of the next one in it:
the ending is stored, the run goes on, the next attempt is committed, sent, claimed and prepared. All have one worker
with a process for each of two tasks at once.

A bare chain stores nothing: who is killed between two tasks has lost it. So the same is measured, without a target,
against a chain whose tasks are stored in the same database when they begin and when they end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from celery import Task, chain
from sqlalchemy import func, select

from benchmarks.scale import bare, ledger
from benchmarks.scale.installations import connection, installation, write_site
from benchmarks.scale.measure import Comparison, heading
from relengq.celery import app, configuration, enqueue
from relengq.engine.installation import Installation, Parcel
from relengq.engine.start import Trigger, start
from relengq.models import Attempt, Run
from tests.support.processes import Process
from tests.support.servers import PostgreSQLServer, RedisServer
from tests.support.waiting import wait_until

TARGET = 2.0
ROOT = Path(__file__).parents[2]
PATIENCE = 300.0


def measure(
    server: PostgreSQLServer, redis: RedisServer, directory: Path, steps: int, turns: int
) -> Iterator[Comparison]:
    """Compare the gaps between steps with those between the tasks of a chain."""
    site = write_site(directory / "gaps", {"chain": steps}, f'broker_url = "{redis.url}"\n')
    sent: list[Parcel] = []
    with ExitStack() as stack:
        made = stack.enter_context(installation(server, site, sent))
        environment = {
            "BENCH_BROKER": redis.url, "BENCH_LEDGER": str(directory / "plays"),
            "RELENGQ_SITE": str(site), "RELENGQ_POOL": "default",
            "RELENGQ_DATABASE_URL": made.database.url.render_as_string(hide_password=False),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        }  # fmt: skip
        for name, more in _workers(made).items():
            queue = "default" if name == "noop" else name
            argv = [sys.executable, "-m", "celery", "-A", f"benchmarks.scale.{'noop' if name == 'noop' else 'bare'}"]
            argv += ["worker", "-c", "2", "-Q", queue, "-n", f"{name}@%h", "--loglevel", "WARNING"]
            worker = Process(argv, directory, environment | more, name=name)
            stack.callback(worker.stop)
            worker.start()
        bare.app.conf.broker_url = redis.url
        os.environ["RELENGQ_SITE"] = str(site)
        # Celery reads its configuration once a process, and somebody may have asked for it before, of another site.
        wanted = configuration(made.settings)
        stack.callback(app.conf.update, {name: app.conf.get(name) for name in wanted})
        app.conf.update(wanted)
        found: dict[str, list[float]] = {"bare": [], "kept": [], "relengq": []}
        for turn in range(turns + 1):
            gaps = {
                "bare": _of_celery(bare.noop, "bare", directory / f"tasks-{turn}", steps),
                "kept": _of_celery(bare.kept, "kept", directory / f"kept-{turn}", steps),
                "relengq": _of_relengq(made, directory / "plays", steps),
            }
            if turn:
                for name in found:
                    found[name] += gaps[name]
        stored = "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'"
        with connection(made) as opened:
            assert opened.execute(stored).fetchone() == ((turns + 1) * steps,), "a task's result was not stored"
    print(f"\nfrom one step to the next, {turns} chains of {steps} each")
    print(heading("a Celery chain", "relengq"))
    yield Comparison("gap, against a bare chain", found["bare"], found["relengq"], TARGET)
    yield Comparison("gap, against one with results", found["kept"], found["relengq"], None)


def _workers(made: Installation) -> dict[str, dict[str, str]]:
    """The workers by their names, with what each has in its environment beside what all have."""
    database = made.database.url.render_as_string(hide_password=False)
    return {"noop": {}, "bare": {}, "kept": {"BENCH_RESULTS": f"db+{database}"}}


def _of_celery(task: Task, queue: str, tasks: Path, steps: int) -> list[float]:
    chain(*(task.si(str(tasks)).set(queue=queue) for _ in range(steps))).apply_async()
    wait_until(lambda: ledger.lines(tasks) >= steps, PATIENCE, "the chain is over")
    return ledger.gaps(tasks)


def _of_relengq(made: Installation, plays: Path, steps: int) -> list[float]:
    plays.unlink(missing_ok=True)
    made.send = _to_the_broker
    run_id = start(made, "chain", {}, Trigger("person", "bench")).run_id

    def over() -> bool:
        with made.database.read() as session:
            return session.get_one(Run, run_id).state.final

    # The database is left alone until the last play: who waits is no part of what is measured.
    wait_until(lambda: ledger.lines(plays) >= steps, PATIENCE, "everything has been played")
    wait_until(over, PATIENCE, "the run is over")
    with made.database.read() as session:
        attempts = session.scalar(select(func.count()).where(Attempt.run_id == run_id))
    assert attempts == ledger.lines(plays) == steps, "a step was played twice, or not at all"
    return ledger.gaps(plays)


def _to_the_broker(parcel: Parcel) -> None:
    enqueue(parcel.attempt_id, task_id=parcel.task_id, queue=parcel.queue, label=parcel.label)
