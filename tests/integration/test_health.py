# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that says that a process is alive: touched by idle loops too, and also while what they need is away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from celery import Celery

from relengq.beat import Scheduler
from relengq.database import Database
from relengq.engine.installation import Installation
from relengq.health import alive
from relengq.listener import Listener
from relengq.settings import Settings
from tests.support.waiting import wait_until


@pytest.fixture
def installation(site: Path, tmp_path: Path, sqlite_url: str) -> Installation:
    settings = Settings.load(site).model_copy(update={"health_file": tmp_path / "health"})
    return Installation(settings, Database(sqlite_url))


def test_the_file_is_touched_and_its_faults_are_nobodys_concern(tmp_path: Path) -> None:
    file = tmp_path / "health"
    alive(file)
    os.utime(file, (1, 1))
    alive(file)
    assert file.stat().st_mtime > 1
    alive(None)
    alive(tmp_path / "nowhere/health")


def test_its_place_is_in_the_state_directory(site: Path) -> None:
    (site / "relengq.toml").write_text('health_file = "health"\n')
    settings = Settings.load(site)
    assert settings.health_file == settings.state_dir / "health"
    (site / "relengq.toml").write_text('health_file = "/run/relengq/health"\n')
    assert Settings.load(site).health_file == Path("/run/relengq/health")


def test_a_clock_that_leads_stands_by_or_has_lost_its_database_is_alive(
    installation: Installation, tmp_path: Path
) -> None:
    leads = Scheduler(Celery(), installation=installation)
    leads.tick()
    file = tmp_path / "health"
    os.utime(file, (1, 1))
    Scheduler(Celery(), installation=installation).tick()
    assert file.stat().st_mtime > 1
    os.utime(file, (1, 1))
    away = Installation(installation.settings, Database(f"sqlite:///{tmp_path}/nowhere/relengq.db"))
    Scheduler(Celery(), installation=away).tick()
    assert file.stat().st_mtime > 1
    for each in (installation, away):
        each.database.close()


def test_a_listener_in_a_quiet_hour_is_alive(installation: Installation, tmp_path: Path) -> None:
    listener = Listener(installation)
    listener.start()
    file = tmp_path / "health"
    wait_until(file.exists, 20)
    before = file.stat().st_mtime_ns
    wait_until(lambda: file.stat().st_mtime_ns > before, 20, "no message has come, and the file is touched again")
    listener.close()
