# SPDX-License-Identifier: GPL-3.0-or-later
"""Stock Celery workers of a site, on each broker, driven through pytest-celery's API."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pytest_celery import CELERY_RABBITMQ_BROKER, CELERY_REDIS_BROKER, CeleryTestSetup

from tests.support.commands import Shell
from tests.support.processes import Process
from tests.support.waiting import wait_until

EACH_BROKER = pytest.mark.parametrize(
    "celery_broker",
    [CELERY_REDIS_BROKER, pytest.param(CELERY_RABBITMQ_BROKER, marks=pytest.mark.rabbitmq)],
    indirect=True,
)


@pytest.fixture
def shell(site: Path, default_worker_env: dict[str, str]) -> Shell:
    return Shell(site, default_worker_env)


@EACH_BROKER
def test_a_run_goes_through_a_stock_worker(celery_setup: CeleryTestSetup, shell: Shell) -> None:
    assert celery_setup.ready(control=True)
    shell.run("run", "hello", "--follow")
    celery_setup.worker.assert_log_exists("ready.")
    assert len(celery_setup.worker.get_running_processes_info(["pid", "cmdline"])) >= 3


def test_inspect_and_status_know_the_worker(celery_setup: CeleryTestSetup) -> None:
    name = celery_setup.worker.hostname()
    replies = wait_until(lambda: celery_setup.app.control.inspect(timeout=2).registered())
    assert "relengq.run_step" in " ".join(replies[name])
    assert [queue["name"] for queue in celery_setup.app.control.inspect(timeout=2).active_queues()[name]] == ["default"]


def test_a_run_that_met_no_broker_starts_when_it_is_back(celery_setup: CeleryTestSetup, shell: Shell) -> None:
    celery_setup.broker.kill()
    said = shell.run("run", "hello").stderr
    assert "does not answer" in said
    celery_setup.broker.container.start()
    clock = Process([sys.executable, "-m", "relengq", "beat"], shell.site, shell.environment, name="clock")
    clock.start()
    try:
        wait_until(lambda: [run["state"] for run in shell.json("runs")] == ["succeeded"], 60)
    finally:
        clock.stop()
