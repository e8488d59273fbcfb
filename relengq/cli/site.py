# SPDX-License-Identifier: GPL-3.0-or-later
"""``check``, ``schema`` and ``init``: the files of a site. They need no database and no broker."""

from __future__ import annotations

import json
from pathlib import Path

import click

from relengq import site
from relengq.cli.options import one_line
from relengq.cli.parameters import json_option
from relengq.cli.screen import print_json
from relengq.cli.setup import site_directory
from relengq.errors import NotFound


@click.command("check")
@click.argument("directory", metavar="[SITE]", required=False, type=click.Path(path_type=Path))
@json_option
def check_command(directory: Path | None, as_json: bool) -> int:
    """Find every fault in a site's files.

    Each fault is one line: FILE:LINE:COLUMN, what is wrong, and the nearest
    name that would be right.

    \b
    Example:     relengq check && git push
    Exit codes:  0 no fault, 1 faults, 3 no such directory
    """
    root = (directory or site_directory()).resolve()
    if not root.is_dir():
        raise NotFound(f"There is no directory {root}.")
    faults = site.check(root)
    if as_json:
        print_json({"site": root, "faults": faults})
        return 1 if faults else 0
    for fault in faults:
        click.echo(one_line(str(fault)))
    files = len({fault.file for fault in faults})
    if faults:
        click.echo(f"{_count(len(faults), 'fault')} in {_count(files, 'file')}")
        return 1
    found = site.load(root)
    parts = (
        _count(len(found.workflows), "workflow"),
        _count(len(found.pools), "pool"),
        _count(len(found.schedules), "schedule"),
    )
    click.echo(f"{root}: no faults ({', '.join(parts)})")
    return 0


@click.command("schema")
@click.argument("kind", required=False, type=click.Choice([*site.KINDS]))
def schema_command(kind: str | None) -> None:
    """Print the JSON Schema of a kind of file.

    Editors complete and check files with it. Without KIND, one object with
    the schemas of all kinds.

    \b
    Example:  relengq schema workflow > workflow.schema.json
    """
    kinds = [kind] if kind else list(site.KINDS)
    schemas = {name: site.schema(name) for name in kinds}
    click.echo(json.dumps(schemas[kind] if kind else schemas, indent=2))


@click.command("init")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
def init_command(directory: Path) -> None:
    """Make a new site.

    It has one workflow, one pool and one schedule (switched off), passes
    'relengq check', and runs. Files that exist are never overwritten.

    \b
    Example:     relengq init mysite && cd mysite && relengq up
    Exit codes:  4 DIR has files already
    """
    site.create(directory)
    click.echo(f"{directory} is a site now. What to do next:")
    click.echo(f"  cd {directory}")
    click.echo("  relengq up                 # the whole system, in this terminal")
    click.echo("  relengq workflows          # in another one: what can be run")
    click.echo("  relengq run hello --follow")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
