# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases of a given size, filled by PostgreSQL itself with what real runs leave behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from relengq import migrations
from relengq.database import Database
from relengq.engine.installation import Installation, Parcel
from relengq.models import Base
from relengq.settings import Settings
from tests.support.servers import PostgreSQLServer

PLAYBOOK = "- {name: Nothing, hosts: localhost, gather_facts: false, tasks: []}\n"
CHAIN = "inputs: {{release: {{type: string, default: rawhide}}}}\nsteps:\n{steps}"
STEP = "  - {{name: s{at}, playbook: nothing.yml}}\n"


def write_site(place: Path, workflows: Mapping[str, int], settings: str = "") -> Path:
    """A site with workflows of so many steps each, none of which does anything."""
    files = {
        "relengq.toml": f"max_runs_active = 10000000\n{settings}",
        "playbooks/nothing.yml": PLAYBOOK,
        "workers/default.yml": "queues: [default]\n",
    }
    for name, steps in workflows.items():
        chain = "".join(STEP.format(at=at) for at in range(steps))
        files[f"playbooks/workflows/{name}.yml"] = CHAIN.format(steps=chain)
    for path, text in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    return place


@contextmanager
def installation(server: PostgreSQLServer, site: Path, sent: list[Parcel]) -> Iterator[Installation]:
    """An installation with a new database, which takes note of what it would send."""
    with server.database() as url:
        made = Installation(Settings.load(site), Database(url), send=sent.append)
        assert not made.site.faults, made.site.faults
        migrations.upgrade(made.database)
        try:
            yield made
        finally:
            made.database.close()


@contextmanager
def connection(made: Installation) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A plain connection to the installation's database."""
    url = made.database.url
    host = url.query["host"]
    with psycopg.connect(f"host={host} user={url.username} dbname={url.database}", autocommit=True) as opened:
        yield opened


def multiply(made: Installation, run_id: str, count: int) -> None:
    """Make ``count`` younger runs like one that is there: one with a single step and its first attempt, not taken yet.

    Copies are a millisecond apart. Their attempts count as sent.
    """
    with connection(made) as opened:
        opened.execute(ENCODE)
        opened.execute("SET session_replication_role = replica")  # what refers to what is known to be right
        for table, own in _COPIED.items():
            names = [column.name for column in Base.metadata.tables[table].columns]
            shown = ", ".join(own.get(name, f"t.{name}") for name in names)
            opened.execute(
                f"INSERT INTO {table} ({', '.join(names)}) SELECT {shown} FROM "  # type: ignore[arg-type]
                f"generate_series(1, {count}) AS n, {table} AS t "
                f"WHERE t.{'id' if table == 'runs' else 'run_id'} = '{run_id}' ORDER BY n",
            )
        opened.execute("SELECT setval('steps_id_seq', (SELECT max(id) FROM steps))")
        opened.execute("SET session_replication_role = DEFAULT")
        opened.execute("VACUUM ANALYZE")


def id_at(milliseconds: str, number: str) -> str:
    """SQL of a run's id: milliseconds since 2025, and two characters of a number."""
    return f"(bench_encode(({milliseconds})::bigint, 8) || bench_encode((({number})::bigint & 1023), 2))"


ENCODE = """
CREATE OR REPLACE FUNCTION bench_encode(value bigint, width int) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN width = 8 THEN '' || substr(a, (value >> 35 & 31)::int + 1, 1)
                || substr(a, (value >> 30 & 31)::int + 1, 1) || substr(a, (value >> 25 & 31)::int + 1, 1)
                || substr(a, (value >> 20 & 31)::int + 1, 1) || substr(a, (value >> 15 & 31)::int + 1, 1)
                || substr(a, (value >> 10 & 31)::int + 1, 1) ELSE '' END
         || substr(a, (value >> 5 & 31)::int + 1, 1) || substr(a, (value & 31)::int + 1, 1)
  FROM (VALUES ('0123456789abcdefghjkmnpqrstvwxyz')) AS t (a)
$$
"""
"""What ``relengq.runs.ids.encode`` does, in SQL."""
_COPY = id_at("40000000000 + n", "n")  # in 2026
_COPIED: dict[str, dict[str, str]] = {
    "runs": {"id": _COPY, "trigger_key": "NULL"},
    "run_inputs": {"run_id": _COPY},
    "steps": {"run_id": _COPY, "id": "t.id + n"},
    "attempts": {
        "run_id": _COPY, "id": "nextval('attempts_id_seq')", "step_id": "t.step_id + n", "sent_at": "t.created_at",
    },
    "history": {"run_id": _COPY, "id": "nextval('history_id_seq')", "step_id": "t.step_id + n"},
}  # fmt: skip
