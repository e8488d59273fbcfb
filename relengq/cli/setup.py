# SPDX-License-Identifier: GPL-3.0-or-later
"""What verbs that reach the database work with: the installation, the person who calls, and their screen."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click
from sqlalchemy.orm import Session

from relengq import access, records
from relengq.access import Person
from relengq.cli.options import Options
from relengq.cli.screen import Screen
from relengq.engine import installation as installations
from relengq.engine.installation import Installation
from relengq.engine.start import Trigger
from relengq.errors import NotFound
from relengq.models import Run
from relengq.runs import lookup
from relengq.runs.definitions import workflow_of
from relengq.runs.lookup import RunLine
from relengq.settings import Settings
from relengq.workflows import Workflow

P = ParamSpec("P")
R = TypeVar("R")


class Setup:
    """One call of the command line."""

    def __init__(self, verbose: int = 0, installation: Installation | None = None) -> None:
        self._given = installation
        # Standard output is for results alone; what the engine does is said on standard error when it is wanted.
        records.configure({0: logging.CRITICAL, 1: logging.INFO}.get(verbose, logging.DEBUG), "text")

    @cached_property
    def installation(self) -> Installation:
        """The installation of the site. Raises SiteFault when its settings cannot be used."""
        return self._given or installations.at(site_directory())

    def close(self) -> None:
        """Close the database, when the call has come so far as to open it."""
        if self._given is None and "installation" in self.__dict__:
            self.installation.database.close()

    @property
    def settings(self) -> Settings:
        """Its settings."""
        return self.installation.settings

    @cached_property
    def screen(self) -> Screen:
        """Where verbs print."""
        return Screen(self.settings.time_zone)

    @cached_property
    def person(self) -> Person:
        """Who calls."""
        return access.person(self.settings)

    def trigger(self, request_id: str | None = None) -> Trigger:
        """A start by the person who calls; with an id, one that is made once."""
        return Trigger("person", who=self.person.name, key=request_id)

    def find(self, text: str) -> tuple[str, Workflow]:
        """The run that was typed, and its own copy of its workflow. Raises NotFound or UsageFault."""
        with self.installation.database.read() as session:
            run_id = lookup.find(session, text)
            return run_id, self.workflow_in(session, run_id)

    def workflow_in(self, session: Session, run_id: str) -> Workflow:
        """The workflow that a run was started from."""
        run = session.get(Run, run_id)
        if run is None:
            raise NotFound(f"There is no run {run_id}.", hint="See 'relengq runs'.")
        return workflow_of(run)

    def may_launch(self, workflow: Workflow, what: str) -> None:
        """Raise NotAllowed unless the person may start and stop runs of the workflow."""
        for each in self.versions(workflow):
            access.require(self.person, self.settings, each.access.launch, what)

    def may_read(self, workflow: Workflow, what: str | None = None) -> None:
        """Raise NotAllowed unless the person may read the logs of the workflow's runs; ``what`` is what they want."""
        for each in self.versions(workflow):
            access.require(self.person, self.settings, each.access.logs, what or f"read logs of workflow {each.name}")

    def readable(self, run: RunLine) -> bool:
        """Whether the person may see inputs, outputs and messages of a run."""
        if not access.allowed(self.person, self.settings, run.readers):
            return False
        current = self.installation.site.workflows.get(run.workflow)
        return current is None or access.allowed(self.person, self.settings, current.access.logs)

    def versions(self, workflow: Workflow) -> list[Workflow]:
        """The workflow of a run and, where the site still has it, that of its file: what was tightened since counts."""
        current = self.installation.site.workflows.get(workflow.name)
        return [workflow] if current is None else [workflow, current]

    def may_read_logs(self, workflow: Workflow) -> bool:
        """Whether the person may see output, inputs and messages of tasks of the workflow's runs."""
        return all(access.allowed(self.person, self.settings, each.access.logs) for each in self.versions(workflow))


def pass_setup(function: Callable[Concatenate[Setup, P], R]) -> Callable[P, R]:
    """Give a verb its Setup as the first argument."""

    @functools.wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> R:
        context = click.get_current_context()
        setup = context.find_object(Setup)
        if setup is None:
            given = context.find_object(Options)
            setup = Setup(given.verbose if given else 0)
            context.call_on_close(setup.close)
        return function(setup, *arguments, **options)

    return called


def site_directory() -> Path:
    """The site's directory, for verbs that need nothing else."""
    given = click.get_current_context().find_object(Options)
    return (given or Options()).site
