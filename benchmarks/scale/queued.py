# SPDX-License-Identifier: GPL-3.0-or-later
"""Many runs that wait: does a start, a claim or a tick of the clock take longer for them?"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, select

from benchmarks.measure import by_turns
from benchmarks.scale.installations import connection, installation, multiply, write_site
from benchmarks.scale.measure import Comparison, heading
from relengq.engine.clock import Clock
from relengq.engine.installation import Installation, Parcel
from relengq.engine.start import Trigger, start
from relengq.models import Run
from relengq.runs.attempts import WorkerIdentity, claim
from relengq.states import RunState
from tests.support.servers import PostgreSQLServer

TARGET = 1.3
TICK_TARGET = 2.0
PART = 10
"""Starts, or claims, of one turn."""
WHO = WorkerIdentity("bench@host", socket.gethostname(), os.getpid())


@dataclass
class Side:
    """An installation in which so many runs are queued."""

    installation: Installation
    sent: list[Parcel] = field(default_factory=list)
    clock: Clock | None = None

    def start(self) -> None:
        for _ in range(PART):
            start(self.installation, "one", {}, Trigger("person", "bench"))

    def claim(self) -> None:
        database = self.installation.database
        for _ in range(PART):
            parcel = self.sent.pop()
            with database.write() as session:
                held = claim(session, parcel.attempt_id, WHO, clock=database, lease=timedelta(hours=1))
            assert held is not None, "the claim was refused"

    def tick(self) -> None:
        self.clock = self.clock or Clock(self.installation)
        self.clock._look_at = time.monotonic() + 60  # noqa: SLF001 -- what asks the broker is not measured here
        self.clock.tick()

    def queued(self) -> int:
        with self.installation.database.read() as session:
            return session.scalar(select(func.count()).where(Run.state == RunState.QUEUED)) or 0


def measure(server: PostgreSQLServer, directory: Path, count: int, turns: int) -> Iterator[Comparison]:
    """Compare an installation in which hardly anything waits with one in which ``count`` runs wait."""
    site = write_site(directory / "queued", {"one": 1})
    with ExitStack() as stack:
        little, much = (_side(stack, server, site, size) for size in (100, count))
        print(f"\n{much.queued():,} queued runs against {little.queued():,}; {turns} turns of {PART} each")
        print(heading("little", "much"))
        actions: dict[str, tuple[Callable[[Side], None], float]] = {
            f"start a run (x{PART})": (Side.start, TARGET),
            f"claim an attempt (x{PART})": (Side.claim, TARGET),
            "a tick of the clock": (Side.tick, TICK_TARGET),
        }
        for name, (action, target) in actions.items():
            sides = {"little": lambda _, a=action: a(little), "much": lambda _, a=action: a(much)}
            found = by_turns(sides, turns, warm=2)
            yield Comparison(name, found["little"], found["much"], target)


def _side(stack: ExitStack, server: PostgreSQLServer, site: Path, count: int) -> Side:
    sent: list[Parcel] = []
    made = Side(stack.enter_context(installation(server, site, sent)), sent)
    template = start(made.installation, "one", {}, Trigger("person", "bench"))
    multiply(made.installation, template.run_id, count - 1)
    with connection(made.installation) as opened:
        opened.execute("CHECKPOINT")
    return made
