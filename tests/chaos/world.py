# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole installation on several hosts, with a supervisor that starts again what died, as systemd does."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from relengq import migrations, site
from relengq.database import Database
from tests.chaos.network import MARK, Host, Network
from tests.chaos.people import PREFIX, TOPIC, Audience, Publisher
from tests.chaos.records import STEP, Book, Line, Sign, sign
from tests.support.commits import CommitProxy
from tests.support.processes import Process
from tests.support.servers import PostgreSQLServer, RabbitMQServer, RedisServer, free_port, short_directory
from tests.support.systems import FILES as SITE
from tests.support.systems import RELENGQ
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0
"""Seconds in which something has to happen, on a machine that is busy with other things."""
LEASE = 8
PERIOD = 3.0
"""Seconds between the due times of the schedule."""
_RESTART = 1.0
"""Seconds after which the supervisor starts again what died."""

PLAYBOOK = """\
- name: Leave a trace
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Begin, live, and end
      ansible.builtin.command:
        argv:
          - ./step.sh
          - "{ledger}"
          - "{{{{ relengq.inputs.tenths }}}}"
          - "{{{{ relengq.inputs.token }}}}"
          - "{{{{ relengq.run.id }}}}"
          - "{{{{ relengq.step.name }}}}"
          - "{{{{ relengq.attempt }}}}"
          - "{{{{ relengq.fence }}}}"
"""
WORKFLOW = """\
inputs:
  token: {{type: string, default: "-"}}
  tenths: {{type: int, default: 5}}
announce: [run.started, step.finished, run.finished]
{more}steps:
{steps}"""
BY_MESSAGE = f"""\
on:
  - message: {TOPIC}
    inputs: {{token: "{{{{ msg.token }}}}", tenths: "{{{{ msg.tenths }}}}"}}
    key: "{{{{ msg.token }}}}"
"""
LIGHT = f"""\
#!{sys.executable} -IS
# Stands in for ansible-playbook where thousands of plays would take days: it does what step.yml says.
import json, os, sys

[variables] = [each.partition("@")[2] for each in sys.argv if each.startswith("--extra-vars=@")]
run = json.load(open(variables), object_hook=lambda it: it.get("__ansible_unsafe", it))["relengq"]
told = [run["inputs"]["tenths"], run["inputs"]["token"], run["run"]["id"], run["step"]["name"]]
argv = ["{{ledger}}", *told, run["attempt"], run["fence"]]
os._exit(os.spawnv(os.P_WAIT, "./step.sh", ["step.sh", *map(str, argv)]) % 256)
"""
PATIENT = "on_lost: retry, lost_limit: 100, retry: {attempts: 100}"
QUEUES = ("common", "east", "west")


def chain(steps: int) -> list[str]:
    """The names of so many steps."""
    return [f"step-{number}" for number in range(1, steps + 1)]


def workflow(steps: int, policy: str, more: str = "") -> str:
    """A workflow whose steps go from queue to queue."""
    lines = [
        f"  - {{name: {name}, playbook: step.yml, queue: {QUEUES[number % len(QUEUES)]}, {policy}}}\n"
        for number, name in enumerate(chain(steps))
    ]
    return WORKFLOW.format(more=more, steps="".join(lines))


@dataclass
class Service:
    """One process that the supervisor keeps alive."""

    name: str
    host: Host
    process: Process
    start_at: float = 0.0
    """The monotonic time at which it is started, when it does not run."""
    down_at: float | None = None


@dataclass
class World:
    """The installation, its servers and the books. Use ``world()`` to have everything ended."""

    directory: Path
    network: Network
    steps: int
    redis: RedisServer | None
    rabbitmq: RabbitMQServer
    postgresql: PostgreSQLServer
    proxy: CommitProxy
    seed: int
    light: bool
    concurrency: int
    services: dict[str, Service] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.site = self.directory / "site"
        self.ledger: Book[Sign] = Book(self.directory / "ledger", sign)
        self.heard: Book[Line] = Book(self.directory / "heard", json.loads)
        self.promised: Book[Line] = Book(self.directory / "promised", json.loads)
        self.published: Book[Line] = Book(self.directory / "published", json.loads)
        self.wishes = self.directory / "wishes"
        self.audience = Audience(self.bus_url, self.heard.file)
        self.publisher = Publisher(self.bus_url, self.published.file, self.seed)
        self.threads: list[threading.Thread] = []

    @property
    def bus_url(self) -> str:
        return f"amqp://guest:guest@{self.network.servers.address}:{self.rabbitmq.port}/%2F"

    @property
    def broker_url(self) -> str:
        address = self.network.servers.address
        if self.redis is None:
            return f"amqp://guest:guest@{address}:{self.rabbitmq.port}//"
        return f"redis://{address}:{self.redis.port}/0"

    @property
    def database_url(self) -> str:
        return self.proxy.url("chaos", host=self.network.servers.address)

    def write_site(self) -> None:
        """The files of the site, which all hosts share."""
        files = {
            **{name: text for name, text in SITE.items() if "gate" not in name and not name.startswith("workers/")},
            "relengq.toml": (
                f'bus_config = "bus.toml"\nlease_seconds = {LEASE}\nresend_seconds = 2\nstop_seconds = 3\n'
                f'secret_key_file = "{self.directory / "secret.key"}"\ntime_zone = "UTC"\n'
            ),
            "bus.toml": f'amqp_url = "{self.bus_url}?heartbeat=10"\ntopic_prefix = "{PREFIX}"\n',
            "playbooks/step.yml": PLAYBOOK.format(ledger=self.ledger.file),
            "playbooks/step.sh": STEP,
            "playbooks/workflows/by-person.yml": workflow(self.steps, PATIENT),
            "playbooks/workflows/by-message.yml": workflow(self.steps, PATIENT, BY_MESSAGE),
            "playbooks/workflows/by-clock.yml": workflow(self.steps, PATIENT),
            "playbooks/workflows/fragile.yml": workflow(self.steps, "on_lost: fail"),
            "workers/east.yml": f"queues: [common, east]\nconcurrency: {self.concurrency}\n",
            "workers/west.yml": f"queues: [common, west]\nconcurrency: {self.concurrency}\n",
            "beat/chaos.yml": self.calendar(on=True),
        }
        for name, text in files.items():
            path = self.site / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (self.site / "playbooks/step.sh").chmod(0o755)
        if self.light:
            program = self.directory / "bin" / "ansible-playbook"
            program.parent.mkdir()
            program.write_text(LIGHT.format(ledger=self.ledger.file))
            program.chmod(0o755)
        faults = site.load(self.site).faults
        assert not faults, faults

    def calendar(self, *, on: bool) -> str:
        enabled = "" if on else ", enabled: false"
        return f"tick: {{workflow: by-clock, every: {PERIOD:g}s, catch_up: all{enabled}}}\n"

    def end_schedule(self) -> None:
        """Let no more runs start by themselves."""
        new = self.site / "beat/.chaos.yml"
        new.write_text(self.calendar(on=False))
        new.rename(self.site / "beat/chaos.yml")

    def add(self, name: str, host: str, *argv: str, **environment: str) -> None:
        """A process for the supervisor."""
        place = self.network.hosts[host]
        own = {
            "RELENGQ_SITE": str(self.site),
            "RELENGQ_STATE_DIR": str(self.directory / "state" / host),
            "RELENGQ_DATABASE_URL": self.database_url,
            "RELENGQ_BROKER_URL": self.broker_url,
            MARK: place.mark,
            "PYTHONPATH": str(ROOT),
        }
        if self.light:
            own["PATH"] = f"{self.directory / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        logs = self.directory / "logs" / name
        logs.mkdir(parents=True)
        process = Process(argv, self.site, {**own, **environment}, name=name)
        process.log_file = logs / "log"
        self.services[name] = Service(name, place, process)

    def add_all(self) -> None:
        """Two pools, two clocks, a listener and a person, each but the person on a host of its own."""
        for pool in ("east", "west"):
            self.add(f"worker-{pool}", pool, *RELENGQ, "worker", pool, "-n", f"{pool}@%h")
        for host in ("clock", "spare"):
            self.add(f"beat-{host}", host, *RELENGQ, "beat")
        self.add("listener", "door", *RELENGQ, "listen")
        self.add(
            "person", "desk", sys.executable, "-m", "tests.chaos.people", str(self.wishes), str(self.promised.file)
        )
        outside = self.network.hosts["outside"]
        self.threads.append(outside.thread_here(self.audience.run, "audience"))
        wait_until(self.audience.listens.is_set, PATIENCE, "the audience listens")
        self.threads.append(outside.thread_here(self.publisher.run, "publisher"))

    def supervise(self) -> list[str]:
        """Start what does not run and may be started again. Returns the names."""
        started = []
        for service in self.services.values():
            if service.process.running:
                service.down_at = None
                continue
            service.down_at = service.down_at or time.monotonic()
            if time.monotonic() >= max(service.start_at, service.down_at + _RESTART * (service.start_at > 0)):
                service.host.do(service.process.start)
                service.start_at = time.monotonic()
                service.down_at = None
                started.append(service.name)
        return started

    def ready(self) -> None:
        """Start everything, and wait until both workers take steps and messages are listened for."""

        def there() -> bool:
            self.supervise()
            workers = [each for name, each in self.services.items() if name.startswith("worker-")]
            listening = "bus.bound" in self.services["listener"].process.log
            return listening and all(" ready." in each.process.log for each in workers)

        wait_until(there, PATIENCE, "everything is ready")

    def redis_says(self, *words: str) -> None:
        """Give Redis a command, from its own host."""
        assert self.redis is not None
        port = self.redis.port

        def say() -> None:
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                client.sendall(f"{' '.join(words)}\r\n".encode())
                assert client.recv(100).startswith(b"+OK")

        self.network.servers.do(say)

    def logs(self) -> str:
        """The ends of what the processes said."""
        return "\n".join(f"--- {each.name}\n{each.process.log[-3000:]}" for each in self.services.values())

    def stop(self) -> list[str]:
        """Stop everything but the servers, as an operator would. Returns what is left of it afterwards."""
        for service in self.services.values():
            service.process.signal(signal.SIGTERM)
        for service in self.services.values():
            service.process.stop(30)
        hosts = self.network.hosts.values()

        def left() -> list[str]:
            return [" ".join(each.cmdline()) for host in hosts for each in host.processes()]

        with suppress(AssertionError, psutil.Error):
            wait_until(lambda: not left(), PATIENCE / 4)
        return left()

    def close(self) -> None:
        """End all that is left, however it was left."""
        for each in (self.audience, self.publisher):
            each.over.set()
        for thread in self.threads:
            thread.join(15)
        for service in self.services.values():
            service.process.kill()
        for host in self.network.hosts.values():
            for process in host.processes():
                with suppress(psutil.Error):
                    process.kill()


@contextmanager
def world(
    directory: Path, *, steps: int, seed: int, on_redis: bool, own_network: bool, light: bool, concurrency: int
) -> Iterator[World]:
    """The servers, started, and everything else about to be. Whatever happens, nothing is left of it."""
    with ExitStack() as stack:
        network = Network(("east", "west", "clock", "spare", "door", "desk", "outside"), own=own_network)
        stack.callback(network.close)
        servers = network.servers
        sockets = stack.enter_context(short_directory())
        postgresql = servers.do(lambda: PostgreSQLServer(sockets))
        # What was promised must outlive an immediate shutdown. (fsync would only matter to a loss of power.)
        postgresql.argv += ["-c", "synchronous_commit=on"]
        servers.do(postgresql.create)
        redis = servers.do(lambda: _redis(directory)) if on_redis else None
        rabbitmq = servers.do(lambda: _rabbitmq(directory))
        for server in filter(None, (postgresql, redis, rabbitmq)):
            servers.do(server.start)
            stack.callback(server.stop)
        for server in filter(None, (postgresql, redis)):
            server.ready()
        rabbitmq.wait_for_log("Server startup complete", PATIENCE)
        postgresql.execute("CREATE DATABASE chaos")
        database = Database(postgresql.url("chaos"))
        migrations.upgrade(database)
        database.close()
        proxy = servers.do(lambda: CommitProxy(sockets, sockets, free_port(), "0.0.0.0"))
        servers.do(proxy.open)
        stack.callback(proxy.shut)
        made = World(directory, network, steps, redis, rabbitmq, postgresql, proxy, seed, light, concurrency)
        stack.callback(made.close)
        made.write_site()
        made.add_all()
        yield made


def _redis(directory: Path) -> RedisServer:
    (directory / "redis").mkdir(parents=True)
    server = RedisServer(directory / "redis")
    server.argv += ["--bind", "0.0.0.0", "--protected-mode", "no"]
    return server


def _rabbitmq(directory: Path) -> RabbitMQServer:
    (directory / "rabbitmq").mkdir(parents=True)
    server = RabbitMQServer(directory / "rabbitmq")
    file = directory / "rabbitmq" / "rabbitmq.conf"
    file.write_text(f"listeners.tcp.1 = 0.0.0.0:{server.port}\nloopback_users = none\n")
    return server
