# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is to say about the message bus: who listens, what they did with messages, and what needs a person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select

from relengq import __version__
from relengq.announcements.backlog import unsent
from relengq.doctor.findings import Finding, Findings, Level
from relengq.durations import human
from relengq.engine.installation import Installation
from relengq.models import Listener, ParkedMessage
from relengq.runs.timeline import ALIVE
from relengq.workflows import WaitForStep

_FORGOTTEN = timedelta(days=7)
"""After so long nobody is told any more that a listener has ended."""
_LONG, _FAR_TOO_LONG = timedelta(minutes=1), timedelta(hours=1)
"""How long an announcement may stay unsent before that is worth a warning, and before it is bad."""


def listeners(installation: Installation) -> Findings:
    """Each host that listens, with its counts; that none does where messages are meant to do something."""
    with installation.database.read() as session:
        now = installation.database.now(session)
        rows = session.scalars(select(Listener).order_by(Listener.host)).all()
        parked = session.scalar(
            select(func.count()).select_from(ParkedMessage).where(ParkedMessage.resolution.is_(None))
        )
    living = [row for row in rows if not row.stopped and row.seen_at > now - ALIVE]
    if not living and (wanting := _wanting(installation)):
        # A site may have workflows for a bus that this installation has not got.
        level = Level.BAD if installation.settings.bus_config or rows else Level.WARN
        yield Finding(
            level, "listener", f"none is alive, so messages of the bus do nothing; {wanting}",
            "Start one: relengq listen, or see 'Listen to the bus' in the manual.",
        )  # fmt: skip
    for row in rows:
        if row in living:
            yield from _living(row, now)
        elif row.seen_at > now - _FORGOTTEN:
            yield _gone(row, now)
    if parked:
        yield Finding(
            Level.WARN, "parked messages", f"{parked} could not be used and wait for a person",
            "See 'relengq parked', which says why; then replay or drop them.",
        )  # fmt: skip


def announcements(installation: Installation) -> Findings:
    """Whether announcements leave. Nothing without a bus and without any that were written for one."""
    with installation.database.read() as session:
        now = installation.database.now(session)
        backlog = unsent(session)
    if backlog.refused:
        yield Finding(
            Level.WARN, "announcements", f"{backlog.refused} can never be sent",
            "The clock's log and 'relengq history RUN' say why.",
        )  # fmt: skip
    if backlog.since is None:
        if installation.settings.bus_config:
            yield Finding(Level.OK, "announcements", "all sent")
        return
    waited = now - backlog.since
    level = Level.BAD if waited > _FAR_TOO_LONG else Level.WARN if waited > _LONG else Level.OK
    reason = f": {backlog.reason}" if backlog.reason else ""
    message = f"{backlog.count} unsent since {backlog.since:%Y-%m-%d %H:%M:%SZ}{reason}"
    todo = "They are kept, and are sent when a clock reaches the bus: see its log, and bus_config."
    yield Finding(level, "announcements", message, None if level is Level.OK else todo)


def _wanting(installation: Installation) -> str | None:
    """Why there should be a listener, or None when nothing in the installation needs one."""
    names = sorted(
        name
        for name, workflow in installation.site.workflows.items()
        if workflow.on or any(isinstance(step, WaitForStep) for step in workflow.chain)
    )
    if names:
        return f"meant for {_some(names)}"
    return "bus_config is set" if installation.settings.bus_config else None


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _living(row: Listener, now: datetime) -> Findings:
    subject = f"listener {row.host}"
    if row.trouble:
        yield Finding(Level.BAD, subject, row.trouble, "Look at its log, and at the bus.")
    yield Finding(
        Level.OK, subject,
        f"queue {row.queue or 'not known yet'}, last message {_ago(row.last_message_at, now)}{_lag(row.lag)}; "
        f"consumed {row.consumed}: started {row.started} ({row.runs} runs), awaited {row.awaited}, "
        f"duplicate {row.duplicate}, parked {row.parked}, unmatched {row.unmatched}; matched {row.matched}",
    )  # fmt: skip
    if row.version != __version__:
        yield Finding(Level.WARN, subject, f"runs relengq {row.version}, this is {__version__}", "Upgrade it.")


def _gone(row: Listener, now: datetime) -> Finding:
    ago = human((now - row.seen_at).total_seconds())
    if row.stopped:
        return Finding(Level.WARN, f"listener {row.host}", f"was stopped {ago} ago", "Start it, if it shall listen.")
    return Finding(
        Level.WARN, f"listener {row.host}", f"not heard of for {ago}", "Look at that host, restart it there."
    )


def _ago(moment: datetime | None, now: datetime) -> str:
    return f"{human(max(0.0, (now - moment).total_seconds()))} ago" if moment else "none yet"


def _lag(lag: float | None) -> str:
    return f" (taken {human(lag)} after it was sent)" if lag is not None else ""
