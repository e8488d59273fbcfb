# SPDX-License-Identifier: GPL-3.0-or-later
"""The only place that touches ansible-runner, with types around it.

ansible-runner prepares the environment (its callback above all) and starts the command. It is used in its
``subprocess`` mode with a pipe of ours for the output: its ``pexpect`` mode keeps all output of a play in memory, looks
for a stop every five seconds only, and fails to find the end of some outputs. Events do not take its way, a file for
each, either: they come through a pipe of their own (``relengq.execution.pipe``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from ansible_runner.config.command import CommandConfig
from ansible_runner.runner import Runner

from relengq.execution.command import Command
from relengq.execution.events import Event
from relengq.execution.pipe import widen
from relengq.execution.variables import Handed


class _Config(Protocol):
    """What is used of ansible-runner's configuration."""

    command: list[str]
    env: dict[str, str]
    input_fd: int
    output_fd: int
    error_fd: int
    suppress_output_file: bool

    def prepare_run_command(self, executable_cmd: str, cmdline_args: list[str]) -> None: ...


class Running:
    """A command under ansible-runner, in a thread that lasts as long as the command.

    (The guard asks the kernel to be told of its parent's death; to the kernel the parent is the thread.)
    """

    def __init__(self, command: Command, private: Path) -> None:
        self._complaints: list[str] = []
        config = CommandConfig(
            private_data_dir=str(private),
            host_cwd=str(command.directory),
            envvars=command.environment,
            fact_cache_type="",
            ident="play",
            quiet=True,
            runner_mode="subprocess",
        )
        _configure(config, command)
        self._config: _Config = config
        self._private = private
        self._variables = command.variables
        self._runner = Runner(config, event_handler=self._complain)
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ansible-runner", daemon=True)
        self.ended = threading.Event()

    @property
    def environment(self) -> Mapping[str, str]:
        """What the command is given, with what ansible-runner adds."""
        return self._config.env

    def under(self, guard: Sequence[str]) -> Running:
        """Have this started, which starts the command."""
        self._config.command = list(guard)
        return self

    def __enter__(self) -> Running:
        self._handed = Handed(self._private, self._variables)
        self.reader, self._writer = os.pipe()
        widen(self._writer)
        self._input = os.open(os.devnull, os.O_RDONLY)
        self._config.input_fd = self._input
        self._config.output_fd = self._config.error_fd = self._writer
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.join()
        self._handed.close()
        os.close(self._input)

    @property
    def return_code(self) -> int:
        """The command's exit code, or its signal as a negative number. Known when it has ended."""
        return int(self._runner.rc) if self._runner.rc is not None else 254

    @property
    def complaint(self) -> str | None:
        """Why ansible-runner could not start the command, when it could not."""
        if self._fault is not None:
            return f"{type(self._fault).__name__}: {self._fault}"
        return self._complaints[-1] if self._complaints else None

    def _run(self) -> None:
        try:
            self._runner.run()
        except Exception as error:
            # Whatever it is, it is why the play failed.
            self._fault = error
        finally:
            os.close(self._writer)
            self.ended.set()

    def _complain(self, event: Event) -> bool:
        # The command's output goes through our pipe, so text in an event is ansible-runner's own: a traceback.
        text = event.get("stdout")
        if isinstance(text, str) and text.strip():
            self._complaints.append(text.strip())
        return False


def _configure(config: _Config, command: Command) -> None:
    config.prepare_run_command(command.arguments[0], command.arguments[1:])
    config.suppress_output_file = True
    for name in list(config.env):
        # ansible-runner adds the worker's own environment, from which some was taken away.
        if name in os.environ and name not in command.environment:
            del config.env[name]
    if "ANSIBLE_HOST_KEY_CHECKING" not in command.environment:
        # Host keys are checked unless the site says otherwise; ansible-runner would switch it off.
        config.env.pop("ANSIBLE_HOST_KEY_CHECKING", None)
