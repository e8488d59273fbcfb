# SPDX-License-Identifier: GPL-3.0-or-later
"""What a listener counts, and the row in which everybody can read it."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import update
from sqlalchemy.orm import Session

from relengq import __version__
from relengq.database import Database, insert
from relengq.engine.intake import Disposition, Receipt
from relengq.messages import Message
from relengq.models import Listener


@dataclass(frozen=True)
class Counts:
    """How many messages there were, each under one disposition, and what is known of the last."""

    consumed: int = 0
    started: int = 0
    awaited: int = 0
    duplicate: int = 0
    parked: int = 0
    unmatched: int = 0
    runs: int = 0
    last_message_at: datetime | None = None
    lag: float | None = None

    @classmethod
    def of(cls, batch: Sequence[Message], receipts: Sequence[Receipt]) -> Counts:
        """The counts of messages of one batch, now."""
        now = datetime.now(UTC)
        kinds = [receipt.disposition for receipt in receipts]
        matched = {each.message_id for each in receipts if each.disposition is not Disposition.UNMATCHED}
        sent = [message.sent_at for message in batch if message.id in matched]
        return cls(
            consumed=len(kinds),
            started=kinds.count(Disposition.STARTED),
            awaited=kinds.count(Disposition.AWAITED),
            duplicate=kinds.count(Disposition.DUPLICATE),
            parked=kinds.count(Disposition.PARKED),
            unmatched=kinds.count(Disposition.UNMATCHED),
            runs=sum(len(receipt.runs) for receipt in receipts),
            last_message_at=now if kinds else None,
            lag=max(0.0, (now - sent[-1]).total_seconds()) if sent and sent[-1] else None,
        )

    def plus(self, later: Counts) -> Counts:
        """Both together; of the last message what the later ones say."""
        return self._with(later, 1)

    def minus(self, known: Counts) -> Counts:
        """Those that are not among the known ones."""
        return self._with(known, -1)

    def _with(self, other: Counts, factor: int) -> Counts:
        numbers = {name: getattr(self, name) + factor * getattr(other, name) for name in NUMBERS}
        return Counts(
            **numbers,
            last_message_at=other.last_message_at or self.last_message_at,
            lag=self.lag if other.lag is None else other.lag,
        )


NUMBERS = ("consumed", "started", "awaited", "duplicate", "parked", "unmatched", "runs")
"""The counts that only grow."""


class ListenerRow:
    """This host's row of ``listeners``. Its counts only grow, whoever writes them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._host = socket.gethostname()[:255]
        self._begun = False
        self.queue: str | None = None

    def add(self, session: Session, counts: Counts) -> None:
        """Add to the counts, in a transaction of somebody else."""
        row = Listener.__table__
        grown = {name: row.c[name] + getattr(counts, name) for name in NUMBERS}
        known = {"last_message_at": counts.last_message_at, "lag": counts.lag}
        statement = (
            update(Listener)
            .where(Listener.host == self._host)
            .values(
                **grown,
                seen_at=self._database.now(session),
                **{name: value for name, value in known.items() if value is not None},
            )
            .returning(Listener.host)
        )
        if session.execute(statement).first() is None:
            self._make(session)
            session.execute(statement)

    def write(self, counts: Counts, trouble: str | None, *, stopped: bool = False) -> None:
        """Add to the counts, and say how it is, in a transaction of its own. Raises DatabaseUnavailable."""
        with self._database.write() as session:
            self.add(session, counts)
            about = {"pid": os.getpid(), "version": __version__, "stopped": stopped, "trouble": trouble}
            if not self._begun:
                about["started_at"] = self._database.now(session)
            if self.queue is not None:
                about["queue"] = self.queue[:255]
            session.execute(update(Listener).where(Listener.host == self._host).values(**about))
        self._begun = True

    def _make(self, session: Session) -> None:
        """The first row of this host; another listener of it may make one at the same moment."""
        now = self._database.now(session)
        made = insert(session, Listener).on_conflict_do_nothing()
        session.execute(made.values(host=self._host, pid=os.getpid(), version=__version__, started_at=now, seen_at=now))
