# SPDX-License-Identifier: GPL-3.0-or-later
"""``up``: the whole system in one terminal."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.text import Text

from relengq import migrations
from relengq.bus import configuration
from relengq.cli import programs
from relengq.cli.follow import follow
from relengq.cli.given import gather
from relengq.cli.options import clean
from relengq.cli.parameters import input_option
from relengq.cli.plan import Plan, plan
from relengq.cli.screen import bold, dim, warn
from relengq.cli.setup import Setup, pass_setup
from relengq.durations import human
from relengq.embedded import Broker
from relengq.engine.start import start
from relengq.errors import Refused, SiteFault, UsageFault
from relengq.models import Run
from relengq.pools import Pool
from relengq.runs.timeline import alive
from relengq.settings import POOL_VARIABLE
from relengq.states import RunState
from relengq.supervisor import Child, Supervisor

_WORKERS_READY = 30.0
"""Seconds after which 'up' says that a worker has not come."""
_BROKER, _SERVICES, _WORKERS = 0, 1, 2
"""Stages: workers stop first, the broker last."""
_NAME_WIDTH = 14


@click.command("up")
@click.option("--once", "workflow", metavar="WORKFLOW", help="Start this workflow, show it until it is over, and stop.")
@input_option
@pass_setup
def up_command(setup: Setup, workflow: str | None, given: tuple[tuple[str, str], ...]) -> int:
    """Run the whole system in the foreground.

    That is: the database's tables, the embedded broker unless broker_url is
    set, a worker for each pool of workers/, the clock, Flower, and with
    bus_config the listener. One Ctrl-C stops all; what was running is handed
    back and goes on at the next 'up'.

    \b
    Example:     relengq up
                 relengq up --once nightly-compose -i release=rawhide
    Exit codes:  4 another 'relengq up' runs here;
                 with --once: 0 the run succeeded, 1 it did not
    """
    if given and workflow is None:
        raise UsageFault("-i is for the workflow of --once.", hint="See 'relengq up --help'.")
    system = _System(setup)
    if workflow is None:
        return system.stay()
    return system.once(workflow, given)


class _System:
    """Everything that one installation consists of, as children of this process."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._settings = setup.settings
        self._since = datetime.now(UTC)
        self._begun = time.monotonic()
        site = setup.installation.site
        self._pools = [site.pools[name] for name in sorted(site.pools)]
        if not self._pools:
            raise SiteFault(
                f"{site.path} has no pool: nothing would play any step.",
                hint="Write workers/default.yml, or make a site with 'relengq init'; see 'relengq check'.",
            )
        if site.faults:
            warn(f"{len(site.faults)} faults in the site's files; see 'relengq check'.")
        migrations.upgrade(setup.installation.database)

    def stay(self) -> int:
        """Run until Ctrl-C, with everybody's output in this terminal."""
        if self._settings.bus_config:
            configuration.load(self._settings.bus_config)  # a file that cannot be used is said now, and once
        with self._running(self._say) as supervisor:
            supervisor.start(self._child("clock", programs.beat(quiet=True)))
            if self._settings.bus_config:
                supervisor.start(self._child("listener", programs.listen()))
            self._await_workers(supervisor)
            flower = self._start_flower(supervisor)
            self._welcome(flower)
            supervisor.wait()
            patience = human(self._settings.stop_seconds)
            self._setup.screen.line(
                f"Stopping. Steps get {patience} to end, then they are handed back; Ctrl-C once more kills them now."
            )
            sys.stdout.flush()
        return 0

    def once(self, workflow: str, given: Sequence[tuple[str, str]]) -> int:
        """Play one workflow to its end, with the workers that it needs, whose output goes to a file."""
        site = self._setup.installation.site
        flow = site.workflow(workflow)
        self._setup.may_launch(flow, f"start workflow {flow.name}")
        values = gather(flow.inputs, given, None)
        self._pools = _needed(self._pools, plan(site, flow, values))
        log = self._settings.state_dir / "up.log"
        with log.open("a", encoding="utf-8") as file, self._running(_write_to(file.write)) as supervisor:
            started = start(self._setup.installation, workflow, values, self._setup.trigger())
            supervisor.start(self._child("clock", programs.beat(quiet=True)))
            if not self._setup.screen.terminal:
                self._setup.screen.line(f"Run {started.run_id} of {workflow} is {started.state}.")
            ended = follow(self._setup, started.run_id, _pause(supervisor))
        self._farewell(started.run_id, ended, log)
        return 0 if ended is RunState.SUCCEEDED else 1

    @contextmanager
    def _running(self, say: Callable[[str, str], None]) -> Iterator[Supervisor]:
        """The broker, which is waited for, and the workers, which are not."""
        with Supervisor(say) as supervisor:
            if self._settings.embedded_broker:
                self._start_broker(supervisor)
            for pool in self._pools:
                supervisor.start(
                    Child(
                        f"worker {pool.name}",
                        programs.worker(pool, quiet=True),
                        {**self._environment(), POOL_VARIABLE: pool.name},
                        stage=_WORKERS,
                        stop_seconds=self._settings.stop_seconds + 10,
                    )
                )
            yield supervisor

    def _start_broker(self, supervisor: Supervisor) -> None:
        broker = Broker(self._settings.broker_socket, self._settings.state_dir)
        if not broker.claim():
            raise Refused(
                f"Another 'relengq up' runs the broker of {self._settings.state_dir}.",
                hint="Use that one, or stop it first.",
            )
        supervisor.start(
            Child("broker", broker.argv(), stage=_BROKER, ready=broker.answers, death_signal=signal.SIGTERM)
        )

    def _child(self, name: str, argv: list[str]) -> Child:
        return Child(name, argv, self._environment(), stage=_SERVICES)

    def _environment(self) -> dict[str, str]:
        return {
            "RELENGQ_SITE": str(self._settings.site),
            "PYTHONUNBUFFERED": "1",
            # Said once for each worker in this terminal, it would only push more important lines away.
            "PYTHONWARNINGS": "ignore:You're running the worker with superuser",
        }

    def _await_workers(self, supervisor: Supervisor) -> None:
        """Wait until each pool's worker is there; say which is not after a while, and go on."""
        wanted = {pool.name for pool in self._pools}
        until = time.monotonic() + _WORKERS_READY
        while wanted and not supervisor.stopping and time.monotonic() < until:
            supervisor.watch(0.2)
            database = self._setup.installation.database
            with database.read() as session:
                found = alive(session, database.now(session))
            wanted -= {str(worker.pool) for worker in found if worker.seen_at >= self._since}
        if wanted and not supervisor.stopping:
            warn(f"no worker of {', '.join(sorted(wanted))} yet; see its lines above.")

    def _start_flower(self, supervisor: Supervisor) -> bool:
        """Start Flower after the workers, so that it finds them; not when its port is taken."""
        address, port = self._settings.flower_address, self._settings.flower_port
        if not port or supervisor.stopping:
            return False
        try:
            socket.create_server((address, port)).close()
        except OSError as error:
            warn(f"no Flower: {address}:{port} cannot be had ({error}). Set flower_port; 0 means none.")
            return False
        supervisor.start(self._child("flower", programs.flower(self._settings, ("--logging=warning",))))
        return True

    def _welcome(self, flower: bool) -> None:
        screen = self._setup.screen
        screen.line(bold(f"relengq is up after {time.monotonic() - self._begun:.1f}s"), f" in {self._settings.site}")
        for pool in self._pools:
            queues = ", ".join(pool.queues)
            screen.line(f"  pool {pool.name}: {pool.concurrency} at once from {queues}")
        if self._settings.bus_config:
            screen.line(f"  listener: to the message bus of {self._settings.bus_config}")
        if flower:
            screen.line(f"  Flower: http://{self._settings.flower_address}:{self._settings.flower_port}")
        screen.line("  In another terminal, in this directory: relengq workflows, run, runs, status, logs, doctor.")
        screen.line("  Ctrl-C stops all of it.")
        sys.stdout.flush()

    def _farewell(self, run_id: str, ended: RunState, log: Path) -> None:
        """Where the results are, and how to look at them when nothing runs any more."""
        screen = self._setup.screen
        with self._setup.installation.database.read() as session:
            outputs = session.get_one(Run, run_id).outputs or {}
        screen.line()
        if path := outputs.get("compose_path"):
            screen.line(bold("The compose is in "), str(path))
        screen.line(f"Look at the run:   relengq status {run_id}")
        screen.line(f"Read its output:   relengq logs {run_id}" + ("" if ended is RunState.SUCCEEDED else " --failed"))
        screen.line("All runs:          relengq runs")
        screen.line("Keep it running:   relengq up" + self._flower_hint())
        screen.line(dim(f"All has been stopped. What the workers said is in {log}"))

    def _flower_hint(self) -> str:
        settings = self._settings
        return (
            f"   (with Flower at http://{settings.flower_address}:{settings.flower_port})"
            if settings.flower_port
            else ""
        )

    def _say(self, name: str, line: str) -> None:
        """A child's line, with its name before it."""
        self._setup.screen.line(dim(f"{name[:_NAME_WIDTH].rjust(_NAME_WIDTH)} | "), Text(clean(line)))
        sys.stdout.flush()


def _needed(pools: list[Pool], planned: Plan) -> list[Pool]:
    """The pools that serve the plan's queues; all of them when a queue is known only when the run gets there."""
    queues: set[str] = set()
    for step in planned.steps:
        if step.kind == "playbook" and step.queues is None:
            return pools
        queues.update(step.queues or ())
    return [pool for pool in pools if not queues.isdisjoint(pool.queues)] or pools


def _pause(supervisor: Supervisor) -> Callable[[float], None]:
    """Wait while the children are watched. A signal ends the wait as Ctrl-C would."""

    def pause(seconds: float) -> None:
        supervisor.watch(seconds)
        if supervisor.stopping:
            raise KeyboardInterrupt

    return pause


def _write_to(write: Callable[[str], int]) -> Callable[[str, str], None]:
    def say(name: str, line: str) -> None:
        write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {name}: {clean(line)}\n")

    return say
