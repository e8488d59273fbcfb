# SPDX-License-Identifier: GPL-3.0-or-later
"""``worker``, ``beat`` and ``flower``: become Celery's own programs, set up for this site."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import click

from relengq import migrations, site
from relengq.cli import programs
from relengq.cli.screen import warn
from relengq.cli.setup import site_directory
from relengq.content import trees
from relengq.database import Database
from relengq.embedded import Broker
from relengq.errors import NotFound, SiteFault, did_you_mean
from relengq.settings import POOL_VARIABLE, Settings

_PASSED_ON = {"ignore_unknown_options": True}


@click.command("worker", context_settings=_PASSED_ON)
@click.argument("pool")
@click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[CELERY OPTIONS]…")
def worker_command(pool: str, extra: tuple[str, ...]) -> None:
    """Run a worker of a pool.

    It serves the queues of workers/POOL.yml, with its concurrency, until it
    gets SIGTERM: then it takes nothing new, and what does not end in time
    (stop_seconds) is handed back and played by another worker.

    \b
    Example:     relengq worker x86
                 the same: RELENGQ_POOL=x86 celery -A relengq worker -n x86@%h -Q …
    Exit codes:  1 its file cannot be had from content_remote, 2 it has faults,
                 3 no such pool, 5 the database is not ready
    """
    settings = _prepared()
    found = _site(settings, pool)
    if pool not in found.pools:
        file = f"workers/{pool}.yml"
        faults = [fault for fault in found.faults if fault.file == file]
        if faults:
            raise SiteFault("; ".join(map(str, faults)), faults)
        raise NotFound(f"There is no pool '{pool}'.", hint=did_you_mean(pool, found.pools))
    _become(programs.worker(found.pools[pool], extra), {POOL_VARIABLE: pool})


@click.command("beat", context_settings=_PASSED_ON)
@click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[CELERY OPTIONS]…")
def beat_command(extra: tuple[str, ...]) -> None:
    """Run the clock.

    It starts what schedules say, and sees to retries, time-outs and lost
    workers. Any number may run: one leads, the others stand by.

    \b
    Example:  relengq beat      (the same: celery -A relengq beat)
    """
    _prepared()
    _become(programs.beat(extra), {})


@click.command("flower", context_settings=_PASSED_ON)
@click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[CELERY OPTIONS]…")
def flower_command(extra: tuple[str, ...]) -> None:
    """Run Flower, the console of the workers.

    It listens on flower_address and flower_port of relengq.toml.

    \b
    Example:  relengq flower --url-prefix=flower
    """
    settings = Settings.load()
    _tell_of_broker(settings)
    _become(programs.flower(settings, extra), {})


def _site(settings: Settings, pool: str) -> site.Site:
    """The host's own site; where it has none, what it has, else what the site's git remote has now."""
    if site.is_site(settings.site) or not settings.content_anywhere:
        return site.load(settings.site)
    found = site.load(settings.site, whole=False)
    if pool in found.pools or any(fault.file == f"workers/{pool}.yml" for fault in found.faults):
        return found
    with trees.leased(settings, trees.tip(settings)) as content:
        return site.load(content)


def _prepared() -> Settings:
    """The settings, once the database is known to be as this version needs it. Raises DatabaseUnavailable."""
    settings = Settings.load()
    database = Database(settings.database_url)
    migrations.require_head(database)
    database.close()
    _tell_of_broker(settings)
    return settings


def _tell_of_broker(settings: Settings) -> None:
    if settings.embedded_broker and not Broker(settings.broker_socket, settings.state_dir).answers():
        warn("the embedded broker does not run; 'relengq up' starts it, or set broker_url. Waiting for it.")


def _become(argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """Replace this process, so that signals and supervision reach Celery itself."""
    os.environ.update({"RELENGQ_SITE": str(site_directory()), **environment})
    sys.stdout.flush()
    os.execv(argv[0], list(argv))  # noqa: S606
