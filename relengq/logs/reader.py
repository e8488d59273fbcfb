# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads an attempt's output, from any process, also while it is being written."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from relengq.database import Database
from relengq.errors import DatabaseUnavailable
from relengq.logs import store
from relengq.models import OutputChunk

POLL_SECONDS = 0.15
"""How often a follower looks for more."""

_log = structlog.get_logger(__name__)


class Reader:
    """Remembers how far it has read; ``take`` gives what has come since."""

    def __init__(self, database: Database, attempt_id: int) -> None:
        self._database = database
        self._attempt_id = attempt_id
        self._seq = 0
        self._bytes = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self) -> Iterator[str]:
        """What was written since the last call, in pieces of at most a chunk. Raises DatabaseUnavailable.

        A chunk that cannot be read is named in its place, and the rest is given.
        """
        while (found := self._next()) is not None:
            if found:
                yield found

    def _next(self) -> str | None:
        """The next chunk's text, None at the end. Each chunk has a transaction of its own: readers may be
        slow.
        """
        with self._database.read() as session:
            skip = self._skip(session)
            query = (
                select(OutputChunk.seq, OutputChunk.size, OutputChunk.data)
                .where(OutputChunk.attempt_id == self._attempt_id, OutputChunk.seq > self._seq)
                .order_by(OutputChunk.seq)
                .limit(1)
            )
            row = session.execute(query).one_or_none()
        if row is None:
            return None
        seq, size, data = row
        self._seq = seq
        self._bytes += size - skip
        try:
            return self._decoder.decode(store.unpack(data, size)[skip:])
        except ValueError as error:
            self._decoder.reset()
            _log.error("output.unreadable", attempt=self._attempt_id, chunk=seq, error=str(error))
            return f"[output chunk {seq} unreadable: {error}]\n"

    def _skip(self, session: Session) -> int:
        """How much of the next chunk is known already, because known chunks were merged into it."""
        if not self._seq:
            return 0
        mine = OutputChunk.attempt_id == self._attempt_id
        if session.scalar(select(OutputChunk.seq).where(mine, OutputChunk.seq == self._seq)) is not None:
            return 0
        before = session.scalar(select(func.sum(OutputChunk.size)).where(mine, OutputChunk.seq < self._seq))
        return self._bytes - int(before or 0)


def read(database: Database, attempt_id: int) -> Iterator[str]:
    """The attempt's output up to now, in pieces that are cut anywhere. Raises DatabaseUnavailable."""
    return Reader(database, attempt_id).take()


def follow(database: Database, attempt_id: int, ended: Callable[[], bool]) -> Iterator[str]:
    """The attempt's output as it comes, until ``ended`` and all was given.

    Waits for a database that is away.
    """
    reader = Reader(database, attempt_id)
    away = False
    while True:
        try:
            last = ended()
            yield from reader.take()
        except DatabaseUnavailable as error:
            if not away:
                _log.warning("output.waiting", attempt=attempt_id, error=str(error))
            away, last = True, False
        else:
            away = False
        if last:
            return
        time.sleep(POLL_SECONDS)
