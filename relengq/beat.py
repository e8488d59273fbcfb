# SPDX-License-Identifier: GPL-3.0-or-later
"""The clock, ``celery -A relengq beat``: it starts what is scheduled, and sees to all that time brings about.

Any number of them may run. They agree by a lease in SQL on one that works; the others stand by, and one of
them takes over within twelve seconds when it dies. Nothing depends on there being one only: whatever the
clock does is done in transactions that look again, so a clock that was stopped and wakes up finds its work
done.

While it leads, it also sends announcements to the bus, if there is one.

It reads ``beat/*.yml`` again when they change, and keeps nothing on disk: celery's ``--schedule`` has no
effect. A database that is away is said once in the log and tried again until it is back.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from contextlib import suppress
from functools import partial

import celery.beat
import structlog
from celery import Celery

from relengq.announcements.announcer import Announcer
from relengq.engine.calendar import Fired, fire_due
from relengq.engine.clock import Clock
from relengq.engine.installation import Installation, current
from relengq.engine.leadership import CLOCK, give_up, hold
from relengq.errors import DatabaseUnavailable, Fault
from relengq.health import alive
from relengq.site import Site

TICK_SECONDS = 1.0
LEASE_SECONDS = 10.0
RENEW_SECONDS = 2.5
STANDBY_SECONDS = 2.0
"""How often a clock that stands by looks whether it is needed, and one that has trouble tries again."""

_log = structlog.get_logger(__name__)


class Scheduler(celery.beat.Scheduler):
    """Celery's beat with relengq's schedules; Celery finds it through its setting ``beat_scheduler``."""

    def __init__(
        self,
        app: Celery,
        schedule_filename: str | None = None,
        max_interval: float | None = None,
        lazy: bool = False,
        installation: Installation | None = None,
    ) -> None:
        self.installation = installation or current()
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._leading = False
        self._renewed = 0.0
        self._working = False
        self._trouble: str | None = None
        self._faults: tuple[Fault, ...] = ()
        self._clock = Clock(self.installation)
        self._announcer: Announcer | None = None
        super().__init__(app, max_interval=min(max_interval or TICK_SECONDS, TICK_SECONDS), lazy=lazy)

    def setup_schedule(self) -> None:
        """Nothing: Celery's own entries are not used."""

    @property
    def info(self) -> str:
        """What Celery prints of the scheduler when it starts."""
        database = self.installation.database.shown
        return f"    . site -> {self.installation.settings.site}\n    . database -> {database}"

    def tick(self) -> float:
        """Do what is due. Returns after how many seconds to come again."""
        self._working = True
        alive(self.installation.settings.health_file)
        try:
            pause = self._work()
        except DatabaseUnavailable as error:
            self._clock.database_is_away()
            if self._is_new(str(error)):
                _log.error("database.away", error=str(error))
            return STANDBY_SECONDS
        except Exception as error:
            if self._is_new(repr(error)):
                _log.exception("clock.fault")
            return STANDBY_SECONDS
        finally:
            self._working = False
        if self._trouble is not None:
            self._trouble = None
            _log.info("clock.recovered")
        return pause

    def close(self) -> None:
        """Let another clock lead at once.

        Celery calls this twice: from its signal handler, which may have interrupted a transaction, and again
        when the loop has been left.
        """
        super().close()
        if self._working:
            return
        self._announce(False)
        if self._leading:
            self._leading = False
            with suppress(DatabaseUnavailable):  # the lease runs out by itself
                give_up(self.installation, CLOCK, self.holder)

    def _work(self) -> float:
        if not self._leading:
            self._clock.stand_by()
        leading = self._lead()
        self._announce(leading)
        if not leading:
            return STANDBY_SECONDS
        site = self.installation.site
        self._say_faults(site)
        fired = self._clock.tries.do("schedules", partial(self._fire, site))
        self._clock.tick()
        if fired:
            return 0.0
        # Due times are whole seconds: come right after the next one.
        return min(float(self.max_interval), 1.005 - time.time() % 1)

    def _fire(self, site: Site) -> list[Fired]:
        return fire_due(self.installation, self.installation.now(), self._clock.tries, site)

    def _lead(self) -> bool:
        """Whether this clock is the one that works; takes or renews the lease when that is due."""
        if self._leading and time.monotonic() - self._renewed < RENEW_SECONDS:
            return True
        leading = hold(self.installation, CLOCK, self.holder, LEASE_SECONDS)
        self._renewed = time.monotonic()
        if leading != self._leading:
            _log.info("clock.leads" if leading else "clock.stands_by", holder=self.holder)
        self._leading = leading
        return leading

    def _announce(self, leading: bool) -> None:
        """Have announcements sent while this clock leads, by a thread, so that a bus that is away delays nothing."""
        if not leading:
            if self._announcer is not None:
                self._announcer.stop()
        elif (bus_config := self.installation.settings.bus_config) is not None:
            if self._announcer is None:
                # It brings Twisted and its reactor, which a clock without a bus does not pay for.
                from relengq.announcements.sending import sender  # noqa: PLC0415

                self._announcer = Announcer(self.installation.database, sender(bus_config))
            self._announcer.start()

    def _say_faults(self, site: Site) -> None:
        """Say once what is wrong in the files of ``beat/``; the schedules of the other files go on."""
        faults = tuple(fault for fault in site.faults if fault.file.startswith("beat/"))
        if faults != self._faults:
            self._faults = faults
            for fault in faults:
                _log.error("schedules.fault", fault=str(fault))

    def _is_new(self, trouble: str) -> bool:
        """Whether this trouble is not the one of the tick before; it is said once."""
        before, self._trouble = self._trouble, trouble
        return trouble != before
