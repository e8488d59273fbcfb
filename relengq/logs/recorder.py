# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes what a playing attempt says, as it says it, and loses nothing while the database is away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from relengq.database import Database
from relengq.errors import AttemptFault, DatabaseUnavailable, StaleAttempt
from relengq.logs import store
from relengq.logs.buffer import Buffer, Place, Said
from relengq.logs.outcome import TaskOutcome
from relengq.logs.spool import Spool
from relengq.storable import storable

_MERGE_EVERY = 200
"""Chunks written before small ones are merged."""
_RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses while the database is away; the last one repeats."""

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


class Recorder:
    """The sink of one attempt, under the fence of its claim.

    ``output``, ``task`` and ``progress`` fill a buffer and return at once, unless the buffer is full. A
    thread writes it in batches. Output for which memory has no room waits on the disk, in ``directory``. While
    the database is locked, full or away the thread tries again until it succeeds, and says so once. When another
    worker has claimed the attempt since, everything is dropped: it is no longer ours.
    """

    def __init__(self, database: Database, attempt_id: int, fence: int, directory: Path | None = None) -> None:
        self._database = database
        self._attempt_id = attempt_id
        self._fence = fence
        self._buffer = Buffer(Spool(directory))
        self._fault: Exception | None = None
        self._begun = False
        self._seq = 0
        self._merged = 0
        self._unmerged = 0
        self._first_task = 0
        self._pause = threading.Event()
        self._log = _log.bind(attempt=attempt_id)
        self.refused = False
        """Whether the attempt turned out to be another worker's by now."""
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def output(self, text: str) -> None:
        """Take a piece of output."""
        self._raise()
        if text:
            self._buffer.add_output(text.encode("utf-8", "replace"))

    def task(self, outcome: TaskOutcome) -> None:
        """Take a task's result; a second one with the same number replaces the first."""
        self._raise()
        self._buffer.add_task(outcome)

    def progress(self, play: str | None, task: str | None, host: str | None) -> None:
        """Take note of where the play is; only the latest place is written."""
        self._raise()
        self._buffer.move(play, task, host)

    def close(self) -> None:
        """Write what is left, however long the database takes. Raises what went wrong, if anything did."""
        self._buffer.close()
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _run(self) -> None:
        try:
            while (said := self._buffer.take()) is not None:
                if not self._begun:
                    self._begin()
                self._write(said)
            if self._seq - self._merged > 1:
                self._merge()
        except (StaleAttempt, IntegrityError) as error:
            # The attempt is another worker's, or was deleted with its run.
            self.refused = True
            self._log.warning("output.refused", error=str(error).splitlines()[0])
        except Exception as error:
            # Raised again in the thread that plays.
            self._log.exception("output.failed")
            self._fault = AttemptFault(f"The output could not be stored: {str(error).splitlines()[0]}")
        finally:
            self._buffer.drop()

    def _begin(self) -> None:
        """Look where to go on. Of a play that says nothing, nothing is asked."""
        start = self._persist(lambda session: store.start(session, self._attempt_id))
        self._begun = True
        self._log = self._log.bind(run_id=start.run_id)
        self._seq = self._merged = start.chunks
        self._first_task = start.tasks

    def _write(self, said: Said) -> None:
        batch = store.Batch(
            self._chunks(b"".join(said.output)),
            [self._task_row(task) for task in {each.number: each for each in said.tasks}.values()],
            self._place_row(said.place) if said.place else None,
        )
        self._persist(lambda session: store.write(session, batch))
        self._unmerged += len(batch.chunks)
        if self._unmerged >= _MERGE_EVERY:
            self._merge()

    def _merge(self) -> None:
        """Merge small chunks, a group in a transaction; what does not fill a chunk yet is looked at again."""
        self._unmerged = 0
        after: int | None = self._merged
        while after is not None:
            self._merged = after
            after = self._persist(partial(store.merge, attempt_id=self._attempt_id, after=after))

    def _persist(self, action: Callable[[Session], _T]) -> _T:
        """Do it in one transaction, as often as it takes."""
        failures = 0
        while True:
            try:
                with self._database.write() as session:
                    store.check_fence(session, self._attempt_id, self._fence)
                    done = action(session)
            except DatabaseUnavailable as error:
                if not failures:
                    self._log.warning("output.waiting", error=str(error))
                self._pause.wait(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                failures += 1
            else:
                if failures:
                    self._log.info("output.delivered", failures=failures)
                return done

    def _chunks(self, data: bytes) -> list[store.Row]:
        rows = []
        for begin in range(0, len(data), store.CHUNK_BYTES):
            self._seq += 1
            rows.append(store.chunk(self._attempt_id, self._seq, data[begin : begin + store.CHUNK_BYTES]))
        return rows

    def _task_row(self, task: TaskOutcome) -> store.Row:
        return {
            "attempt_id": self._attempt_id,
            "seq": self._first_task + task.number,
            "host": storable(task.host),
            "play": storable(task.play),
            "task": storable(task.task),
            "action": storable(task.action),
            "status": task.status,
            "changed": task.changed,
            "started_at": task.started,
            "duration": task.duration,
            "message": None if task.message is None else storable(task.message),
            "item": None if task.item is None else storable(task.item),
        }

    def _place_row(self, place: Place) -> store.Row:
        return {
            "attempt_id": self._attempt_id,
            "play": None if place.play is None else storable(place.play),
            "task": None if place.task is None else storable(place.task),
            "host": None if place.host is None else storable(place.host),
            "tasks_done": self._first_task + place.tasks_done,
        }
