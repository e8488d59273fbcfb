# SPDX-License-Identifier: GPL-3.0-or-later
"""``trigger``: what messages from files would start, and start it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from relengq import migrations
from relengq.bus.schemas import Schemas
from relengq.cli.judged import Fate, Judged, show
from relengq.cli.judging import Judging
from relengq.cli.parameters import json_option
from relengq.cli.screen import bold, dim, print_json, warn
from relengq.cli.setup import Setup, pass_setup
from relengq.cli.sources import opened
from relengq.database import Database
from relengq.engine.intake import Disposition, Intake
from relengq.errors import UsageFault
from relengq.messages import Message

BATCH = 100
"""Messages that are taken in one transaction."""
FEW = 20
"""Up to so many messages, each is told of."""
_TOPICS = 10


@click.command("trigger")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, allow_dash=True)
)
@click.option("--dry-run", is_flag=True, help="Say what would happen; do nothing.")
@click.option(
    "-w", "--workflow", metavar="NAME", help="Start this workflow alone. Runs that wait get the messages all the same."
)
@click.option(
    "-a", "--all", "everything", is_flag=True,
    help=f"Tell of each message. Of more than {FEW}, only those that do something are told of without it.",
)  # fmt: skip
@json_option
@pass_setup
def trigger_command(
    setup: Setup, files: tuple[str, ...], dry_run: bool, workflow: str | None, everything: bool, as_json: bool
) -> int:
    """Start workflows with messages from files.

    FILE is what datagrepper gives, or what 'fedora-messaging record' writes; '-'
    is standard input. Each message is taken as if it had come from the bus: it
    starts the workflows that are meant for it, is kept for runs that wait for
    it, and is parked when it cannot be used. What it has started before is not
    started again, so a recording of an outage can be replayed as a whole.

    \b
    Example:     relengq trigger tag.json --dry-run
                 relengq trigger outage.jsonl --workflow container-base
                 curl -s $URL | relengq trigger -
    Exit codes:  1 a message was or would be parked, 2 a file is no recording,
                 3 no such workflow, 4 you may not; then nothing was done
    """
    if workflow is not None:
        setup.installation.site.workflow(workflow)
    if dry_run and setup.installation.database.missing:
        _begin_with_nothing(setup)
    judging = Judging(setup, Intake(setup.installation, Schemas().validate, only=workflow))
    with opened(files) as sources:
        for batch in _batches(sources.check()):
            if not dry_run:
                judging.require(batch)
        if not sources.count:
            raise UsageFault(f"There is no message in {', '.join(files)}.")
        telling = _Telling(setup, dry_run=dry_run, everything=everything or sources.count <= FEW, as_json=as_json)
        with telling.going(sources.count):
            for batch in _batches(sources.messages()):
                for found in judging.foretold(batch) if dry_run else judging.taken(batch):
                    telling.tell(found)
    telling.end(sources.count)
    return 1 if telling.counts["parked"] else 0


def _begin_with_nothing(setup: Setup) -> None:
    """Let a site that has never run be tried: a database in memory, in which nothing was started or parked."""
    setup.installation.database = Database("sqlite://")
    migrations.upgrade(setup.installation.database)


def _batches(messages: Iterator[Message]) -> Iterator[list[Message]]:
    while batch := list(islice(messages, BATCH)):
        yield batch


class _Telling:
    """Tells what becomes of messages as it goes, and counts."""

    def __init__(self, setup: Setup, *, dry_run: bool, everything: bool, as_json: bool) -> None:
        self._screen = setup.screen
        self._dry_run = dry_run
        self._everything = everything
        self._json: list[Judged] | None = [] if as_json else None
        self._step: Callable[[], None] = lambda: None
        self._silent: Counter[str] = Counter()
        """By topic: how many messages were not told of."""
        self.counts: Counter[str] = Counter()

    @contextmanager
    def going(self, count: int) -> Iterator[None]:
        """Show how far it is; when it is interrupted, say so."""
        with Progress(
            TextColumn("messages"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=self._screen.console, transient=True, disable=not self._screen.terminal or count <= BATCH,
        ) as progress:  # fmt: skip
            task = progress.add_task("messages", total=count)
            self._step = lambda: progress.advance(task)
            try:
                yield
            except BaseException:
                if not self._dry_run:
                    done = self.counts["messages"]
                    warn(f"{done} of {count} messages were taken; call it again: none is taken twice.")
                raise

    def tell(self, found: Judged) -> None:
        """Count a message, and say what became of it when that is of interest."""
        self._step()
        self.counts["messages"] += 1
        self.counts[found.outcome] += 1
        self.counts["runs"] += sum(each.outcome in (Fate.START, Fate.STARTED) for each in found.workflows)
        if self._json is not None:
            self._json.append(found)
        elif self._everything or found.outcome is not Disposition.UNMATCHED:
            show(self._screen, found)
        else:
            self._silent[found.topic] += 1

    def end(self, count: int) -> None:
        """Say what all came to."""
        counts = {key: self.counts[key] for key in ("messages", *Disposition, "runs")}
        if self._json is not None:
            print_json({"dry_run": self._dry_run, "counts": counts, "messages": self._json})
            return
        for topic, number in self._silent.most_common(_TOPICS):
            self._screen.line(dim(f"{number} on {topic}: nothing is started"))
        if len(self._silent) > _TOPICS:
            self._screen.line(dim(f"… and {len(self._silent) - _TOPICS} more topics"))
        if count != 1:
            self._screen.line(bold(_summary(counts, dry_run=self._dry_run)))
        if counts["parked"] and not self._dry_run:
            self._screen.line("See what was parked, and why: relengq parked")


def _summary(counts: Mapping[str, int], *, dry_run: bool) -> str:
    told = ", ".join(f"{key} {counts[key]}" for key in Disposition)
    runs = f"{counts['runs']} run{'' if counts['runs'] == 1 else 's'}"
    return f"{counts['messages']} messages: {told}. {runs} {'would be started' if dry_run else 'started'}."
