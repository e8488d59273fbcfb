# SPDX-License-Identifier: GPL-3.0-or-later
"""What passes between the process that stands for a play and the server that starts it, over a unix socket.

The client sends a request with its descriptors. The server's child answers ``+`` and its process id, or ``-`` and why
not. Only when the client has then said ``!`` may the play begin, so that a client that has lost its patience and runs
the plain command instead can be sure that nobody else does. At the end comes ``=`` and the play's wait status.
"""

from __future__ import annotations

import marshal
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .plan import MARK

BEGIN = b"!"
_SIZE_BYTES = 8
_DESCRIPTORS = 253
"""The kernel passes so many at once (SCM_MAX_FD)."""
_LARGEST = 64 << 20
_LINE = 4096
_MARSHAL = 2
"""A format that every Python reads: the server's may be another one."""


class Broken(Exception):
    """The other side has gone, is too slow, or does not keep to the protocol."""


class Request:
    """Everything of a process that a command inherits from it."""

    FIELDS = (
        "arguments", "environment", "private", "options", "numbers", "umask", "limits", "signals", "niceness",
        "affinity",
    )  # fmt: skip

    def __init__(
        self,
        *,
        arguments: list[str],
        environment: dict[str, str],
        private: str,
        options: list[str],
        numbers: list[int],
        umask: int,
        limits: dict[int, tuple[int, int]],
        signals: tuple[list[int], list[int]],
        niceness: int,
        affinity: list[int],
    ) -> None:
        self.arguments = arguments
        self.environment = environment
        self.private = private
        """The play's private directory."""
        self.options = options
        """Words of the guard's plan."""
        self.numbers = numbers
        """Which descriptors the play is to have; they are sent in this order."""
        self.umask = umask
        self.limits = limits
        """Soft and hard limit of each resource (see setrlimit(2))."""
        self.ignored, self.blocked = self.signals = signals
        self.niceness = niceness
        self.affinity = affinity
        """The processors that may be used."""

    def send(self, connection: socket.socket, directory: int) -> None:
        """Send it, with the descriptors that it names and that of the working directory. Raises OSError."""
        data = marshal.dumps({name: getattr(self, name) for name in self.FIELDS}, _MARSHAL)
        size = len(data).to_bytes(_SIZE_BYTES, "big")
        socket.send_fds(connection, [size], [directory, *self.numbers])
        connection.sendall(data)

    @classmethod
    def received(cls, connection: socket.socket) -> tuple[Request, list[int]]:
        """The request, and the descriptors: the working directory's and its own. Raises OSError or Broken."""
        size, descriptors, _, _ = socket.recv_fds(connection, _SIZE_BYTES, _DESCRIPTORS)
        if len(size) != _SIZE_BYTES or int.from_bytes(size, "big") > _LARGEST:
            raise Broken("this is no request")
        left, parts = int.from_bytes(size, "big"), []
        while left:
            data = connection.recv(min(left, 1 << 20))
            if not data:
                raise Broken("the request has no end")
            parts.append(data)
            left -= len(data)
        try:
            request = cls(**marshal.loads(b"".join(parts)))  # noqa: S302 -- from a process of the same user
        except (ValueError, EOFError, TypeError) as error:
            raise Broken("this is no request") from error
        if len(descriptors) != len(request.numbers) + 1:
            raise Broken("descriptors are missing")
        return request, descriptors


@contextmanager
def reachable(path: str) -> Iterator[str]:
    """A name for a socket below which it can be made and reached, however long its path is. Raises OSError."""
    directory = os.open(os.path.dirname(path), os.O_PATH)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)


def connected(path: str, seconds: float) -> socket.socket:
    """A connection to a server; whatever is done with it takes no longer than that. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        with reachable(path) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        raise
    return connection


def line(connection: socket.socket) -> bytes:
    """The next line without its end. Raises OSError, or Broken when there is none."""
    found = b""
    while not found.endswith(b"\n") and len(found) < _LINE:
        data = connection.recv(1)
        if not data:
            raise Broken("it closed the connection")
        found += data
    return found.rstrip(b"\n")


def without_private(environment: Mapping[str, str], private: str) -> dict[str, str]:
    """The environment with the same word wherever a play's private directory is named."""
    name = os.path.basename(private)
    return {
        key: value.replace(private, "\0directory").replace(name, "\0name")
        for key, value in environment.items()
        if key != MARK
    }
