# SPDX-License-Identifier: GPL-3.0-or-later
"""The storm: kills, freezes, cuts off and restarts anything, in an order that its seed gives.

A host suffers one fault at a time. A play is watched by its worker and by its guard: that one of them is gone does no
harm, that both stand still at once cannot be survived by what runs on that host alone.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tests.chaos.network import Host
from tests.chaos.world import LEASE, PATIENCE, Service, World
from tests.support.processes import Process
from tests.support.servers import PostgreSQLServer, RedisServer

EVERY = 2.0
"""Seconds between two faults, at least: a storm that nothing is done in meanwhile would prove little."""
_LULL = 15.0
"""Seconds after which the next fault comes also when nothing was done: that may be what the last one has led to."""
_CLOCK_LEASE = 10
"""Seconds after which another clock leads."""
_POWER = 3.0
"""Seconds until a host that lost its power is back."""


@dataclass
class Trouble:
    """A fault that lasts until ``until`` (monotonic)."""

    what: str
    host: str
    until: float
    heal: Callable[[], None]


class Storm:
    """Does one fault after the other when ``blow`` is called, and undoes what has lasted long enough."""

    def __init__(self, world: World, seed: int, kinds: Sequence[str]) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.told: list[str] = []
        self.done = 0
        self._kinds = kinds
        self._deck: list[str] = []
        self._lasting: list[Trouble] = []
        self._began = self._next = self._last_fault = time.monotonic()
        self._seen = 0

    def blow(self, progress: int) -> None:
        """Undo what is over, and do the next fault when it is due. ``progress`` grows with what is done."""
        for trouble in [each for each in self._lasting if time.monotonic() >= each.until]:
            self._end(trouble)
        lull = progress == self._seen and time.monotonic() < self._last_fault + _LULL
        if lull or time.monotonic() < self._next:
            return
        if not self._deck:
            self._deck = list(self._kinds)
            self.random.shuffle(self._deck)
        kind = self._deck[-1]
        if getattr(self, kind)():
            self._deck.pop()
            self.done += 1
            self._seen = progress
            self._last_fault = time.monotonic()
            self._next = self._last_fault + EVERY
        else:  # nothing there to be hit: later, and another one meanwhile
            self.random.shuffle(self._deck)
            self._next = time.monotonic() + EVERY / 10

    def calm(self) -> None:
        """Undo everything."""
        for trouble in list(self._lasting):
            self._end(trouble)

    # --- processes that are killed

    def kill_worker(self) -> bool:
        return self._kill_service("worker-")

    def kill_clock(self) -> bool:
        return self._kill_service("beat-")

    def kill_listener(self) -> bool:
        return self._kill_service("listener")

    def kill_person(self) -> bool:
        return self._kill_service("person")

    def kill_child(self) -> bool:
        return self._kill_one("pool child", _pool_children)

    def kill_guard(self) -> bool:
        # Until the worker has swept up behind it; on a busy machine that may take a moment.
        return self._kill_one("guard", lambda service: _running_in(service, "execution/guard"), LEASE / 2)

    def kill_playbook(self) -> bool:
        return self._kill_one("playbook", lambda service: _running_in(service, "ansible-playbook", "execution/guard"))

    def kill_step(self) -> bool:
        return self._kill_one("program of a play", lambda service: _running_in(service, "step.sh", "ansible"))

    def lose_power(self) -> bool:
        """Kill everything on a host at once."""
        host = self._free(self.world.network.hosts["east"], self.world.network.hosts["west"])
        if host is None:
            return False
        for service in self.world.services.values():
            if service.host is host:
                service.start_at = time.monotonic() + _POWER
        killed = 0
        while processes := host.processes():  # again, for those that have been started meanwhile
            for process in processes:
                with suppress(psutil.Error):
                    process.kill()
            killed += len(processes)
        self._say("power lost", host, f"{killed} processes")
        return True

    def stop_worker(self) -> bool:
        """``systemctl restart``: it lets its steps end for a while, and hands the others back."""
        service = self._service("worker-")
        if service is None:
            return False
        service.process.signal(signal.SIGTERM)
        self._say("stopped", service.host, service.name)
        self._last("stopped", service.host, 6, lambda: None)
        return True

    # --- processes that stand still

    def freeze_worker(self) -> bool:
        return self._freeze_service("worker-", LEASE * 1.6)

    def freeze_worker_briefly(self) -> bool:
        return self._freeze_service("worker-", LEASE / 4)

    def freeze_clock(self) -> bool:
        return self._freeze_service("beat-", _CLOCK_LEASE * 1.3)

    def freeze_listener(self) -> bool:
        return self._freeze_service("listener", 5)

    def freeze_child(self) -> bool:
        return self._freeze_one("pool child", _pool_children, LEASE * 1.6)

    def freeze_guard(self) -> bool:
        return self._freeze_one("guard", lambda service: _running_in(service, "execution/guard"), LEASE * 1.3)

    # --- the network

    def drop_briefly(self) -> bool:
        return self._cut("half-open", self.world.network.drop, LEASE / 4)

    def drop(self) -> bool:
        return self._cut("half-open", self.world.network.drop, LEASE * 1.6)

    def unplug(self) -> bool:
        return self._cut("unplugged", self.world.network.unplug, LEASE * 0.8)

    # --- servers

    def flush_redis(self) -> bool:
        if not self._answers(self.world.redis) or "redis" in {each.host for each in self._lasting}:
            return False
        self.world.redis_says("FLUSHALL")
        self._say("flushed", "redis")
        return True

    def kill_redis(self) -> bool:
        return self._restart(self.world.redis, "redis", lambda server: server.kill(), down=1.0)

    def freeze_redis(self) -> bool:
        return self._freeze_server(self.world.redis, "redis", 4)

    def kill_rabbitmq(self) -> bool:
        return self._restart(self.world.rabbitmq, "rabbitmq", lambda server: server.kill(), down=1.0)

    def freeze_rabbitmq(self) -> bool:
        return self._freeze_server(self.world.rabbitmq, "rabbitmq", 5)

    def restart_postgresql(self) -> bool:
        return self._restart(self.world.postgresql, "postgresql", lambda server: server.stop(PATIENCE), down=1.0)

    def crash_postgresql(self) -> bool:
        def crash(server: Process) -> None:
            server.signal(signal.SIGQUIT)  # an immediate shutdown: the next start recovers
            server.stop(PATIENCE)

        return self._restart(self.world.postgresql, "postgresql (immediate)", crash, down=0.0)

    def freeze_postgresql(self) -> bool:
        return self._freeze_server(self.world.postgresql, "postgresql", 4)

    def lose_answers(self) -> bool:
        """Commits that happen, and whose clients see the connection break."""
        self.world.proxy.faults.lose_answer(times=self.random.randint(1, 4))
        self._say("answers lost", "postgresql")
        return True

    def lose_answer_of_an_end(self) -> bool:
        """The same for the commit that says how an attempt ended, or that it was claimed."""
        self.world.proxy.faults.lose_answer(having="UPDATE attempts SET")
        self._say("answer of an attempt lost", "postgresql")
        return True

    # --- how it is done

    def _say(self, what: str, where: Host | str, detail: str = "") -> None:
        name = where if isinstance(where, str) else where.name
        self.told.append(f"{time.monotonic() - self._began:6.1f} s  {what}: {name} {detail}".rstrip())

    def _last(self, what: str, where: Host | str, seconds: float, heal: Callable[[], None]) -> None:
        name = where if isinstance(where, str) else where.name
        self._lasting.append(Trouble(what, name, time.monotonic() + seconds, heal))

    def _end(self, trouble: Trouble) -> None:
        self._lasting.remove(trouble)
        trouble.heal()
        self._say(f"over: {trouble.what}", trouble.host)

    def _free(self, *hosts: Host) -> Host | None:
        """One of them that suffers nothing just now."""
        suffering = {trouble.host for trouble in self._lasting}
        free = [host for host in hosts if host.name not in suffering]
        return self.random.choice(free) if free else None

    def _service(self, prefix: str) -> Service | None:
        """A process of this kind that runs, on a host that suffers nothing just now."""
        free = [
            service
            for name, service in self.world.services.items()
            if name.startswith(prefix) and service.process.running and self._free(service.host)
        ]
        return self.random.choice(free) if free else None

    def _kill_service(self, prefix: str) -> bool:
        service = self._service(prefix)
        if service is None:
            return False
        os.kill(service.process.pid, signal.SIGKILL)
        self._say("killed", service.host, service.name)
        return True

    def _one(self, find: Callable[[Service], list[psutil.Process]]) -> tuple[Service, psutil.Process] | None:
        service = self._service("worker-")
        found = find(service) if service else []
        return (service, self.random.choice(found)) if service and found else None

    def _kill_one(self, what: str, find: Callable[[Service], list[psutil.Process]], seconds: float = 0) -> bool:
        if (found := self._one(find)) is None:
            return False
        service, process = found
        with suppress(psutil.Error):
            process.kill()
        self._say(f"killed a {what}", service.host, str(process.pid))
        if seconds:
            self._last(f"killed {what}", service.host, seconds, lambda: None)
        return True

    def _freeze_one(self, what: str, find: Callable[[Service], list[psutil.Process]], seconds: float) -> bool:
        if (found := self._one(find)) is None:
            return False
        service, process = found
        with suppress(psutil.Error):
            process.suspend()
        self._say(f"froze a {what}", service.host, f"{process.pid} for {seconds:g} s")
        self._last(f"frozen {what}", service.host, seconds, lambda: _resume([process]))
        return True

    def _freeze_service(self, prefix: str, seconds: float) -> bool:
        service = self._service(prefix)
        if service is None:
            return False
        frozen = _freeze([psutil.Process(service.process.pid), *_pool_children(service)])
        self._say("froze", service.host, f"{service.name} for {seconds:g} s")
        self._last(f"frozen {service.name}", service.host, seconds, lambda: _resume(frozen))
        return True

    def _freeze_server(self, server: Process | None, name: str, seconds: float) -> bool:
        if server is None or not self._answers(server) or name in {each.host for each in self._lasting}:
            return False
        parent = psutil.Process(server.pid)
        frozen = _freeze([parent, *parent.children(recursive=True)])
        self._say("froze", name, f"for {seconds:g} s")
        self._last("frozen", name, seconds, lambda: _resume(frozen))
        return True

    def _restart(self, server: Process | None, name: str, end: Callable[[Process], None], down: float) -> bool:
        short = name.partition(" ")[0]
        if server is None or not self._answers(server) or short in {each.host for each in self._lasting}:
            return False
        # From its own host's thread, with which the kernel would end it.
        end(server)
        self._say("ended", name)

        def start() -> None:
            self.world.network.servers.do(server.start)
            if isinstance(server, PostgreSQLServer | RedisServer):
                server.ready()

        self._last("ended", short, down, start)
        return True

    def _answers(self, server: Process | None) -> bool:
        return server is not None and server.running

    def _cut(self, what: str, cut: Callable[[Host], None], seconds: float) -> bool:
        """Cut off any host but the outside; there the books are kept."""
        network = self.world.network
        hosts = [host for name, host in network.hosts.items() if name != "outside"]
        host = self._free(*hosts, network.hosts["east"], network.hosts["west"])
        if host is None:
            return False
        cut(host)
        self._say(what, host, f"for {seconds:g} s")
        self._last(what, host, seconds, lambda: network.heal(host))
        return True


def _pool_children(service: Service) -> list[psutil.Process]:
    with suppress(psutil.Error):
        own = psutil.Process(service.process.pid).children()
        return [child for child in own if "execution/guard" not in " ".join(child.cmdline())]
    return []


def _running_in(service: Service, word: str, without: str = "\0") -> list[psutil.Process]:
    found = []
    for process in service.host.processes():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if word in line and without not in line:
                found.append(process)
    return found


def _freeze(processes: list[psutil.Process]) -> list[psutil.Process]:
    frozen = []
    for process in processes:
        with suppress(psutil.Error):
            process.suspend()
            frozen.append(process)
    return frozen


def _resume(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.resume()


ON_WORKERS = (
    "kill_worker", "kill_child", "kill_guard", "kill_playbook", "kill_step", "lose_power", "stop_worker",
    "freeze_worker", "freeze_worker_briefly", "freeze_child", "freeze_guard",
)  # fmt: skip
ON_OTHERS = ("kill_clock", "kill_listener", "kill_person", "freeze_clock", "freeze_listener")
ON_NETWORK = ("drop_briefly", "drop", "drop", "unplug")
ON_REDIS = ("flush_redis", "kill_redis", "freeze_redis")
ON_DATABASE = (
    "restart_postgresql", "crash_postgresql", "freeze_postgresql", "lose_answers", "lose_answer_of_an_end",
)  # fmt: skip
ON_BUS = ("kill_rabbitmq", "freeze_rabbitmq")
