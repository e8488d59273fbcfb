# SPDX-License-Identifier: GPL-3.0-or-later
"""Examine an installation: each finding says how it is and, unless it is well, what to do. Never waits long."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from relengq import __version__, migrations
from relengq.celery import app, queue_length
from relengq.content import left_out
from relengq.doctor.bus import announcements, listeners
from relengq.doctor.findings import Finding, Findings, Level, size
from relengq.doctor.guarding import held_together
from relengq.doctor.secrets import secrets
from relengq.doctor.storage import kept
from relengq.doctor.warm import warm
from relengq.doctor.writer import obstinate
from relengq.embedded import Broker
from relengq.engine.calendar import overview
from relengq.engine.installation import Installation
from relengq.engine.leadership import CLOCK, leader
from relengq.errors import RelengqError
from relengq.expressions import is_template
from relengq.models import Attempt, Worker
from relengq.runs.timeline import ALIVE
from relengq.site import check
from relengq.states import AttemptState
from relengq.workflows import PlaybookStep

__all__ = ["Finding", "Level", "examine"]

_PACKAGES = ("celery", "ansible-core", "ansible-runner", "SQLAlchemy")
_SHOWN = 3
_LOW_DISK = 1 << 30
_FULL_DISK = 100 << 20
_DATABASE_SECONDS = 3.0
_BROKER_SECONDS = 6.0


def examine(installation: Installation) -> Findings:
    """Look at everything. Never raises for what is wrong, and never waits long for what does not answer."""
    examinations: list[tuple[str, Callable[[Installation], Findings]]] = [
        ("versions", _versions),
        ("process guard", held_together),
        ("warm Ansible", warm),
        ("site", _site),
        ("state directory", _state_directory),
        ("database", _database),
        ("database lock", obstinate),
        ("broker", _broker),
    ]
    bad = False
    for subject, look in examinations:
        for finding in _guarded(subject, look, installation):
            bad = bad or (subject == "database" and finding.level is Level.BAD)
            yield finding
    if bad:
        yield Finding(Level.WARN, "workers", "not looked at: the database cannot be read")
        return
    for subject, look in (
        ("clock", _clock),
        ("workers", _workers),
        ("secrets", secrets),
        ("queues", _queues),
        ("schedules", _schedules),
        ("bus", listeners),
        ("announcements", announcements),
        ("storage", kept),
    ):
        yield from _guarded(subject, look, installation)


def _guarded(subject: str, look: Callable[[Installation], Findings], installation: Installation) -> Findings:
    try:
        yield from look(installation)
    except RelengqError as error:
        yield Finding(Level.BAD, subject, error.message, error.hint)
    except OSError as error:
        yield Finding(Level.BAD, subject, str(error))


def _versions(_: Installation) -> Findings:
    found = [f"relengq {__version__}", f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            yield Finding(Level.BAD, "versions", f"{name} is not installed", "Install relengq again.")
    yield Finding(Level.OK, "versions", ", ".join(found))
    beside = Path(sys.executable).with_name("ansible-playbook")
    if not beside.exists() and shutil.which("ansible-playbook") is None:
        todo = "Install relengq with its dependencies, or put ansible-playbook into PATH."
        yield Finding(Level.BAD, "versions", "ansible-playbook is not in PATH: no worker here can play a step", todo)
    if shutil.which("git") is None:
        yield Finding(Level.WARN, "versions", "git is not in PATH: content revisions are not recorded", "Install git.")


def _site(installation: Installation) -> Findings:
    path = installation.settings.site
    faults = check(path)
    if faults:
        files = len({fault.file for fault in faults})
        yield Finding(Level.BAD, "site", f"{path}: faults: {len(faults)}, in files: {files}", "See 'relengq check'.")
    else:
        site = installation.site
        yield Finding(Level.OK, "site", f"{path}: {len(site.workflows)} workflows, {len(site.pools)} pools, no faults")
    revision = installation.revision()
    if revision is None:
        yield Finding(Level.WARN, "site", "it is not in git: reruns cannot play the same content", "git init, commit.")
    elif revision.dirty:
        yield Finding(Level.WARN, "site", f"uncommitted changes on top of {revision.commit[:12]}", "Commit them.")
    if revision is not None and (missing := left_out(path)):
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        yield Finding(
            Level.WARN, "site", "ignored files and submodules are not in the copy of a commit that runs play: "
            + ", ".join(missing[:_SHOWN]) + more,
            "Commit what playbooks need, or install it on the workers, outside the site.",
        )  # fmt: skip


def _state_directory(installation: Installation) -> Findings:
    path = installation.settings.state_dir
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(Level.BAD, "state directory", f"{existing} may not be written", "Change its owner, or state_dir.")
    free = shutil.disk_usage(existing).free
    level = Level.BAD if free < _FULL_DISK else Level.WARN if free < _LOW_DISK else Level.OK
    todo = None if level is Level.OK else "Free some space; runs fail when the disk is full."
    yield Finding(level, "state directory", f"{path}: {size(free)} free", todo)
    key = installation.settings.secret_key_file
    if key.exists() and stat.S_IMODE(key.stat().st_mode) & 0o077:
        yield Finding(Level.BAD, "secret key", f"others may read {key}", f"chmod 600 {key}")


def _database(installation: Installation) -> Findings:
    database = installation.database
    shown = database.shown
    if database.sqlite:
        _answer_soon(installation)
    found, needed = migrations.current(database), migrations.head()
    if found != needed:
        state = "has no tables yet" if found is None else f"is at {found}, not at {needed}"
        yield Finding(Level.BAD, "database", f"{shown} {state}", "Run 'relengq db upgrade'.")
        return
    parts = [shown, f"at {found}"]
    if database.sqlite:
        with database.read() as session:
            mode = session.execute(text("PRAGMA journal_mode")).scalar_one()
        parts.append(f"journal {mode}")
    else:
        with database.read() as session:
            away = abs((database.now(session) - datetime.now(UTC)).total_seconds())
        if away > 60:
            yield Finding(Level.WARN, "database", f"its clock and this host's are {away:.0f}s apart", "Check NTP.")
    yield Finding(Level.OK, "database", ", ".join(parts))


def _answer_soon(installation: Installation) -> None:
    """Touch an SQLite file with a short time-out, so that a lock that is never given back does not hang the doctor."""
    path = installation.database.url.database or ""
    if not Path(path).exists():
        return
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=_DATABASE_SECONDS) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.close()
    except sqlite3.Error as error:
        raise RelengqError(f"{path}: {error}", hint="Is another program holding it? Is the disk full?") from None


def _broker(installation: Installation) -> Findings:
    settings = installation.settings
    if settings.embedded_broker:
        broker = Broker(settings.broker_socket, settings.state_dir)
        if broker.answers():
            yield Finding(Level.OK, "broker", f"embedded, answers on {settings.broker_socket}")
        else:
            yield Finding(
                Level.BAD, "broker", "the embedded broker does not run; runs are kept meanwhile", "Start 'relengq up'."
            )
        return
    shown = app.connection_for_read().as_uri()
    try:
        answers = _within(_BROKER_SECONDS, lambda: queue_length("default"))
    except (RelengqError, OSError):
        raise
    except Exception as error:  # it answers, and says no: it is out of memory, for instance
        yield Finding(Level.BAD, "broker", f"{shown} refuses to count a queue: {error}")
        return
    if answers:
        yield Finding(Level.OK, "broker", f"{shown} answers")
    else:
        yield Finding(
            Level.BAD, "broker", f"{shown} does not answer within {_BROKER_SECONDS:g}s", "Is it overloaded, or stopped?"
        )


def _within(seconds: float, question: Callable[[], object]) -> bool:
    """Whether a question is answered in time; what it raises is raised. A driver may go on trying for a minute."""
    faults: list[Exception] = []

    def ask() -> None:
        try:
            question()
        except Exception as error:
            faults.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if faults:
        raise faults[0]
    return not thread.is_alive()


def _clock(installation: Installation) -> Findings:
    found = leader(installation, CLOCK)
    if found is None:
        yield Finding(
            Level.BAD,
            "clock",
            "no clock runs: schedules, retries, time-outs and lost workers are not seen to",
            "Start one: relengq beat, or relengq up.",
        )
    else:
        yield Finding(Level.OK, "clock", f"alive: {found[0]}")


def _workers(installation: Installation) -> Findings:
    with installation.database.read() as session:
        now = installation.database.now(session)
        workers = session.scalars(select(Worker).order_by(Worker.name)).all()
    living = [worker for worker in workers if worker.seen_at > now - ALIVE]
    if not living:
        yield Finding(Level.BAD, "workers", "no worker is alive", "Start one: relengq worker POOL, or relengq up.")
    own = installation.revision()
    for worker in workers:
        name = f"worker {worker.name}"
        if worker not in living:
            ago = int((now - worker.seen_at).total_seconds())
            yield Finding(
                Level.WARN, name, f"not heard of for {ago}s", f"Look at host {worker.host}, restart it there."
            )
            continue
        state = "stopping" if worker.stopping else "alive"
        queues = ", ".join(worker.queues)
        yield Finding(Level.OK, name, f"{state}, {worker.concurrency} at once from {queues}{_at(worker.revision)}")
        if own is not None and worker.revision not in (None, own.commit):
            yield Finding(
                Level.WARN, name, f"its site is at {(worker.revision or '')[:12]}, this one at {own.commit[:12]}",
                "Nothing, if both are pushed: a run plays its own commit, and workers fetch it. Else git pull there.",
            )  # fmt: skip
        if worker.version != __version__:
            yield Finding(Level.WARN, name, f"runs relengq {worker.version}, this is {__version__}", "Upgrade it.")
    served = {worker.pool for worker in living}
    for pool in sorted(set(installation.site.pools) - served):
        if living:
            yield Finding(Level.WARN, f"pool {pool}", "has no worker", f"Start one: relengq worker {pool}")


def _at(revision: str | None) -> str:
    return f", at {revision[:12]}" if revision else ""


def _queues(installation: Installation) -> Findings:
    with installation.database.read() as session:
        now = installation.database.now(session)
        waiting = _waiting(session, now)
        rows = session.scalars(select(Worker).where(Worker.seen_at > now - ALIVE, Worker.stopping.is_(False)))
        consumed = {queue for worker in rows for queue in worker.queues}
    for queue in sorted(_fixed_queues(installation) - consumed - set(waiting)):
        yield Finding(
            Level.WARN, f"queue {queue}", "no worker consumes it, and workflows use it", _serve(installation, queue)
        )
    for queue, (count, oldest) in sorted(waiting.items()):
        since = int((now - oldest).total_seconds())
        if queue in consumed:
            yield Finding(Level.OK, f"queue {queue}", f"waiting for a free worker: {count}, the oldest for {since}s")
        else:
            yield Finding(
                Level.BAD, f"queue {queue}", f"no worker consumes it; waiting: {count}, the oldest for {since}s",
                _serve(installation, queue),
            )  # fmt: skip


def _waiting(session: Session, now: datetime) -> dict[str, tuple[int, datetime]]:
    """By queue: how many attempts are due and not taken, and since when the oldest of them is."""
    rows = session.execute(
        select(Attempt.queue, func.count(), func.min(Attempt.due_at))
        .where(Attempt.state == AttemptState.QUEUED, Attempt.due_at <= now)
        .group_by(Attempt.queue)
    )
    return {queue: (count, oldest) for queue, count, oldest in rows}


def _fixed_queues(installation: Installation) -> set[str]:
    """The queues that workflows name outright; those in templates are known only in a run."""
    names = {
        step.queue or workflow.queue
        for workflow in installation.site.workflows.values()
        for step in workflow.chain
        if isinstance(step, PlaybookStep)
    }
    return {name for name in names if not is_template(name)}


def _serve(installation: Installation, queue: str) -> str:
    pools = sorted(name for name, pool in installation.site.pools.items() if queue in pool.queues)
    if pools:
        return f"Start a worker: relengq worker {pools[0]}"
    return "Add it to the queues of a pool in workers/, and start a worker of that pool."


def _schedules(installation: Installation) -> Findings:
    views = overview(installation, installation.now())
    coming = [(view.next_due, view.name) for view in views if view.next_due is not None]
    for view in views:
        if view.overdue is not None:
            yield Finding(
                Level.BAD, f"schedule {view.name}", f"overdue since {view.overdue:%Y-%m-%d %H:%M:%SZ}",
                "Is the clock alive? See its log.",
            )  # fmt: skip
    if coming:
        due, name = min(coming)
        yield Finding(Level.OK, "schedules", f"{len(coming)} on; next is {name} at {due:%Y-%m-%d %H:%M:%SZ}")
    else:
        yield Finding(Level.OK, "schedules", f"none is on ({len(views)} declared)")
