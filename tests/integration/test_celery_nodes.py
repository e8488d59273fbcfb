# SPDX-License-Identifier: GPL-3.0-or-later
"""Stock Celery workers of a site, on each broker, driven through pytest-celery's API."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_celery import CELERY_RABBITMQ_BROKER, CELERY_REDIS_BROKER, CeleryTestSetup

from tests.support.commands import Shell
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


def test_a_run_is_kept_while_the_broker_is_away(celery_setup: CeleryTestSetup, shell: Shell) -> None:
    """The worker comes back to a broker that was restarted, and plays what is started then."""
    celery_setup.broker.restart()
    shell.run("run", "hello", "--follow")
