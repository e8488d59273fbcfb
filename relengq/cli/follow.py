# SPDX-License-Identifier: GPL-3.0-or-later
"""Follow a run until it is over: a live view on a terminal, elsewhere one line for each change of state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import click
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from relengq.cli.options import one_line
from relengq.cli.screen import Screen, dim, print_json, state, warn
from relengq.cli.setup import Setup
from relengq.cli.view import View, advise
from relengq.errors import DatabaseUnavailable
from relengq.runs.lookup import Event, hidden_labels, history
from relengq.runs.timeline import Timeline, Usual, timeline, usual
from relengq.states import RunState, StepState

EVERY = 0.5
"""Seconds between two looks at the database."""
_SETTLED_LOOKS = 10
"""A queued step's reason is printed when it has lasted for so many looks: about five seconds."""
_PERSONS = frozenset({"approved", "rejected", "cancel requested", "hold", "release"})

Pause = Callable[[float], None]
"""Waits so many seconds. Raises KeyboardInterrupt when following is to end."""


def follow(setup: Setup, run_id: str, pause: Pause = time.sleep, *, as_json: bool = False) -> RunState:
    """Show a run until it is over; returns how it ended. As JSON, only its end is printed.

    Ctrl-C leaves the run as it is, says so, and ends the command with exit code 130.
    """
    try:
        watch = _quietly if as_json else _live if setup.screen.terminal else _lines
        seen, now = watch(setup, _Looks(setup, run_id), pause)
    except KeyboardInterrupt:
        warn(f"run {run_id} goes on; see 'relengq status {run_id}', stop it with 'relengq cancel {run_id}'.")
        raise click.exceptions.Exit(130) from None
    if as_json:
        print_json({**vars(seen), "next": advise(seen)})
    else:
        setup.screen.show(View(setup.screen, seen, now).whole())
    return seen.run.state


class _Looks:
    """Looks at one run again and again; what does not change is fetched once."""

    def __init__(self, setup: Setup, run_id: str) -> None:
        self._setup = setup
        self._run_id = run_id
        self._usual: Usual | None = None
        self._last_event = 0
        self._away = False

    def look(self) -> tuple[Timeline, datetime]:
        """The run as it stands, and when that is."""
        database = self._setup.installation.database
        with database.read() as session:
            now = database.now(session)
            if self._usual is None:
                workflow = self._setup.workflow_in(session, self._run_id)
                self._usual = usual(session, workflow.name, self._run_id)
            seen = timeline(session, self._run_id, now=now, known=self._usual)
        self._labels = hidden_labels((step.name, step.instance) for step in seen.steps)
        self._readable = self._setup.readable(seen.run)
        return seen.seen(self._setup.readable), now

    def events(self) -> list[Event]:
        """What has happened since the last call, as the person may see it. Look first: it names new steps."""
        with self._setup.installation.database.read() as session:
            found = history(session, self._run_id, self._last_event)
        self._last_event = found[-1].id if found else self._last_event
        return found if self._readable else [event.hidden(self._labels) for event in found]

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Say once that the database is away, and go on when it is back."""
        try:
            yield
        except DatabaseUnavailable as error:
            if not self._away:
                warn(f"{error} Following goes on when it is back.")
            self._away = True
        else:
            self._away = False


class _Picture:
    """What Live draws: the newest look, with durations that go on between looks."""

    def __init__(self, screen: Screen, seen: Timeline, now: datetime) -> None:
        self._screen = screen
        self.put(seen, now)

    def put(self, seen: Timeline, now: datetime) -> None:
        """Take the newest look."""
        self._view = View(self._screen, seen, now)

    def __rich__(self) -> RenderableType:
        return self._view.live()


def _live(setup: Setup, looks: _Looks, pause: Pause) -> tuple[Timeline, datetime]:
    seen, now = looks.look()
    picture = _Picture(setup.screen, seen, now)
    with Live(picture, console=setup.screen.console, refresh_per_second=4, transient=True) as live:
        while not seen.run.state.final:
            pause(EVERY)
            with looks.patient():
                seen, now = looks.look()
                picture.put(seen, now)
                live.refresh()
    return seen, now


def _quietly(_: Setup, looks: _Looks, pause: Pause) -> tuple[Timeline, datetime]:
    seen, now = looks.look()
    while not seen.run.state.final:
        pause(EVERY)
        with looks.patient():
            seen, now = looks.look()
    return seen, now


def _lines(setup: Setup, looks: _Looks, pause: Pause) -> tuple[Timeline, datetime]:
    told: dict[str, tuple[str, int]] = {}
    seen, now = looks.look()
    while True:
        with looks.patient():
            seen, now = looks.look()
            for event in looks.events():
                _print_event(setup.screen, event)
            _print_waits(setup.screen, seen, now, told)
            setup.screen.console.file.flush()
        if seen.run.state.final:
            return seen, now
        pause(EVERY)


def _print_event(screen: Screen, event: Event) -> None:
    """One line for what is of interest: states of the run and its steps, failed tries, what persons did."""
    kind, _, what = event.action.partition(" ")
    if kind == "attempt" and event.after in ("queued", "running", "succeeded", "cancelled"):
        return
    if kind not in ("run", "step", "attempt") and event.action not in _PERSONS:
        return
    subject = event.step if kind in ("step", "attempt") else "run"
    word = Text(event.action) if event.action in _PERSONS else state(what)
    by = f" by {event.who}" if event.action in _PERSONS else ""
    tail = f": {one_line(event.note)}" if event.note else ""
    prefix = "attempt of " if kind == "attempt" else ""
    screen.line(dim(_clock(screen, event.at)), " ", f"{prefix}{subject}", " ", word, by + tail)


def _print_waits(screen: Screen, seen: Timeline, now: datetime, told: dict[str, tuple[str, int]]) -> None:
    """Say why a step is queued, once it has been for the same reason for a while."""
    for step in seen.steps:
        if step.state is not StepState.QUEUED or step.waits is None:
            told.pop(step.label, None)
            continue
        before, looks = told.get(step.label, ("", 0))
        looks = looks + 1 if before == step.waits.reason else 1
        told[step.label] = (step.waits.reason, looks)
        if looks == _SETTLED_LOOKS:
            due = f", due at {_clock(screen, step.waits.at)}" if step.waits.at else ""
            screen.line(
                dim(_clock(screen, now)), " ", step.label, " ", Text("waits", "yellow"), f": {step.waits.reason}{due}"
            )


def _clock(screen: Screen, at: datetime) -> str:
    return at.astimezone(screen.zone).strftime("%H:%M:%S")
