# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep a claimed attempt: renew its lease from a thread of its own, and learn why its play has to stop."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from types import TracebackType

import structlog

from relengq.engine.installation import Installation
from relengq.errors import DatabaseUnavailable, StaleAttempt
from relengq.execution import Stop
from relengq.runs.attempts import Claim, renew

_ASK_SECONDS = 1.0
"""How often the worker looks whether its play has to stop."""
_GIVE_UP_AT = 0.8
"""The part of the lease after which a worker that could not renew it kills its play, before others take over."""
_KILLED_AT = 0.9
"""The part of the lease after which the play's guard kills it, when the worker itself stands still."""
_log = structlog.get_logger(__name__)


def asleep() -> float:
    """For how many seconds this machine has been suspended since it was started: monotonic time leaves them out."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class Keeper:
    """Renews a lease while the ``with`` block lasts. ``stop()`` says whether, and why, the play must end.

    ``since`` is the monotonic time at which the claim was asked for: the lease cannot have begun before.
    """

    def __init__(self, installation: Installation, claim: Claim, since: float) -> None:
        self._installation = installation
        self._claim = claim
        self._lease = installation.settings.lease_seconds
        self._reason: Stop | None = None
        self._over = threading.Event()
        self._ending = threading.Event()
        self._renewed = since
        self._slept = asleep()
        self._thread = threading.Thread(target=self._keep, name=f"keeper-{claim.attempt_id}", daemon=True)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(timeout=self._lease)

    def stop(self) -> Stop | None:
        """Why the play must stop, or None. A lease that could run out elsewhere is a reason of its own."""
        old = time.monotonic() - self._renewed + asleep() - self._slept
        if self._reason is None and old > self._lease * _GIVE_UP_AT:
            _log.error("lease.not_renewed", run_id=self._claim.run_id, attempt=self._claim.attempt_id)
            self._reason = Stop.LOST
        return self._reason

    def ending(self) -> None:
        """The play has ended, and that is being stored: whether the attempt is still ours will be found out by that."""
        self._ending.set()

    def until(self) -> float:
        """When the play must have ended, in monotonic seconds, if this process could not renew the lease again."""
        return self._renewed + self._lease * _KILLED_AT

    def _keep(self) -> None:
        pause = min(_ASK_SECONDS, self._lease / 4)
        while not self._over.wait(pause):
            # A play that has to stop for another reason may take its time to end, and to have its output written.
            if self._reason is not Stop.LOST:
                self._renew()

    def _renew(self) -> None:
        asked, slept = time.monotonic(), asleep()
        try:
            with self._installation.database.write() as session:
                now = self._installation.database.now(session)
                reason = renew(session, self._claim, now=now, lease=timedelta(seconds=self._lease))
        except StaleAttempt as error:
            if not self._ending.is_set():  # else its own ending has just been stored, and that is why
                _log.error("lease.taken_away", run_id=self._claim.run_id, error=str(error))
                self._reason = Stop.LOST
        except DatabaseUnavailable as error:
            _log.warning("lease.database_away", run_id=self._claim.run_id, error=str(error))
        except Exception:
            # Whatever it is, it may be over before the lease is.
            _log.exception("lease.fault", run_id=self._claim.run_id)
        else:
            self._renewed, self._slept = asked, slept
            if self._reason is None and reason:
                self._reason = Stop(reason)
