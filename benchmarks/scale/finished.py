# SPDX-License-Identifier: GPL-3.0-or-later
"""Many runs that are over: do lists, filters, searches and one run's page take longer for them?

The two databases have the same mix: of 10 workflows, 20 persons, 10 releases; 8 of 10 runs succeeded. A run has three
steps with an attempt each, three inputs, eight lines of history and three task results. What is asked for is there at
least thirty times (a page) on both sides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.measure import by_turns
from benchmarks.scale.installations import ENCODE, connection, id_at, installation, write_site
from benchmarks.scale.measure import Comparison, heading
from relengq.engine.installation import Installation
from relengq.models import Definition, Run
from relengq.runs import lookup, results
from relengq.runs.lookup import Filters
from relengq.runs.timeline import timeline
from relengq.states import RunState
from tests.support.servers import PostgreSQLServer

TARGET = 2.0
LITTLE = 1000
WORKFLOWS = 10

_IDS = f"""
CREATE TEMP TABLE IF NOT EXISTS ids (n bigint, id text);
TRUNCATE ids;
INSERT INTO ids SELECT n, {id_at("40000000000 + n * 20", "n")} FROM generate_series(%(first)s, %(last)s) AS n;
"""
_PACKAGE = "(CASE WHEN n % (%(count)s / 30) = 0 THEN 'rare' ELSE 'package-' || n % 5000 END)"
_AT = "(timestamptz '2026-04-08 23:06:40Z' + n * interval '20 milliseconds')"
_STATE = "(CASE WHEN n % 10 < 8 THEN 'succeeded' WHEN n % 10 = 8 THEN 'failed' ELSE 'cancelled' END)"
ROWS = f"""
INSERT INTO runs (id, workflow, definition_digest, state, trigger_kind, trigger_key, trigger, who, inputs, dirty,
                  created_at, started_at, finished_at, held, result)
SELECT ids.id, 'flow' || n % {WORKFLOWS}, d.digest, {_STATE},
       (ARRAY['person', 'message', 'schedule'])[n % 3 + 1], 'message:flow' || n % {WORKFLOWS} || ':id:' || n,
       '{{"message_id": "x", "topic": "org.fedoraproject.prod.buildsys.tag"}}', 'person' || n % 20,
       jsonb_build_object('release', 'f' || 35 + n % 10, 'package', {_PACKAGE}, 'arch', 'x86_64'), false,
       {_AT}, {_AT} + interval '1 second', {_AT} + interval '2 minutes', false, {_STATE}
FROM ids, definitions AS d WHERE d.digest = 'flow' || n % {WORKFLOWS};
INSERT INTO run_inputs (run_id, name, position, value)
SELECT ids.id, name, 0, CASE name WHEN 'release' THEN 'f' || 35 + n % 10 WHEN 'arch' THEN 'x86_64'
                                 ELSE {_PACKAGE} END
FROM ids, unnest(ARRAY['release', 'package', 'arch']) AS name;
INSERT INTO steps (id, run_id, position, instance, name, kind, final, state, allow_failure, queue, outputs, failures,
                   losses, started_at, finished_at)
SELECT n * 3 + at, ids.id, at, '', 's' || at, 'playbook', false,
       CASE WHEN at < 2 THEN 'succeeded' ELSE {_STATE} END, false, 'default', '{{"packages": 42}}', 0, 0,
       {_AT} + (1 + at * 30) * interval '1 second', {_AT} + (29 + at * 30) * interval '1 second'
FROM ids, generate_series(0, 2) AS at;
INSERT INTO attempts (id, step_id, run_id, number, state, queue, label, created_at, due_at, sent_at, sends, fence, host,
                      worker, started_at, finished_at, return_code, stats)
SELECT n * 3 + at, n * 3 + at, ids.id, 1, CASE WHEN at < 2 THEN 'succeeded' ELSE {_STATE} END, 'default',
       'flow: s' || at || ' #1', {_AT}, {_AT}, {_AT}, 1, 1, 'host', 'default@host',
       {_AT} + (1 + at * 30) * interval '1 second', {_AT} + (29 + at * 30) * interval '1 second', 0,
       '{{"localhost": {{"ok": 3, "changed": 1, "failures": 0}}}}'
FROM ids, generate_series(0, 2) AS at;
INSERT INTO task_results (attempt_id, seq, host, play, task, action, status, changed, duration)
SELECT n * 3 + at, 1, 'localhost', 'Play', 'Do it', 'ansible.builtin.command', 'changed', true, 1.5
FROM ids, generate_series(0, 2) AS at;
INSERT INTO history (run_id, step_id, at, who, action, before, after)
SELECT ids.id, CASE WHEN line BETWEEN 1 AND 6 THEN n * 3 + (line - 1) / 2 END,
       {_AT} + line * 15 * interval '1 second', 'worker host', 'step running', 'queued', 'running'
FROM ids, generate_series(0, 7) AS line;
"""
_PORTION = 100_000
Question = Callable[[Session, str], object]


def measure(server: PostgreSQLServer, directory: Path, count: int, turns: int) -> Iterator[Comparison]:
    """Compare what people ask with ``count`` runs and with a thousand."""
    site = write_site(directory / "finished", {f"flow{at}": 3 for at in range(WORKFLOWS)})
    with ExitStack() as stack:
        little, much = (stack.enter_context(installation(server, site, [])) for _ in range(2))
        begun = time.monotonic()
        fill(little, LITTLE)
        fill(much, count)
        print(f"\n{runs(much):,} finished runs against {runs(little):,}; {turns} turns; {size(much)}", end="")
        print(f", filled in {time.monotonic() - begun:.0f}s")
        print(heading("little", "much"))
        middles = {id(made): middle(made) for made in (little, much)}
        for name, question in questions().items():
            sides = {
                which: lambda _, made=made, question=question: asked(made, question, middles[id(made)])
                for which, made in (("little", little), ("much", much))
            }
            found = by_turns(sides, turns, warm=2)
            yield Comparison(name, found["little"], found["much"], TARGET)


def asked(made: Installation, question: Question, run_id: str) -> None:
    """Ask in a transaction of its own, as each call of the command line does."""
    with made.database.read() as session:
        assert question(session, run_id), "nothing was found"


def questions() -> Mapping[str, Question]:
    """What is asked; each gets the id of a run in the middle of all."""
    filters = {
        "the list": Filters(),
        "of a workflow": Filters(workflow="flow3"),
        "in a state": Filters(states=(RunState.FAILED,)),
        "in one of several states": Filters(states=(RunState.FAILED, RunState.CANCELLED)),
        "of a workflow, in a state": Filters(workflow="flow3", states=(RunState.SUCCEEDED,)),
        "by a person": Filters(who="person7"),
        "by a trigger": Filters(trigger="message"),
        "with an input": Filters(inputs=(("release", "f38"),)),
        "with a rare input": Filters(inputs=(("package", "rare"),)),
        "of a workflow, with two inputs": Filters(workflow="flow3", inputs=(("release", "f38"), ("arch", "x86_64"))),
    }
    made: dict[str, Question] = {
        name: lambda session, _, each=each: lookup.runs(session, each) for name, each in filters.items()
    }
    made["a page in the middle"] = lambda session, run_id: lookup.runs(session, Filters(until=created(session, run_id)))
    made["a run by the beginning of its id"] = lambda session, run_id: lookup.find(session, run_id[:9])
    made["the newest run"] = lambda session, _: lookup.find(session, lookup.LAST)
    made["one run's page"] = lambda session, run_id: timeline(session, run_id, now=created(session, run_id))
    made["one run's history"] = lookup.history
    made["one run's tasks"] = lambda session, run_id: results.tasks(
        session, [line.id for line in results.attempts(session, run_id)]
    )
    return made


def created(session: Session, run_id: str) -> object:
    return session.get_one(Run, run_id).created_at + timedelta(milliseconds=20)


def fill(made: Installation, count: int) -> None:
    """Put so many runs into an installation."""
    with made.database.write() as session:
        for at in range(WORKFLOWS):
            workflow = made.site.workflow(f"flow{at}")
            session.add(Definition(digest=f"flow{at}", body=workflow.body))
    with connection(made) as opened:
        opened.execute(ENCODE)
        opened.execute("SET session_replication_role = replica")  # what refers to what is known to be right
        listed = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname LIKE 'ix\\_%'"
        indexes = dict(opened.execute(listed).fetchall())
        for index in indexes:
            opened.execute(f"DROP INDEX {index}")  # type: ignore[arg-type]
        for first in range(1, count + 1, _PORTION):
            bounds = {"first": str(first), "last": str(min(count, first + _PORTION - 1)), "count": str(count)}
            text = _IDS + ROWS
            for name, value in bounds.items():
                text = text.replace(f"%({name})s", value)
            opened.execute(text)  # type: ignore[arg-type]
        opened.execute("SET maintenance_work_mem = '512MB'")
        for made_again in indexes.values():
            opened.execute(made_again)  # type: ignore[arg-type]
        opened.execute("VACUUM ANALYZE")


def middle(made: Installation) -> str:
    """The id of a run in the middle."""
    with made.database.read() as session:
        count = session.scalar(select(func.count()).select_from(Run)) or 0
        return session.scalars(select(Run.id).order_by(Run.id).offset(count // 2).limit(1)).one()


def runs(made: Installation) -> int:
    with made.database.read() as session:
        return session.scalar(select(func.count()).select_from(Run)) or 0


def size(made: Installation) -> str:
    with connection(made) as opened:
        row = opened.execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchone()
    return str(row[0]) if row else ""
