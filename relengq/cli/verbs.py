# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs: where each is, what it is for in one line, and the group that imports a verb when it is called."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import click

from relengq.errors import did_you_mean


@dataclass(frozen=True)
class Verb:
    """One verb; ``summary`` is what ``relengq --help`` says, and is the first line of the verb's own help."""

    section: str
    module: str
    summary: str


RUNS, SITE, SYSTEM = "Runs", "The site", "The system"

VERBS: dict[str, Verb] = {
    "workflows": Verb(RUNS, "workflows", "List the workflows that can be run."),
    "show": Verb(RUNS, "workflows", "Show a workflow: its inputs, steps and triggers."),
    "run": Verb(RUNS, "start", "Start a workflow."),
    "runs": Verb(RUNS, "runs", "List runs, newest first."),
    "status": Verb(RUNS, "status", "Show the steps of a run, and why it waits or failed."),
    "logs": Verb(RUNS, "logs", "Print the output of a run's steps."),
    "history": Verb(RUNS, "runs", "Show who or what did what to a run."),
    "rerun": Verb(RUNS, "start", "Start a run again: all of it, from a step, or from where it ended."),
    "cancel": Verb(RUNS, "control", "Cancel a run."),
    "approve": Verb(RUNS, "control", "Approve the step that a run waits for."),
    "reject": Verb(RUNS, "control", "Reject the step that a run waits for."),
    "hold": Verb(RUNS, "control", "Let nothing new of a run begin."),
    "release": Verb(RUNS, "control", "Let a held run go on."),
    "trigger": Verb(RUNS, "trigger", "Start workflows with messages from files."),
    "parked": Verb(RUNS, "parked", "List messages that could not be used; look at one, replay or drop them."),
    "init": Verb(SITE, "site", "Make a new site."),
    "check": Verb(SITE, "site", "Find every fault in a site's files."),
    "schema": Verb(SITE, "site", "Print the JSON Schema of a kind of file."),
    "schedules": Verb(SITE, "schedules", "Show schedules: last, next, and what happened."),
    "up": Verb(SYSTEM, "up", "Run the whole system in the foreground."),
    "worker": Verb(SYSTEM, "processes", "Run a worker of a pool."),
    "beat": Verb(SYSTEM, "processes", "Run the clock."),
    "listen": Verb(SYSTEM, "listen", "Listen to the message bus: start runs, end waits."),
    "flower": Verb(SYSTEM, "processes", "Run Flower, the console of the workers."),
    "doctor": Verb(SYSTEM, "doctor", "Say what is wrong with the installation, and what to do."),
    "prune": Verb(SYSTEM, "prune", "Delete old output, events and runs now."),
    "db": Verb(SYSTEM, "database", "Upgrade the database, or show how far it is."),
}


class LazyGroup(click.Group):
    """A group whose verbs are imported when they are called; its help is made from the table alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb; its function has the verb's name with ``_command`` behind it."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        module = importlib.import_module(f"relengq.cli.{verb.module}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Click's own, with the nearest verb for an unknown one."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            hint = did_you_mean(args[0], VERBS)
            ctx.fail(f"There is no verb '{args[0]}'{f'; {hint}' if hint else '.'}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs by section."""
        for section in (RUNS, SITE, SYSTEM):
            with formatter.section(section):
                formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items() if verb.section == section])
