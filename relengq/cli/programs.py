# SPDX-License-Identifier: GPL-3.0-or-later
"""The command lines of workers, the clock, the listener and Flower, as anybody may type them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from relengq.pools import Pool
from relengq.settings import Settings

_ALONE = ("--without-mingle", "--without-gossip")
"""What workers would tell each other is in SQL; asking the neighbours first costs a second."""


def celery(command: str, *options: str, quiet: bool = False) -> list[str]:
    """``celery -A relengq COMMAND OPTIONS``, with the Python that runs this; ``quiet``: without its banner."""
    general = ["--quiet"] if quiet else []
    return [sys.executable, "-m", "celery", *general, "-A", "relengq", command, *options]


def worker(pool: Pool, extra: Sequence[str] = (), *, quiet: bool = False) -> list[str]:
    """A worker of the pool, whose name in Celery is the pool's at this host's."""
    queues = ",".join(pool.queues)
    options = ("-n", f"{pool.name}@%h", "-Q", queues, "-c", str(pool.concurrency), "-l", "INFO", *_ALONE, *extra)
    return celery("worker", *options, quiet=quiet)


def beat(extra: Sequence[str] = (), *, quiet: bool = False) -> list[str]:
    """The clock."""
    return celery("beat", "-l", "INFO", *extra, quiet=quiet)


def listen() -> list[str]:
    """The listener."""
    return [sys.executable, "-m", "relengq", "listen"]


def flower(settings: Settings, extra: Sequence[str] = ()) -> list[str]:
    """Flower on the address and port of the settings."""
    return celery("flower", f"--address={settings.flower_address}", f"--port={settings.flower_port}", *extra)
