# SPDX-License-Identifier: GPL-3.0-or-later
"""A Celery application as bare as can be: ``celery -A benchmarks.scale.bare worker``.

With ``BENCH_RESULTS`` (a database, as Celery's result backends name it) it has what relengq has as well: a worker that
can be watched in Flower, and what came of each task in that database.
"""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

from benchmarks.scale.ledger import note

_RESULTS = os.environ.get("BENCH_RESULTS")
app = Celery("bare", broker=os.environ.get("BENCH_BROKER", ""), backend=_RESULTS, set_as_current=False)
app.conf.update(
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_send_task_events=bool(_RESULTS),
    task_send_sent_event=bool(_RESULTS),
    result_extended=True,
    database_create_tables_at_setup=True,
)


@app.task(name="bare.noop", ignore_result=True)
def noop(ledger: str) -> None:
    """Write down when it began and when it ended."""
    note(Path(ledger))


@app.task(name="bare.kept", ignore_result=False, track_started=True)
def kept(ledger: str) -> None:
    """The same; when it begins, and what comes of it, is stored."""
    note(Path(ledger))
