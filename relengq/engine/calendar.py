# SPDX-License-Identifier: GPL-3.0-or-later
"""Start what schedules owe: each due time once, through restarts, edits, outages and second clocks.

For each schedule the table ``schedules`` keeps up to where it has been dealt with. What became of a due time
stands in ``schedule_fires``, and is written in one transaction with the run that it started. So a clock that
is killed between any two statements has either done both or nothing, and of several clocks that race, one
finds the work done.

- A schedule starts at its first sight: nothing before it is owed. An edit of its timing, and enabling it
  again, begin afresh in the same way, from the moment at which the clock sees them.
- A due time is *late* when more than the setting ``schedule_grace`` has passed since. Late ones are dealt
  with as ``catch_up`` says. With ``last``, the newest late one is started only when none is due in time just
  now: a clock that comes back one second after 05:15 starts today's compose, not yesterday's and today's.
- When the database's time was ahead for a while and has been set back, what was only written down of due times that
  are still to come is taken back: they are owed. What has started stays, so nothing starts twice.
- A schedule that vanishes from the files is forgotten after ten minutes, so that moving it to another file is
  not the end of it; while a file of ``beat/`` is broken, nothing is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

import structlog
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from relengq.engine.installation import Installation
from relengq.engine.start import Order, Trigger, order, start_in
from relengq.engine.tries import Tries
from relengq.errors import ExpressionFault, InputFault, RelengqError, Unavailable
from relengq.models import Run, ScheduleFire, ScheduleState
from relengq.schedules import CatchUp, Schedule
from relengq.site import Site
from relengq.states import RunState

PER_TICK = 20
"""So many due times of one schedule are dealt with at a time: a long list does not delay the others."""

MISSED_ROWS = 100
"""Above so many missed due times in a row, one row stands for all of them."""

_SEEN_EVERY = timedelta(minutes=1)
_FORGET_AFTER = timedelta(minutes=10)
_WRONG_CLOCK = timedelta(minutes=1)
"""Nothing is dealt with before it is due, so what has been up to a later moment than now was dealt with in a time that
has been set back since. So little does no harm: by so little nothing is missed."""
_log = structlog.get_logger(__name__)


class Outcome(StrEnum):
    """What became of a due time."""

    STARTED = "started"
    SKIPPED = "skipped"
    """A run was recorded and not begun: its concurrency group was busy."""
    MISSED = "missed"
    """No clock was running, and ``catch_up`` says to leave it."""
    REFUSED = "refused"
    """The start was refused, the note says why: unknown workflow, inputs that do not fit, too many runs."""


@dataclass(frozen=True)
class Fired:
    """One due time and what became of it."""

    schedule: str
    due_at: datetime
    outcome: Outcome
    run_id: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Owed:
    """The next piece of work for a schedule: due times to record as missed, then one to start."""

    missed: tuple[Fired, ...]
    start: datetime | None

    @property
    def until(self) -> datetime:
        """The newest due time that this settles."""
        return self.start or self.missed[-1].due_at


@dataclass(frozen=True)
class ScheduleView:
    """A schedule as ``relengq schedules`` shows it."""

    name: str
    schedule: Schedule
    next_due: datetime | None
    """None when it is disabled."""
    overdue: datetime | None
    """The oldest due time that no clock has dealt with although its grace is over: is the clock running?"""
    last: Fired | None
    last_run_state: RunState | None


def owed(name: str, schedule: Schedule, after: datetime, now: datetime, grace: timedelta) -> Owed | None:
    """What is to be done next for due times later than ``after``; None when nothing is due at ``now``."""
    due = schedule.due_after(after)
    if due is None or due > now:
        return None
    if schedule.catch_up is CatchUp.ALL or now - due <= grace:
        return Owed((), due)
    newest_late = schedule.newest_due(after, now - grace - timedelta.resolution) or due
    in_time = schedule.due_after(newest_late)
    if schedule.catch_up is CatchUp.NONE or (in_time is not None and in_time <= now):
        return Owed(_missed(name, schedule, after, newest_late), None)
    before = schedule.newest_due(after, newest_late - timedelta.resolution)
    return Owed(_missed(name, schedule, after, before) if before else (), newest_late)


def _missed(name: str, schedule: Schedule, after: datetime, newest: datetime) -> tuple[Fired, ...]:
    dues = schedule.due_between(after, newest, MISSED_ROWS + 1)
    if len(dues) <= MISSED_ROWS:
        return tuple(Fired(name, due, Outcome.MISSED, note="no clock was running") for due in dues)
    note = f"no clock was running; this stands for all due times from {dues[0]:%Y-%m-%d %H:%M:%SZ} on"
    return (Fired(name, newest, Outcome.MISSED, note=note),)


def fire_due(
    installation: Installation, now: datetime, tries: Tries | None = None, site: Site | None = None
) -> list[Fired]:
    """Start what is due at ``now``. Raises DatabaseUnavailable; else a faulty schedule stops no other.

    ``tries`` remembers those that the database refuses. ``site`` is what the caller has just read.

    The caller sends what was started (``dispatch.send_due``), and calls again at once when something is
    returned: more may be owed.
    """
    site = site or installation.site
    tries = tries or Tries(installation)
    with installation.database.read() as session:
        known = {row.name: row for row in session.scalars(select(ScheduleState))}
    _note_sight(installation, site, known, now)
    fired: list[Fired] = []
    for name, schedule in site.schedules.items():
        try:
            fire = partial(_fire, installation, name, schedule, known.get(name), now)
            fired += tries.do(f"schedule {name}", fire) or ()
        except IntegrityError:
            _log.info("schedule.raced", schedule=name)  # another clock wrote the same; the next tick sees it
        except Unavailable:
            raise
        except Exception:
            _log.exception("schedule.fault", schedule=name)
    return fired


def _fire(
    installation: Installation, name: str, schedule: Schedule, known: ScheduleState | None, now: datetime
) -> list[Fired]:
    if known is not None and _ahead(known, now):
        _take_back(installation, name, now)
        return []
    if known is None or known.timing != schedule.timing:
        _begin(installation, name, schedule, now)
        return []
    fired: list[Fired] = []
    due = schedule.due_after(_settled(known)) if schedule.enabled else None
    while due is not None and due <= now and len(fired) < PER_TICK:
        settled = _settle(installation, name, schedule, now)
        if not settled:
            break
        fired += settled
        due = schedule.due_after(settled[-1].due_at)
    return fired


def _settled(state: ScheduleState) -> datetime:
    """Up to where nothing is owed any more."""
    return max(state.since, state.last_due or state.since)


def _ahead(state: ScheduleState, now: datetime) -> bool:
    """Whether it was dealt with up to a time that has not come: the database's time was ahead then."""
    return _settled(state) > now + _WRONG_CLOCK


def _begin(installation: Installation, name: str, schedule: Schedule, now: datetime) -> None:
    """Remember a schedule that is new, or whose timing was edited: from now on its due times are owed."""
    with installation.database.write() as session:
        state = session.get(ScheduleState, name, with_for_update=True)
        if state is None:
            state = ScheduleState(name=name, timing=schedule.timing)
            session.add(state)
        elif state.timing == schedule.timing:
            return  # another clock was quicker
        state.timing, state.since, state.seen_at = schedule.timing, now, now
    _log.info("schedule.seen", schedule=name, timing=schedule.timing)


def _take_back(installation: Installation, name: str, now: datetime) -> None:
    """Let a schedule go on from the newest due time that has come and was dealt with; of later ones only starts stay.

    Those may have been written in a time that was ahead, as missed or refused, and nothing has come of them.
    """
    with installation.database.write() as session:
        state = session.get(ScheduleState, name, with_for_update=True, populate_existing=True)
        now = max(now, installation.database.now(session))
        if state is None or not _ahead(state, now):
            return  # another clock was quicker, or this one stood still and is behind
        _log.warning("schedule.ahead", schedule=name, until=_settled(state).isoformat())
        mine = ScheduleFire.schedule == name
        in_its_time = or_(ScheduleFire.run_id.is_not(None), ScheduleFire.at <= now)
        dealt_with = select(func.max(ScheduleFire.due_at)).where(mine, ScheduleFire.due_at <= now, in_its_time)
        until = now if state.since > now else max(state.since, session.scalar(dealt_with) or state.since)
        void = (mine, ScheduleFire.due_at > until, ScheduleFire.run_id.is_(None))
        session.execute(delete(ScheduleFire).where(*void).execution_options(synchronize_session=False))
        state.since, state.last_due, state.seen_at = until, None, now


def _settle(installation: Installation, name: str, schedule: Schedule, now: datetime) -> list[Fired]:
    """Do the next piece of work for a schedule, in one transaction; nothing when another clock is at it."""
    grace = timedelta(seconds=installation.settings.schedule_grace)
    ordered = _ordered(installation, name, schedule)
    with installation.database.write() as session:
        # Skipped when locked: another clock may have stalled in the middle, and the other schedules go on.
        state = session.get(ScheduleState, name, with_for_update={"skip_locked": True})
        if state is None or state.timing != schedule.timing:
            return []
        work = owed(name, schedule, _settled(state), now, grace)
        if work is None:
            return []
        fired = [entry for entry in work.missed if not _recorded(session, entry.schedule, entry.due_at)]
        if work.start is not None and not _recorded(session, name, work.start):
            fired.append(_start(session, installation, name, ordered, work.start, now))
        session.add_all(
            ScheduleFire(
                schedule=entry.schedule,
                due_at=entry.due_at,
                outcome=entry.outcome.value,
                run_id=entry.run_id,
                note=entry.note,
                at=now,
            )
            for entry in fired
        )
        state.last_due = work.until
        state.seen_at = now
    for entry in fired:
        _say(entry)
    return fired


def _recorded(session: Session, name: str, due: datetime) -> bool:
    return session.get(ScheduleFire, (name, due)) is not None


def _ordered(installation: Installation, name: str, schedule: Schedule) -> Order | RelengqError:
    """What the schedule starts, checked before the transaction; or why it cannot be started."""
    try:
        return order(installation, installation.site.workflow(schedule.workflow), schedule.inputs)
    except Unavailable:
        raise
    except RelengqError as error:
        if not isinstance(error, InputFault | ExpressionFault):  # their texts may have values
            _log.warning("schedule.refused", schedule=name, reason=str(error))
        return error


def _start(
    session: Session,
    installation: Installation,
    name: str,
    ordered: Order | RelengqError,
    due: datetime,
    now: datetime,
) -> Fired:
    """Start the run of one due time within the caller's transaction, or say why that was refused."""
    if isinstance(ordered, RelengqError):
        return Fired(name, due, Outcome.REFUSED, note=str(ordered))
    detail = {"schedule": name, "due_at": due.isoformat()}
    trigger = Trigger("schedule", who=f"schedule {name}", key=f"{name} {due.isoformat()}", detail=detail)
    try:
        with session.begin_nested():
            run, _ = start_in(session, installation, ordered, trigger, now)
    except (Unavailable, SQLAlchemyError):
        raise
    except RelengqError as error:
        return Fired(name, due, Outcome.REFUSED, note=str(error))
    except Exception as error:
        _log.exception("schedule.fault", schedule=name)
        return Fired(name, due, Outcome.REFUSED, note=f"a bug, see the clock's log: {type(error).__name__}")
    outcome = Outcome.SKIPPED if run.state is RunState.SKIPPED else Outcome.STARTED
    return Fired(name, due, outcome, run.id, run.reason if outcome is Outcome.SKIPPED else None)


def _say(entry: Fired) -> None:
    say = _log.info if entry.outcome in (Outcome.STARTED, Outcome.SKIPPED) else _log.warning
    say(
        f"schedule.{entry.outcome}",
        schedule=entry.schedule,
        due_at=entry.due_at.isoformat(),
        run_id=entry.run_id,
    )


def _note_sight(installation: Installation, site: Site, known: Mapping[str, ScheduleState], now: datetime) -> None:
    """Once a minute, note which schedules the files have; forget those that they have not had for a while."""
    stale = [name for name, row in known.items() if name in site.schedules and now - row.seen_at > _SEEN_EVERY]
    broken = any(fault.file.startswith("beat/") for fault in site.faults)
    gone = [
        name
        for name, row in known.items()
        if name not in site.schedules and now - row.seen_at > _FORGET_AFTER and not broken
    ]
    if not stale and not gone:
        return
    with installation.database.write() as session:
        session.execute(update(ScheduleState).where(ScheduleState.name.in_(stale)).values(seen_at=now))
        session.execute(delete(ScheduleState).where(ScheduleState.name.in_(gone)))
    for name in gone:
        _log.info("schedule.forgotten", schedule=name)


def overview(installation: Installation, now: datetime) -> list[ScheduleView]:
    """Every schedule of the site by name: when it is due next, and what became of its last due time."""
    grace = timedelta(seconds=installation.settings.schedule_grace)
    views = []
    with installation.database.read() as session:
        states = {row.name: row for row in session.scalars(select(ScheduleState))}
        for name, schedule in sorted(installation.site.schedules.items()):
            state = states.get(name)
            following = None
            if state and schedule.enabled and state.timing == schedule.timing:
                following = schedule.due_after(_settled(state))
            last, run_state = _last(session, name)
            views.append(
                ScheduleView(
                    name=name,
                    schedule=schedule,
                    next_due=schedule.due_after(now) if schedule.enabled else None,
                    overdue=following if following and now - following > grace else None,
                    last=last,
                    last_run_state=run_state,
                )
            )
    return views


def _last(session: Session, name: str) -> tuple[Fired | None, RunState | None]:
    """What became of a schedule's newest due time, and the state of its run."""
    row = session.execute(
        select(ScheduleFire, Run.state)
        .join(Run, Run.id == ScheduleFire.run_id, isouter=True)
        .where(ScheduleFire.schedule == name)
        .order_by(ScheduleFire.due_at.desc())
        .limit(1)
    ).first()
    return (_fired(row[0]), row[1]) if row else (None, None)


def fires(installation: Installation, name: str | None = None, limit: int = 50) -> list[Fired]:
    """What became of the newest due times, of one schedule or of all, newest first."""
    query = select(ScheduleFire).order_by(ScheduleFire.due_at.desc(), ScheduleFire.schedule).limit(limit)
    if name is not None:
        query = query.where(ScheduleFire.schedule == name)
    with installation.database.read() as session:
        return [_fired(row) for row in session.scalars(query)]


def _fired(row: ScheduleFire) -> Fired:
    return Fired(row.schedule, row.due_at, Outcome(row.outcome), row.run_id, row.note)
