# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for all tests: real servers, databases, sites, and pytest-celery's nodes over local processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_celery import CELERY_REDIS_BROKER, CeleryTestBroker, CeleryTestWorker, CeleryWorkerContainer
from xdist.remote import Producer

from relengq import migrations
from relengq.database import Database
from tests.support.nodes import LocalRabbitMQ, LocalRedis, LocalWorker, LocalWorkerNode
from tests.support.servers import PostgreSQLServer, RabbitMQServer, RedisServer, running, short_directory
from tests.support.spread import Spread

TEMPLATE = "relengq_template"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Spread | None:
    """With ``-n``, files are spread, unless somebody asks for another way."""
    return Spread(config, log) if config.option.dist == "load" else None


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not see the installation of the person who runs them."""
    for name in ("RELENGQ_SITE", "RELENGQ_STATE_DIR", "RELENGQ_DATABASE_URL", "RELENGQ_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis server for the whole test run, or for one process of it."""
    with running(RedisServer(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQServer]:
    """A RabbitMQ node for the whole test run, or for one process of it; it takes its time to start."""
    with running(RabbitMQServer(tmp_path_factory.mktemp("rabbitmq"))) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """A PostgreSQL server for the whole test run, or for one process of it."""
    with short_directory() as directory:
        server = PostgreSQLServer(directory)
        server.create()
        with running(server):
            yield server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with all tables and no rows."""
    file = tmp_path_factory.mktemp("template") / "relengq.db"
    database = Database(f"sqlite:///{file}")
    migrations.upgrade(database)
    database.close()
    return file


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: PostgreSQLServer) -> str:
    """The name of a PostgreSQL database with all tables and no rows."""
    postgresql_server.execute(f"CREATE DATABASE {TEMPLATE}")
    database = Database(postgresql_server.url(TEMPLATE))
    migrations.upgrade(database)
    database.close()
    return TEMPLATE


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a new SQLite database with all tables."""
    file = tmp_path / "state" / "relengq.db"
    file.parent.mkdir(exist_ok=True)
    shutil.copy(sqlite_template, file)
    return f"sqlite:///{file}"


@pytest.fixture
def postgresql_url(postgresql_server: PostgreSQLServer, postgresql_template: str) -> Iterator[str]:
    """The URL of a new PostgreSQL database with all tables."""
    with postgresql_server.database(postgresql_template) as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a new database with all tables: the test runs on SQLite and on PostgreSQL."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A new database with all tables: the test runs on SQLite and on PostgreSQL."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def sqlite_database(sqlite_url: str) -> Iterator[Database]:
    """A new database with all tables, for tests that no server could change."""
    database = Database(sqlite_url)
    yield database
    database.close()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The directory of a small site: one workflow of one quick playbook, one pool, one calendar."""
    root = tmp_path / "site"
    files = {
        "relengq.toml": "",
        "playbooks/ansible.cfg": "[defaults]\ninventory = inventory\n",
        "playbooks/inventory/hosts.yml": "all: {hosts: {localhost: {ansible_connection: local}}}\n",
        "playbooks/hello.yml": HELLO_PLAYBOOK,
        "playbooks/workflows/hello.yml": "steps:\n  - {name: hello, playbook: hello.yml}\n",
        "workers/default.yml": "queues: [default]\nconcurrency: 2\n",
        "beat/nightly.yml": "hello-nightly: {workflow: hello, cron: '15 5 * * *', enabled: false}\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


HELLO_PLAYBOOK = """\
- name: Say hello
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Hand a greeting on
      ansible.builtin.set_stats:
        data: {greeting: hello}
"""


# --- pytest-celery: the same fixtures, other containers
# -------------------------------------------------------------


@pytest.fixture(params=[CELERY_REDIS_BROKER])
def celery_broker(request: pytest.FixtureRequest) -> Iterator[CeleryTestBroker]:
    """Redis, unless a test asks for RabbitMQ too: ``parametrize("celery_broker", [...], indirect=True)``."""
    node: CeleryTestBroker = request.getfixturevalue(request.param)
    yield node
    node.teardown()


@pytest.fixture
def celery_backend_cluster() -> None:
    """relengq keeps no results in Celery, so there is no backend."""


@pytest.fixture
def default_redis_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    container = LocalRedis(tmp_path_factory.mktemp("broker"))
    container.ready()
    yield container
    container.teardown()


@pytest.fixture
def default_rabbitmq_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRabbitMQ]:
    container = LocalRabbitMQ(tmp_path_factory.mktemp("broker"))
    container.ready()
    yield container
    container.teardown()


@pytest.fixture
def default_worker_env(
    celery_worker_cluster_config: dict[str, dict[str, list[str]]], sqlite_url: str
) -> dict[str, str]:
    """What makes a worker part of the installation under test."""
    urls = celery_worker_cluster_config["celery_broker_cluster_config"]["urls"]
    return {"RELENGQ_BROKER_URL": urls[0], "RELENGQ_DATABASE_URL": sqlite_url}


@pytest.fixture
def default_worker_container(site: Path, default_worker_env: dict[str, str]) -> Iterator[LocalWorker]:
    container = LocalWorker(site, default_worker_env, "-c", "2")
    container.ready()
    yield container
    container.teardown()


@pytest.fixture
def default_worker_cls() -> type[CeleryTestWorker]:
    return LocalWorkerNode


@pytest.fixture
def default_worker_container_cls() -> type[CeleryWorkerContainer]:
    return LocalWorker


@pytest.fixture(scope="session")
def default_worker_container_session_cls() -> type[CeleryWorkerContainer]:
    return LocalWorker
