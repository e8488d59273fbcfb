# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that the worker starts in place of a command: it hands the play over, or is its guard itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from .handover import NotTaken, handed_over
from .outer import Worker, end_as, guarded, note
from .plan import Plan


def main(words: list[str]) -> None:
    """See to it that the command that the words end with is run under guard, and end as it does."""
    at = words.index("--")
    parent, private, *options = words[:at]
    worker, plan, command = Worker(int(parent)), Plan.of(options), words[at + 1 :]
    if plan.warm is not None:
        try:
            end_as(handed_over(worker, private, plan, command))
        except NotTaken as refusal:
            with suppress(OSError):  # a full disk: that it is not said is no reason not to play
                note(private, "cold", str(refusal))
    end_as(guarded(worker, private, plan, program(command)))


def program(command: list[str]) -> Callable[[], None]:
    """What turns the process that calls it into the command."""

    def become() -> None:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            # Python ignores these two, and an ignored signal stays ignored through execve(2).
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvp(command[0], command)  # noqa: S606
        except OSError as error:
            os.write(2, f"ERROR! {command[0]} cannot be started: {error.strerror}\n".encode())

    return become
