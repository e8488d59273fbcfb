# SPDX-License-Identifier: GPL-3.0-or-later
"""pytest-celery's nodes over local processes, since its own need Docker.

pytest-celery knows a node by its *container*: an object with ``id``, ``name``, ``status``, ``logs()``,
``kill()``, ``restart()``, ``teardown()`` and ``ready()``. These classes give that surface to a Process,
so that ``celery_setup``, ``CeleryTestBroker`` and ``CeleryTestWorker`` drive real brokers and workers of
this machine.
"""

from __future__ import annotations

import signal
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

import celery
import psutil
from pytest_celery import (
    CeleryTestContainer,
    CeleryTestWorker,
    CeleryWorkerContainer,
    RabbitMQContainer,
    RedisContainer,
)

from tests.support.processes import Process
from tests.support.servers import HOST, RabbitMQServer, RedisServer

_ENDING = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


class LocalContainer(CeleryTestContainer):
    """What pytest-celery asks of a container, answered by a Process; Docker's constructor is not called."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._id = uuid.uuid4().hex
        process.start()

    @property
    def id(self) -> str:
        return self._id

    @property
    def name(self) -> str:
        return f"{type(self).__name__}-{self._id[:12]}"

    @property
    def status(self) -> str:
        return "running" if self.process.running else "exited"

    def logs(self) -> str:
        return self.process.log

    def ready(self) -> bool:
        self.process.wait_for_log(self.ready_prompt or "", 60)
        return True

    def reload(self) -> None:
        """A process has no description that could be old."""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """As ``docker kill``: SIGKILL takes everything in the container, others go to its first process."""
        number = _number(signal)
        if number == _number("SIGKILL"):
            self.process.kill()
            return
        self.process.signal(number)
        if number in _ENDING:
            self.process.stop(30)

    def start(self) -> None:
        """Start again after ``kill``."""
        self.process.start()

    def restart(self, timeout: float = 10) -> None:
        self.process.stop(timeout)
        self.process.start()
        self.ready()

    def teardown(self) -> None:
        self.process.stop()


def _number(name: str | int) -> signal.Signals:
    return signal.Signals[name] if isinstance(name, str) else signal.Signals(name)


class LocalRedis(LocalContainer, RedisContainer):
    """A private Redis as a pytest-celery broker."""

    process: RedisServer

    def __init__(self, directory: Path) -> None:
        super().__init__(RedisServer(directory))

    @property
    def hostname(self) -> str:
        return HOST

    @property
    def port(self) -> int:
        return self.process.port

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def host_url(self) -> str:
        return self.process.url


class LocalRabbitMQ(LocalContainer, RabbitMQContainer):
    """A private RabbitMQ node as a pytest-celery broker."""

    process: RabbitMQServer

    def __init__(self, directory: Path) -> None:
        super().__init__(RabbitMQServer(directory))

    @property
    def hostname(self) -> str:
        return HOST

    @property
    def port(self) -> int:
        return self.process.port

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def host_url(self) -> str:
        return self.process.url


class LocalWorker(LocalContainer, CeleryWorkerContainer):
    """``celery -A relengq worker`` in a site's directory, exactly as an operator starts it."""

    def __init__(self, site: Path, environment: Mapping[str, str], *options: str) -> None:
        identity = uuid.uuid4().hex
        argv = [sys.executable, "-m", "celery", "-A", "relengq", "worker", "--loglevel", self.log_level()]
        argv += ["-n", f"{self.worker_name()}@{identity[:12]}", "-Q", self.worker_queue(), *options]
        super().__init__(Process(argv, site, environment, name=f"worker-{identity[:12]}"))
        # The node's hostname is made of the container's id.
        self._id = identity

    @classmethod
    def version(cls) -> str:
        return str(celery.__version__)

    @classmethod
    def worker_queue(cls) -> str:
        return "default"


class LocalWorkerNode(CeleryTestWorker):
    """A worker node that looks at its processes itself, not with a program inside a container."""

    container: LocalWorker

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: dict[str, str] | None = None
    ) -> list[dict[str, object]]:
        root = psutil.Process(self.container.process.pid)
        wanted = columns or [
            "pid",
            "name",
            "username",
            "cmdline",
            "cpu_percent",
            "memory_percent",
            "create_time",
        ]
        rows = [each.as_dict(wanted) for each in (root, *root.children(recursive=True))]
        return [row for row in rows if all(row.get(key) == value for key, value in (filters or {}).items())]
