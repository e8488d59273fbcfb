# SPDX-License-Identifier: GPL-3.0-or-later
"""``db upgrade`` and ``db current``: the history of the tables."""

from __future__ import annotations

from contextlib import closing

import click

from relengq import migrations
from relengq.cli.parameters import json_option
from relengq.cli.screen import print_json
from relengq.database import Database
from relengq.settings import Settings


@click.group("db")
def db_command() -> None:
    """Upgrade the database, or show how far it is.

    'relengq up' upgrades by itself. Elsewhere, call 'relengq db upgrade' once
    after each installation of a new version, before workers are started.
    """


@db_command.command("upgrade")
def upgrade() -> None:
    """Make or change the tables that this version needs; again does no harm.

    \b
    Exit codes:  5 the database is away, or may not be written
    """
    with closing(Database(Settings.load().database_url)) as database:
        before = migrations.current(database)
        migrations.upgrade(database)
        after = migrations.current(database)
    shown = database.shown
    if before == after:
        click.echo(f"{shown} is at {after}: nothing to do")
    else:
        click.echo(f"{shown} is at {after} now ({'new' if before is None else f'was {before}'})")


@db_command.command("current")
@json_option
def current(as_json: bool) -> int:
    """Show how far the database is, and what this version needs.

    \b
    Exit codes:  0 it is as needed, 1 it needs 'relengq db upgrade'
    """
    with closing(Database(Settings.load().database_url)) as database:
        found, needed = migrations.current(database), migrations.head()
    if as_json:
        print_json({"database": database.shown, "current": found, "needed": needed})
    elif found == needed:
        click.echo(f"at {found}, as needed")
    else:
        click.echo(f"at {found or 'nothing'}, needs {needed}: run 'relengq db upgrade'")
    return 0 if found == needed else 1
