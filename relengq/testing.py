# SPDX-License-Identifier: GPL-3.0-or-later
"""For people's own tests of their workflows: run them without a broker, without workers and without Ansible.

::

    bench = Bench(site_directory, state_directory)
    run_id = bench.start("nightly-compose", release="rawhide")
    bench.play()                                    # the first step succeeds, without outputs
    bench.play(outputs={"compose_id": "X"})         # so does the next, with outputs
    bench.play(state="failed", message="no disk")
    assert bench.run(run_id).state == "failed"
    [receipt] = bench.receive(bench.message("org.fedoraproject.prod.buildsys.tag", tag="f44-updates"))
    assert receipt.disposition == "started"

State is kept and advanced by the real engine in a SQLite database; only the plays are made up.
"""

from __future__ import annotations

import json
import math
import os
import socket
import uuid
from collections import deque
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select

from relengq.database import Database
from relengq.documents import Json
from relengq.engine.clock import Clock
from relengq.engine.consequences import attempt_ended
from relengq.engine.control import approve
from relengq.engine.dispatch import send_due
from relengq.engine.installation import Installation, Parcel
from relengq.engine.intake import Intake, Receipt
from relengq.engine.start import Started, Trigger, start
from relengq.errors import WrongState
from relengq.messages import Message
from relengq.migrations import upgrade
from relengq.models import Announcement, Run
from relengq.runs.attempts import Claim, Ending, WorkerIdentity, claim, held_attempt
from relengq.settings import Settings
from relengq.states import AttemptState

PERSON = "tester"


class Bench:
    """A site whose steps are played by the test, in the order in which they would reach the workers."""

    def __init__(self, site: Path, state_dir: Path, database_url: str | None = None) -> None:
        settings = Settings.load(site)
        url = database_url or f"sqlite:///{state_dir / 'bench.db'}"
        key = state_dir / "secret.key"
        bus = settings.bus_config or state_dir / "no-bus.toml"  # need not exist: nothing is sent
        own = {"state_dir": state_dir, "database_url": url, "secret_key_file": key, "bus_config": bus}
        self.settings = settings.model_copy(update=own)
        self.sent: deque[Parcel] = deque()
        """What was handed to the broker and not played yet."""
        self.installation = Installation(self.settings, Database(url), self.sent.append)
        self.intake = Intake(self.installation)
        upgrade(self.installation.database)

    def close(self) -> None:
        """Close the database."""
        self.installation.database.close()

    def start(self, workflow: str, key: str | None = None, **inputs: Json) -> str:
        """Start a workflow as a person would, and return the run's id."""
        return self.started(workflow, inputs, Trigger("person", PERSON, key)).run_id

    def started(self, workflow: str, inputs: dict[str, Json], trigger: Trigger) -> Started:
        """Start a workflow by any trigger."""
        return start(self.installation, workflow, inputs, trigger)

    def receive(self, *messages: Message) -> list[Receipt]:
        """Take messages as the listener does, in one batch; says what became of each. No bus is needed."""
        return self.intake.take(messages)

    def message(self, topic: str, message_id: str | None = None, **body: Json) -> Message:
        """A message to receive, with a new id unless one is given."""
        return Message(message_id or str(uuid.uuid4()), topic, {}, json.dumps(body).encode())

    def run(self, run_id: str) -> Run:
        """The run as it stands, with its steps and attempts."""
        with self.installation.database.read() as session:
            run = session.get_one(Run, run_id)
            for step in run.steps:
                _ = [attempt.state for attempt in step.attempts]
            _ = run.definition.body
        return run

    def steps(self, run_id: str) -> dict[str, str]:
        """Each step's state by its label, in order."""
        return {step.label: str(step.state) for step in self.run(run_id).steps}

    def announced(self, run_id: str) -> list[tuple[str, dict[str, Json]]]:
        """What the run has announced so far, in order: topics, without the bus's prefix, and bodies."""
        mine = select(Announcement).where(Announcement.run_id == run_id).order_by(Announcement.id)
        with self.installation.database.read() as session:
            return [(row.topic, row.body) for row in session.scalars(mine)]

    def claim(self) -> Claim | None:
        """Take the next attempt as a worker does, or None when its claim is refused."""
        if not self.sent:
            raise WrongState("Nothing was sent to the broker, so there is nothing to play.")
        parcel = self.sent.popleft()
        database = self.installation.database
        who = WorkerIdentity(f"bench@{socket.gethostname()}", socket.gethostname(), os.getpid())
        with database.write() as session:
            lease = timedelta(seconds=self.settings.lease_seconds)
            return claim(session, parcel.attempt_id, who, clock=database, lease=lease)

    def finish(
        self,
        held: Claim,
        *,
        state: AttemptState | str = AttemptState.SUCCEEDED,
        outputs: dict[str, Json] | None = None,
        message: str | None = None,
    ) -> None:
        """End a claimed attempt, and let its run go on."""
        database = self.installation.database
        ending = Ending(AttemptState(state), message=message, outputs=outputs)
        with database.write() as session:
            attempt, now = held_attempt(session, held, database)
            attempt_ended(session, self.installation, attempt, ending, now=now, who="worker bench")
        send_due(self.installation)

    def play(
        self,
        *,
        state: AttemptState | str = AttemptState.SUCCEEDED,
        outputs: dict[str, Json] | None = None,
        message: str | None = None,
    ) -> str:
        """Claim the next attempt and end it; returns its label as Flower would show it."""
        held = self.claim()
        if held is None:
            raise WrongState("The next attempt can no longer be claimed.")
        self.finish(held, state=state, outputs=outputs, message=message)
        return held.label

    def decide(self, run_id: str, step: str | None = None, *, accepted: bool = True, note: str | None = None) -> str:
        """Approve or reject the step that waits for it, and return its name."""
        return approve(self.installation, run_id, step, who=PERSON, note=note, accepted=accepted)

    def tick(self) -> None:
        """Let the clock do its duties once."""
        Clock(self.installation, watching_since=-math.inf).tick()
