# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts for a storm: each with a network and a name of its own where the machine allows, else all on the loopback.

A host is a thread of the test that has left the machine's network (unshare(2)); what it starts lives there too. The
namespaces have no names and no owner but these threads and their children: whatever becomes of the test run, nothing
is left of them, and two test runs cannot meet. The servers' host has a bridge, and each other host a cable to it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

_CLONE_NEWNET, _CLONE_NEWUTS = 0x40000000, 0x04000000
_LOOPBACK = "127.0.0.1"
MARK = "CHAOS_HOST"
"""Environment variable that says on which host a process lives, where hosts have no networks to tell them by."""


class Host:
    """One machine of the installation. ``do`` does something there; all that it starts lives there."""

    def __init__(self, name: str, address: str, *, own_network: bool) -> None:
        self.name = name
        self.address = address
        self._own_network = own_network
        self.thread = 0
        self._namespace = ""
        # The kernel ends children with the thread that started them, so this one stays until ``close``.
        self._executor = ThreadPoolExecutor(1, f"host-{name}")
        self.do(self._enter)

    def do(self, action: Callable[[], T]) -> T:
        """Do it on this host, and wait for it."""
        return self._executor.submit(action).result()

    def thread_here(self, target: Callable[[], None], name: str) -> threading.Thread:
        """A thread that lives on this host, for as long as it takes."""

        def start() -> threading.Thread:
            made = threading.Thread(target=target, name=name, daemon=True)
            made.start()  # it inherits the namespaces of the thread that makes it
            return made

        return self.do(start)

    def processes(self) -> list[psutil.Process]:
        """All that live here, but those of the test itself."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE and self._has(process):
                    found.append(process)
        return found

    def _has(self, process: psutil.Process) -> bool:
        if self._own_network:
            return str(Path(f"/proc/{process.pid}/ns/net").readlink()) == self._namespace
        mark = f"{MARK}={self.mark}".encode()
        return mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")

    @property
    def mark(self) -> str:
        """What tells this host from one of the same name in another test run."""
        return f"{self.name}-{os.getpid()}-{self.thread}"

    def close(self) -> None:
        self._executor.shutdown()

    def _enter(self) -> None:
        self.thread = threading.get_native_id()
        if not self._own_network:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET | _CLONE_NEWUTS):
            raise OSError(ctypes.get_errno(), "unshare")
        name = self.name.encode()
        libc.sethostname(name, len(name))
        _ip("link", "set", "lo", "up")
        self._namespace = str(Path("/proc/thread-self/ns/net").readlink())


class Network:
    """Hosts around the servers' host. Where the machine allows none of their own, nothing can be cut."""

    def __init__(self, names: Sequence[str], *, own: bool) -> None:
        self.own = own
        self.servers = Host("servers", "10.77.0.1" if own else _LOOPBACK, own_network=own)
        self.hosts = {
            name: Host(name, f"10.77.0.{number}" if own else _LOOPBACK, own_network=own)
            for number, name in enumerate(names, 2)
        }
        if own:
            self.servers.do(self._make_bridge)
            for host in self.hosts.values():
                self.servers.do(lambda host=host: self._lay_cable(host))
                host.do(lambda host=host: self._set_up(host))

    def _make_bridge(self) -> None:
        _ip("link", "add", "bridge", "type", "bridge")
        _ip("address", "add", f"{self.servers.address}/24", "dev", "bridge")
        _ip("link", "set", "bridge", "up")

    def _lay_cable(self, host: Host) -> None:
        cable = f"to-{host.name}"
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(host.thread))
        _ip("link", "set", cable, "master", "bridge", "up")

    def _set_up(self, host: Host) -> None:
        _ip("address", "add", f"{host.address}/24", "dev", "eth0")
        _ip("link", "set", "eth0", "up")

    def drop(self, host: Host) -> None:
        """Lose every packet on the way: both ends keep their connections, and hear nothing."""
        self.servers.do(lambda: _ip("link", "set", f"to-{host.name}", "nomaster"))

    def unplug(self, host: Host) -> None:
        """Take the host's interface down: it knows that it has no network."""
        host.do(lambda: _ip("link", "set", "eth0", "down"))

    def heal(self, host: Host) -> None:
        """Undo both."""
        host.do(lambda: _ip("link", "set", "eth0", "up"))
        self.servers.do(lambda: _ip("link", "set", f"to-{host.name}", "master", "bridge"))

    def close(self) -> None:
        for host in (*self.hosts.values(), self.servers):
            host.close()


def possible() -> bool:
    """Whether this machine lets us make networks."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(_try).result()


def _try() -> bool:
    if ctypes.CDLL(None).unshare(_CLONE_NEWNET | _CLONE_NEWUTS):
        return False
    try:
        _ip("link", "add", "bridge", "type", "bridge")
        _ip("link", "add", "probe", "type", "veth", "peer", "name", "eth0")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def reachable(address: str, port: int) -> bool:
    """Whether somebody listens, as seen from the host of the calling thread."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((address, port)) == 0


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
