# SPDX-License-Identifier: GPL-3.0-or-later
"""The pipe through which a play tells what happens: a line of JSON for each event.

``callback/awx_display.py`` writes it, in ansible-playbook. It is a named pipe in the play's private directory: nothing
of an event is ever on a disk, and the play waits while the pipe is full.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import structlog

from relengq.errors import AttemptFault

CALLBACKS = Path(__file__).with_name("callback")
"""The directory of the callback that writes into the pipe."""
VARIABLE = "RELENGQ_EVENTS"
"""Environment variable that names the pipe; the callback knows it too."""
_CAPACITY = 1 << 20
"""How much fits into a pipe between a play and its worker, where the kernel allows it."""
EVENT_BYTES = 64 << 20
"""What Ansible may tell of one task, or of the values of ``set_stats``, at once; beyond it the attempt fails."""
_NAME = "events"
_READ_BYTES = 1 << 18

_log = structlog.get_logger(__name__)


def name(private: Path) -> str:
    """The pipe's name, in a play's private directory."""
    return str(private / _NAME)


def widen(descriptor: int) -> None:
    """Fewer, larger reads. The kernel may refuse it to an unprivileged user with many pipes."""
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _CAPACITY)


class EventPipe:
    """The reading end. Raises OSError at first, when the pipe cannot be made."""

    def __init__(self, private: Path) -> None:
        path = name(private)
        os.mkfifo(path, 0o600)
        # Open for writing as well: else it would be at its end whenever no play has it open.
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        widen(self._descriptor)
        self._begun: list[bytes] = []
        self._size = 0

    def __enter__(self) -> EventPipe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._descriptor

    def read(self) -> list[bytes]:
        """The events, still as JSON, that have come whole since the last call; at most one read's worth.

        What a play that was killed has left unfinished is never given. Raises AttemptFault for an event without an end.
        """
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return []
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._begun, lines[0]])
            self._begun, self._size = [], 0
        self._begun.append(rest)
        self._size += len(rest)
        if self._size > EVENT_BYTES:
            raise AttemptFault(
                f"The play told of something in more than {EVENT_BYTES >> 20} MB at once.",
                hint="Hand large values on in a file, not with set_stats.",
            )
        return lines


def decoded(lines: list[bytes]) -> Iterator[Mapping[str, object]]:
    """The events that the lines are."""
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            _log.warning("event.unreadable", error=str(error), size=len(line))
            continue
        if isinstance(event, dict):
            yield event
