# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker makes itself known in SQL: everybody can tell which queues are served, by whom, at which revision."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from datetime import datetime

import psutil
import structlog
from celery.bootsteps import StartStopStep
from celery.signals import (
    celeryd_after_setup,
    worker_process_init,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from celery.worker import WorkController
from celery.worker.consumer import Consumer
from sqlalchemy import update

from relengq import __version__
from relengq.celery import app
from relengq.content.trees import prune
from relengq.engine.handback import hand_back, playing
from relengq.engine.installation import Installation, current
from relengq.errors import RelengqError
from relengq.execution.private import clear
from relengq.health import alive
from relengq.migrations import require_head
from relengq.models import Attempt, Worker
from relengq.processes import die_with_parent
from relengq.settings import POOL_VARIABLE
from relengq.states import AttemptState

BEAT_SECONDS = 5.0
"""How often a worker says that it is there."""
_LOOK_SECONDS = 60.0
"""How often it looks at which commit its site is: that takes git, and a large site takes git some time."""
_ENDING_SECONDS = 10.0
"""For how long a worker that is stopped at once waits for its own processes to end."""
_PRUNE_SECONDS = 3600.0
"""How often it removes copies of commits that nobody has played from for long."""
_log = structlog.get_logger(__name__)


class Presence:
    """Keeps one worker's row. Runs in a thread of the worker's main process."""

    def __init__(self, installation: Installation, node: str, queues: Sequence[str], concurrency: int) -> None:
        self._installation = installation
        self._node = node
        self._queues = sorted(queues)
        self._concurrency = concurrency
        self._over = threading.Event()
        self.told = False
        """Whether this has been told that the worker ends."""
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)
        self._commit: str | None = None
        self._look_at = 0.0

    def start(self) -> None:
        """Say hello, and go on saying it."""
        self._thread.start()
        # Not the thread that says hello: a large tree takes its time.
        threading.Thread(target=self._prune, name="content-prune", daemon=True).start()

    def stopping(self) -> None:
        """The worker takes nothing new; what still plays after the grace time is handed back as interrupted."""
        self._write(stopping=True)
        threading.Thread(target=self._hand_back, name="presence-stopping", daemon=True).start()

    def stop(self) -> None:
        """Say goodbye."""
        self._over.set()
        self._thread.join(timeout=BEAT_SECONDS)
        self._remove()

    def stopped_at_once(self) -> None:
        """The worker has ended its processes, and does not wait for plays: hand those back when they have ended."""
        self._over.set()
        host = socket.gethostname()
        until = time.monotonic() + _ENDING_SECONDS
        try:
            while any(map(psutil.pid_exists, playing(self._installation, self._node, host).values())):
                if time.monotonic() > until:
                    break
                time.sleep(0.1)
            clear(self._installation.settings.attempts_dir)
            hand_back(self._installation, self._node, host)
        except (RelengqError, OSError) as error:  # the leases run out
            _log.warning("presence.not_handed_back", worker=self._node, error=str(error))
        self._remove()

    def _run(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            pause = BEAT_SECONDS
            alive(self._installation.settings.health_file)
            self._write()

    def _prune(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            pause = _PRUNE_SECONDS
            try:
                for name in prune(self._installation.settings):
                    _log.info("content.pruned", name=name)
            except (RelengqError, OSError) as error:
                _log.warning("content.not_pruned", error=str(error))

    def _write(self, *, stopping: bool | None = None) -> None:
        database = self._installation.database
        try:
            revision = self._revision()
            with database.write() as session:
                now = database.now(session)
                row = session.get(Worker, self._node)
                if row is None:
                    row = self._row(now)
                    session.add(row)
                elif row.pid != os.getpid():
                    row.pid, row.started_at, row.stopping = os.getpid(), now, False
                row.queues, row.concurrency = self._queues, self._concurrency
                row.revision = revision
                row.version, row.seen_at = __version__, now
                if stopping is not None:
                    row.stopping = stopping
        except RelengqError as error:
            _log.warning("presence.not_written", worker=self._node, error=str(error))
        except Exception:
            # A worker that seems to be dead, although it plays, would be the worse for it.
            _log.exception("presence.fault", worker=self._node)

    def _revision(self) -> str | None:
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            found = self._installation.revision()
            self._commit = found.commit if found else None
        return self._commit

    def _row(self, now: datetime) -> Worker:
        return Worker(
            name=self._node,
            host=socket.gethostname(),
            pid=os.getpid(),
            pool=os.environ.get(POOL_VARIABLE),
            started_at=now,
            stopping=False,
        )

    def _hand_back(self) -> None:
        """After the grace time interrupt what still plays, again and again: a claim may come late, the database too."""
        pause = self._installation.settings.stop_seconds
        while not self._over.wait(pause):
            self._interrupt()
            pause = 1.0

    def _interrupt(self) -> None:
        """Of this worker only: another one of the same name may have been started already."""
        mine = [os.getpid(), *(each.pid for each in psutil.Process().children())]
        database = self._installation.database
        try:
            with database.write() as session:
                session.execute(
                    update(Attempt)
                    .where(
                        Attempt.worker == self._node,
                        Attempt.host == socket.gethostname(),
                        Attempt.pid.in_(mine),
                        Attempt.state == AttemptState.RUNNING,
                        Attempt.stop_reason.is_(None),
                    )
                    .values(stop_reason="interrupted")
                )
        except RelengqError as error:
            _log.warning("presence.not_interrupted", worker=self._node, error=str(error))

    def _remove(self) -> None:
        database = self._installation.database
        try:
            with database.write() as session:
                row = session.get(Worker, self._node)
                if row is not None and row.pid == os.getpid():
                    session.delete(row)
        except RelengqError as error:
            _log.warning("presence.not_removed", worker=self._node, error=str(error))


@celeryd_after_setup.connect
def _check(sender: str, instance: WorkController, conf: object, **_: object) -> None:
    """Refuse to start with a database that is not ready, before anything is taken from a queue; clear the ground."""
    installation = current()
    try:
        require_head(installation.database)
    except RelengqError as error:
        raise SystemExit(f"relengq: {error}") from None
    try:
        for name in clear(installation.settings.attempts_dir):
            _log.warning("presence.play_cleared", play=name)
    except OSError as error:
        _log.warning("presence.plays_not_cleared", error=str(error))


@worker_process_init.connect
def _forked(**_: object) -> None:
    """A pool child makes its own connections, and dies with its worker."""
    die_with_parent(signal.SIGKILL)
    current().database.forget()


@worker_ready.connect
def _ready(sender: Consumer, **_: object) -> None:
    controller = sender.controller
    queues = [str(queue) for queue in app.amqp.queues.consume_from]
    app.presence = Presence(current(), str(controller.hostname), queues, int(controller.concurrency))
    app.presence.start()


# Celery sends it from handlers of signals, and one handler may interrupt another: with a plain lock, two signals that
# come together would leave the worker waiting for itself for ever.
worker_shutting_down.lock = threading.RLock()


@worker_shutting_down.connect
def _shutting_down(how: str = "Warm", **_: object) -> None:
    """Called in a signal handler: the database is left to a thread. The process lives until that has ended."""
    presence: Presence | None = getattr(app, "presence", None)
    if presence is not None:
        presence.told = True
        action = presence.stopping if how == "Warm" else presence.stopped_at_once
        threading.Thread(target=action, name="presence-stopping", daemon=how == "Warm").start()


class Leaving(StartStopStep):
    """Celery's step by which a worker learns that it ends for another reason than a signal that Celery tells of.

    That is remote control (Flower's *Shut Down*), and SIGHUP, by which Celery starts a worker anew.
    """

    def close(self, parent: WorkController) -> None:
        """The first that happens then; afterwards Celery waits for what still plays, however long that takes."""
        presence: Presence | None = getattr(app, "presence", None)
        if presence is not None and not presence.told:
            _shutting_down()


app.steps["worker"].add(Leaving)


@worker_shutdown.connect
def _shutdown(**_: object) -> None:
    presence: Presence | None = getattr(app, "presence", None)
    if presence is not None:
        presence.stop()
