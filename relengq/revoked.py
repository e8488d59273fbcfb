# SPDX-License-Identifier: GPL-3.0-or-later
"""A task that is revoked or terminated (Flower, ``celery control``, ``app.control``) is a run that is cancelled.

Celery tells all workers; each of them records the cancel, and the first one does it. A task that waits is withdrawn,
wherever it waits; one that is played is stopped by *terminate* alone, as users of Celery know it. Celery kills the
process of the pool that plays it, at once and with all that it has started; its worker then ends the attempt in the
place of that process, so that it is not looked for, nor taken for lost.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any

import psutil
import structlog
from celery.utils.functional import maybe_list
from celery.worker import control

from relengq.engine.control import cancel_attempt, end_killed
from relengq.engine.installation import Installation, current
from relengq.errors import DatabaseUnavailable

WHO = "celery"
"""Who cancelled, in the history: Celery does not say who asked it."""
_TASK_ID = re.compile(r"(\d{1,18})\.\d+")
"""What relengq calls its tasks: the attempt, and how often it was sent."""
_LOOK_SECONDS = 0.1
_PATIENCE_SECONDS = 60.0
"""For how long a worker waits for a process to die that Celery was to kill: a signal may be one that it survives."""
_AWAY_SECONDS = 1.0
_log = structlog.get_logger(__name__)


@control.control_command(name="revoke", variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: str | None = None, **more: Any) -> Any:
    """Revoke tasks by their ids; their runs are cancelled."""
    processes = {each.pid for each in psutil.Process().children()}
    answer = control.revoke(state, task_id, terminate=terminate, signal=signal, **more)
    _cancel(state.hostname, maybe_list(task_id) or (), processes, terminate=terminate)
    return answer


@control.control_command(
    name="terminate", variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [... [idN]]]]"
)
def terminate(state: Any, signal: str, task_id: Any, **more: Any) -> Any:
    """Terminate tasks by their ids; their runs are cancelled."""
    return revoke(state, task_id, terminate=True, signal=signal, **more)


def _cancel(node: str, task_ids: Iterable[object], processes: set[int], *, terminate: bool) -> None:
    """Record it, from a thread: the database may be slow or away, and Celery's loop must not wait for it."""
    wanted = {str(task_id): match for task_id in task_ids if (match := _TASK_ID.fullmatch(str(task_id)))}
    attempts = {int(match[1]): task_id for task_id, match in wanted.items()}
    if attempts:
        cancelling = Cancelling(current(), node, processes, terminate=terminate)
        threading.Thread(target=cancelling.run, args=(attempts,), name="revoked", daemon=True).start()


class Cancelling:
    """What a worker does about one command. ``processes`` are those that its pool had when the command came."""

    def __init__(self, installation: Installation, node: str, processes: set[int], *, terminate: bool) -> None:
        self._installation = installation
        self._node = node
        self._host = socket.gethostname()
        self._processes = processes
        self._terminate = terminate

    def run(self, attempts: dict[int, str]) -> None:
        """Cancel the runs of these attempts, named with their tasks; then end those whose processes were killed."""
        killed: dict[int, int] = {}
        for attempt_id, task_id in attempts.items():
            pid = self._record(attempt_id, task_id)
            if pid is not None:
                killed[attempt_id] = pid
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while killed and time.monotonic() < deadline:
            for attempt_id, pid in list(killed.items()):
                if not _alive(pid):
                    self._end(attempt_id, pid)
                    del killed[attempt_id]
            time.sleep(_LOOK_SECONDS)

    def _record(self, attempt_id: int, task_id: str) -> int | None:
        """Returns the process that plays the attempt, if it is one of this worker's that Celery was to kill."""
        done = "terminated" if self._terminate else "revoked"
        note = f"task {task_id} was {done} through Celery (Flower, or 'celery control')"
        while True:
            try:
                player = cancel_attempt(self._installation, attempt_id, who=WHO, note=note, running=self._terminate)
                break
            except DatabaseUnavailable as error:
                _log.warning("revoke.postponed", attempt=attempt_id, error=str(error))
                time.sleep(_AWAY_SECONDS)
        if player is None or not self._terminate or (player.node, player.host) != (self._node, self._host):
            return None
        return player.pid if player.pid in self._processes else None

    def _end(self, attempt_id: int, pid: int) -> None:
        while True:
            try:
                end_killed(self._installation, attempt_id, self._node, self._host, pid)
                return
            except DatabaseUnavailable as error:
                _log.warning("revoke.postponed", attempt=attempt_id, error=str(error))
                time.sleep(_AWAY_SECONDS)


def _alive(pid: int) -> bool:
    """Whether it runs. Its worker alone may wait for it, which takes a moment."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
