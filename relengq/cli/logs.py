# SPDX-License-Identifier: GPL-3.0-or-later
"""``logs``: the output of a run's steps, whole or as it comes."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import click
from rich.text import Text

from relengq.cli.options import one_line, printable
from relengq.cli.parameters import json_option, run_argument
from relengq.cli.screen import print_json, state, warn
from relengq.cli.setup import Setup, pass_setup
from relengq.durations import human
from relengq.errors import DatabaseUnavailable, NotFound, did_you_mean
from relengq.logs import Reader
from relengq.models import Run
from relengq.runs import results
from relengq.runs.results import AttemptLine, TaskLine
from relengq.states import AttemptState, StepState

EVERY = 0.15
"""Seconds between two looks for more output."""
_LINE_CHARACTERS = 1 << 20
"""A line whose end has not come after so many characters is printed as far as it has."""
_RETURN = re.compile(r"\r\n?")
_BAD_ATTEMPTS = (AttemptState.FAILED, AttemptState.TIMED_OUT, AttemptState.LOST)


@dataclass(frozen=True)
class Choice:
    """Which attempts of which run to show."""

    run_id: str
    step: str | None
    host: str | None
    failed: bool


@click.command("logs")
@run_argument
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the run is over, as 'tail -f' does.")
@click.option("--step", help="Only this step, or this instance: 'createrepo [x86_64]'.")
@click.option("--host", help="What each task did on this host, instead of the output.")
@click.option("--failed", is_flag=True, help="Only the last try of each step that failed; with --host: failed tasks.")
@json_option
@pass_setup
def logs_command(
    setup: Setup, run: str, following: bool, step: str | None, host: str | None, failed: bool, as_json: bool
) -> None:
    """Print the output of a run's steps.

    With --json: every try with the result of each task on each host.

    \b
    Example:     relengq logs last --failed
                 relengq logs last -f --step createrepo
    Exit codes:  3 no such run, step or host, 4 you may not read them
    """
    run_id, workflow = setup.find(run)
    setup.may_read(workflow)
    choice = Choice(run_id, step, host, failed)
    chosen = _chosen(setup, choice)
    if as_json:
        _print_json(setup, choice, chosen)
    elif host is not None:
        _print_tasks(setup, choice, chosen)
    elif following:
        _follow(setup, choice)
    else:
        _print_output(setup, choice, chosen)


def _chosen(setup: Setup, choice: Choice) -> list[AttemptLine]:
    """The attempts to show. Raises NotFound for a step that the run does not have."""
    with setup.installation.database.read() as session:
        lines = results.attempts(session, choice.run_id, choice.step)
    if not choice.failed:
        return lines
    last = {(line.step, line.instance): line for line in lines}
    return [line for line in last.values() if line.step_state is StepState.FAILED or line.state in _BAD_ATTEMPTS]


def _print_output(setup: Setup, choice: Choice, chosen: Sequence[AttemptLine]) -> None:
    out = _Output(setup, headings=len(chosen) > 1)
    for line in chosen:
        out.take(line)
        out.end(line)
    if not out.any:
        warn(_pruned(setup, choice.run_id, results.OUTPUT) or _nothing(choice, chosen))


def _follow(setup: Setup, choice: Choice) -> None:
    """Print output as it comes, of steps side by side as well, until the run is over."""
    out = _Output(setup, headings=True)
    away = False
    while True:
        try:
            over = _over(setup, choice.run_id)
            for line in _chosen(setup, choice):
                out.take(line)
                if line.state.final:
                    out.end(line)
            sys.stdout.flush()
        except DatabaseUnavailable as error:
            if not away:
                warn(f"{error} Following goes on when it is back.")
            away = True
        else:
            away = False
            if over:
                break
        time.sleep(EVERY)
    if not out.any:
        warn(_pruned(setup, choice.run_id, results.OUTPUT) or _nothing(choice, []))


def _over(setup: Setup, run_id: str) -> bool:
    with setup.installation.database.read() as session:
        return session.get_one(Run, run_id).state.final


@dataclass
class _Open:
    """An attempt whose output is being printed."""

    reader: Reader
    rest: str = ""
    """The beginning of a line whose end has not come yet."""
    ended: bool = False


@dataclass
class _Output:
    """Prints whole lines of attempts, with a heading where another attempt goes on."""

    setup: Setup
    headings: bool
    any: bool = False
    _opened: dict[int, _Open] = field(default_factory=dict)
    _current: int | None = None

    def take(self, line: AttemptLine) -> None:
        """Print what an attempt has said since the last call."""
        database = self.setup.installation.database
        opened = self._opened.setdefault(line.id, _Open(Reader(database, line.id)))
        if opened.ended:
            return
        for piece in opened.reader.take():
            whole, newline, opened.rest = (opened.rest + piece).rpartition("\n")
            if newline:
                self._write(line, f"{whole}\n")
            if len(opened.rest) > _LINE_CHARACTERS:
                self._write(line, opened.rest)
                opened.rest = ""

    def end(self, line: AttemptLine) -> None:
        """Print what is left of an attempt that has ended."""
        opened = self._opened[line.id]
        if opened.rest:
            self._write(line, f"{opened.rest}\n")
            opened.rest = ""
        opened.ended = line.state.final

    def _write(self, line: AttemptLine, text: str) -> None:
        screen = self.setup.screen
        if self.headings and self._current != line.id:
            on = f" on {line.host}" if line.host else ""
            heading = f"==> {one_line(line.label)}{on} <=="
            screen.console.print(Text(heading if not self.any else f"\n{heading}", style="bold"))
            self._current = line.id
        self.any = True
        sys.stdout.write(printable(_RETURN.sub("\n", text)) if screen.terminal else text)


def _print_tasks(setup: Setup, choice: Choice, chosen: Sequence[AttemptLine]) -> None:
    """What each task did on the host that was asked for."""
    ids = [line.id for line in chosen]
    with setup.installation.database.read() as session:
        found = results.tasks(session, ids, host=choice.host, failed=choice.failed)
        known = results.hosts(session, ids) if not any(found.values()) else set()
    if not any(found.values()) and (gone := _pruned(setup, choice.run_id, results.TASKS)):
        raise NotFound(gone)
    if not any(found.values()) and choice.host not in known:
        hint = did_you_mean(choice.host or "", known)
        raise NotFound(f"No task of run {choice.run_id} ran on host '{choice.host}'.", hint=hint)
    for line in chosen:
        if found[line.id]:
            setup.screen.line(Text(one_line(f"{line.label} ({choice.host})"), style="bold"))
        for task in found[line.id]:
            _print_task(setup, task)


def _print_task(setup: Setup, task: TaskLine) -> None:
    took = f"  {human(task.duration)}"
    word = state("failed" if task.status in results.BAD else task.status)
    word.plain = task.status
    setup.screen.line("  ", word, f"  {task.task}{took}")
    if task.message:
        setup.screen.block("\n".join(f"      {each}" for each in task.message.strip().splitlines()))


def _print_json(setup: Setup, choice: Choice, chosen: Sequence[AttemptLine]) -> None:
    with setup.installation.database.read() as session:
        only_failed = choice.failed and choice.host is not None
        found = results.tasks(session, [line.id for line in chosen], host=choice.host, failed=only_failed)
    print_json([{**vars(line), "tasks": found[line.id]} for line in chosen])
    if gone := _pruned(setup, choice.run_id, results.TASKS):
        warn(gone)


def _pruned(setup: Setup, run_id: str, what: str) -> str | None:
    """The sentence for what was deleted of the run, or None when it was not."""
    with setup.installation.database.read() as session:
        found = results.pruned(session.get_one(Run, run_id))
    return next((f"The {what} of run {run_id}: {each}." for each in found if each.what == what), None)


def _nothing(choice: Choice, chosen: Sequence[AttemptLine]) -> str:
    if choice.failed and not chosen:
        return f"no step of run {choice.run_id} failed on a worker; see 'relengq status {choice.run_id}'."
    return f"there is no output yet; see 'relengq status {choice.run_id}' for what it waits for."
