# SPDX-License-Identifier: GPL-3.0-or-later
"""The one tree of errors. Each class fixes the exit code that the command line ends with.

A message says what is wrong and where; ``hint`` says what to do next. The command line prints both on one line and
never a traceback for anything in this tree.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class RelengqError(Exception):
    """Base of everything that relengq raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        stop = "" if self.message.endswith((".", "?", "!")) else "."
        hint = f"Did{self.hint[3:]}" if self.hint.startswith("did you mean") else self.hint
        return f"{self.message}{stop} {hint}"


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong in a file of a site. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}:{self.column}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text


class UsageFault(RelengqError):
    """The command was called with something it cannot use. Read its ``--help``."""

    exit_code = 2


class InputFault(UsageFault):
    """Inputs of a run do not fit what the workflow declares; ``problems`` names each."""

    def __init__(self, problems: Sequence[str], *, hint: str | None = None) -> None:
        super().__init__("; ".join(problems), hint=hint)
        self.problems = list(problems)


class SiteFault(UsageFault):
    """Files of the site cannot be used; ``faults`` has each place. ``relengq check`` prints them all."""

    def __init__(self, message: str, faults: Iterable[Fault] = (), *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.faults = tuple(faults)


class ExpressionFault(UsageFault):
    """An expression of a workflow does not compile, or failed with the values that it was given."""


class NotFound(RelengqError):
    """No workflow, run, step or pool of that name; the hint has the nearest one."""

    exit_code = 3


class Refused(RelengqError):
    """The system understood and will not do it."""

    exit_code = 4


class NotAllowed(Refused):
    """The person is in none of the groups that may do this."""


class WrongState(Refused):
    """The run or step is in a state in which this cannot be done."""


class Unavailable(RelengqError):
    """Something that relengq needs is away; what was accepted is kept, try again when it is back."""

    exit_code = 5


class DatabaseUnavailable(Unavailable):
    """The database does not answer, is locked, full, or has not been upgraded."""


class BrokerUnavailable(Unavailable):
    """Celery's broker does not answer. Runs are kept and are enqueued when it is back."""


class BusUnavailable(Unavailable):
    """The message bus does not answer. Announcements are kept and are sent when it is back."""


class MessageFault(RelengqError):
    """A bus message cannot be used: its body cannot be read, or is not what its schema says."""


class MessageRejected(RelengqError):
    """The bus's broker does not take a message: a queue is full, or relengq's user may not send to its topic."""


class AttemptFault(RelengqError):
    """An attempt cannot be played on this worker; the message becomes the attempt's own."""


class PlaybookMissing(AttemptFault):
    """The playbook does not exist in the run's content revision."""


class RevisionMissing(AttemptFault):
    """The content revision that the run is bound to cannot be had on this host."""


class SecretFault(AttemptFault):
    """A secret cannot be had on this worker; the message names it and its pool, and never has its value."""


class StaleAttempt(RelengqError):
    """A write came from an attempt that no longer holds its step: its fencing number is out of date."""


class IllegalTransition(RelengqError):
    """A bug: a state change that the table of transitions does not have."""

    exit_code = 70


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that looks most like ``name``, or None when none is near."""
    found = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(name: str, valid: Iterable[str]) -> str | None:
    """A hint for an unknown name: the nearest valid one, else the list when it is short, else None."""
    names = sorted(valid)
    if near := nearest(name, names):
        return f"did you mean '{near}'?"
    if names and len(names) <= 12:
        return "valid: " + ", ".join(names)
    return None
