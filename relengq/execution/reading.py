# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes what a play says and what it tells of its tasks, in the order in which it happened, and hands it on."""

from __future__ import annotations

import codecs
import fcntl
import os
import select
import struct
import termios
import threading

from relengq.execution.events import Events
from relengq.execution.masking import Mask
from relengq.execution.order import Sink
from relengq.execution.pipe import EventPipe, decoded

_TICK = 0.1
"""Seconds between two looks whether the play has ended, while it says nothing."""
_READ_BYTES = 1 << 18
_TAIL = 16_000
"""Characters at the end of the output in which Ansible's own error is looked for."""


class Reading:
    """Reads a play's output and its events in a thread of its own, so that a sink that blocks delays no stop and no
    time-out.

    ``output`` is the descriptor of the output's pipe; it is closed at the end. What was said before an event is handed
    on before it.
    """

    def __init__(
        self, output: int, pipe: EventPipe, ended: threading.Event, events: Events, sink: Sink, mask: Mask
    ) -> None:
        self._output = output
        self._pipe = pipe
        self._ended = ended
        self._events = events
        self._sink = sink
        self._masked = mask.stream()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._thread = threading.Thread(target=self._run, name="play-output", daemon=True)
        self.tail = ""
        self.fault: Exception | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait until all has been delivered."""
        self._thread.join()

    def _run(self) -> None:
        poll = select.poll()
        for descriptor in (self._output, self._pipe.fileno()):
            poll.register(descriptor, select.POLLIN)
        try:
            while self._take(dict(poll.poll(_TICK * 1000))):
                pass
            while _waiting(self._pipe.fileno()):
                self._handle(self._pipe.read())
            self._put(self._masked.feed(self._decoder.decode(b"", final=True)) + self._masked.end())
        except Exception as error:
            # Raised again in the thread that called play().
            self.fault = error
        finally:
            os.close(self._output)

    def _take(self, ready: dict[int, int]) -> bool:
        """Take what has come. False at the end: whoever survived the guard may hold the pipes open, and that is no
        reason to wait.
        """
        if not ready:
            return not self._ended.is_set()
        lines = self._pipe.read()
        # Whatever was said before these events is in the pipe by now.
        there = _waiting(self._output)
        if not there and self._output in ready:
            self._handle(lines)
            return False
        while there > 0:
            data = os.read(self._output, min(there, _READ_BYTES))
            there -= len(data) or there
            self._put(self._masked.feed(self._decoder.decode(data)))
        self._handle(lines)
        return True

    def _handle(self, lines: list[bytes]) -> None:
        for event in decoded(lines):
            self._events.handle(event)

    def _put(self, text: str) -> None:
        if text:
            self.tail = (self.tail + text)[-_TAIL:]
            self._sink.output(text)


def _waiting(descriptor: int) -> int:
    """How many bytes can be read at once."""
    count: int
    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))
    return count
