# SPDX-License-Identifier: GPL-3.0-or-later
"""A port that can be shut and cut: a network in front of a server that others use as well."""

from __future__ import annotations

import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.servers import HOST, free_port


class Door(ABC):
    """Stands where a server is expected, and passes connections on to it. Shut at first: connections are refused."""

    def __init__(self) -> None:
        self._listener: socket.socket | None = None
        self._sockets: set[socket.socket] = set()
        """Those that something is read from."""

    @abstractmethod
    def listener(self) -> socket.socket:
        """A socket that listens."""

    @abstractmethod
    def connected(self) -> socket.socket:
        """A connection to the server. Raises OSError."""

    @abstractmethod
    def forward(self, near: socket.socket, far: socket.socket) -> None:
        """Start threads that pass on what comes, both ways."""

    def open(self) -> None:
        """Let connections through from now on."""
        self._listener = self.listener()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Cut what there is, and refuse what comes."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.cut()

    def cut(self) -> None:
        """Break all connections that there are."""
        for each in list(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = self.connected()
                except OSError:  # the server is away, so whoever asks for it is told as it would be
                    near.close()
                    continue
                self.forward(near, far)


class Proxy(Door):
    """Forwards a TCP port of its own to a server's."""

    def __init__(self, server_port: int) -> None:
        super().__init__()
        self.port = free_port()
        self._server_port = server_port
        self._swallowing: set[socket.socket] = set()

    def swallow(self) -> None:
        """Make the connections that there are half-open: nothing arrives any more, and nobody is told."""
        self._swallowing |= self._sockets

    def listener(self) -> socket.socket:
        return socket.create_server((HOST, self.port))

    def connected(self) -> socket.socket:
        return socket.create_connection((HOST, self._server_port))

    def forward(self, near: socket.socket, far: socket.socket) -> None:
        for source, target in ((near, far), (far, near)):
            threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        self._sockets.add(source)
        with suppress(OSError):
            while data := source.recv(65536):
                if source not in self._swallowing:
                    target.sendall(data)
        if source not in self._swallowing:
            with suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)
        self._sockets.discard(source)
        source.close()


@contextmanager
def proxy(server_port: int) -> Iterator[Proxy]:
    """A proxy for one test, shut at first and at the end."""
    made = Proxy(server_port)
    try:
        yield made
    finally:
        made.shut()
