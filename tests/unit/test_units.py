# SPDX-License-Identifier: GPL-3.0-or-later
"""The units of systemd: sound in systemd's own eyes, hardened, and stopped with patience."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from relengq.durations import parse
from relengq.settings import Settings

ROOT = Path(__file__).parents[2]
UNITS = sorted(ROOT.glob("workers/*.service")) + sorted(ROOT.glob("beat/*.service"))
DROP_IN = ROOT / "workers/relengq-worker-become.conf"
EXPOSURE = {"relengq-worker@.service": 3.5}
"""systemd's own figure, from 0 (nothing is exposed) to 10; a worker plays what people write."""
MOST = 2.0
IMPLIES_NO_NEW_PRIVILEGES = (
    "SystemCallFilter", "SystemCallArchitectures", "RestrictAddressFamilies", "RestrictNamespaces", "PrivateDevices",
    "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectClock", "MemoryDenyWriteExecute",
    "RestrictRealtime", "RestrictSUIDSGID", "DynamicUser", "LockPersonality", "ProtectHostname",
)  # fmt: skip
"""From NoNewPrivileges in systemd.exec(5)."""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Put a unit into a directory, with a program that is there; returns the unit's path."""
    program = tmp_path / "relengq"
    program.symlink_to(sys.executable)

    def put(unit: Path, drop_in: Path | None = None) -> Path:
        target = tmp_path / unit.name
        target.write_text(unit.read_text().replace("/usr/bin/relengq", str(program)))
        if drop_in:
            (tmp_path / f"{unit.name}.d").mkdir()
            shutil.copy(drop_in, tmp_path / f"{unit.name}.d/become.conf")
        return target

    return put


def analyze(*arguments: str | Path) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def settings_of(unit: Path) -> dict[str, str]:
    pairs = [line.split("=", 1) for line in unit.read_text().splitlines() if re.match(r"\w+=", line)]
    return dict(pairs)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_finds_no_fault(unit: Path, install: Install) -> None:
    said = analyze("verify", "--man=no", install(unit))
    # systemd before 254 does not know this key yet and passes it over, as the unit says.
    newer = "Unknown key 'DelegateSubgroup' in section [Service], ignoring."
    assert [line for line in said.splitlines() if "relengq" in line and newer not in line] == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_little_is_exposed(unit: Path, install: Install) -> None:
    said = analyze("security", "--offline=true", "--no-pager", install(unit))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found
    assert float(found[1]) <= EXPOSURE.get(unit.name, MOST)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_processes_get_the_time_that_they_need_to_stop(unit: Path) -> None:
    found = settings_of(unit)
    assert found["KillMode"] == "mixed"
    needed = Settings.model_fields["stop_seconds"].default if "worker" in unit.name else 0
    assert float(found["TimeoutStopSec"]) >= needed + 20


def test_containers_get_that_time_too() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name, service in services.items():
        if name.startswith("worker-"):
            assert parse(service["stop_grace_period"]) >= Settings.model_fields["stop_seconds"].default + 20


def test_the_drop_in_for_a_local_become_lifts_all_that_forbids_it(install: Install) -> None:
    lifted, worker = settings_of(DROP_IN), settings_of(ROOT / "workers/relengq-worker@.service")
    assert lifted["NoNewPrivileges"] == "no"
    for name in IMPLIES_NO_NEW_PRIVILEGES:
        if name in worker:
            assert lifted[name] in ("no", ""), name
    analyze("verify", "--man=no", install(ROOT / "workers/relengq-worker@.service", DROP_IN))


def test_every_service_of_the_compose_file_has_a_health_check_and_few_rights() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert {name for name in services if services[name]["image"] == "relengq"} == {
        "database", "worker-default", "worker-compose", "beat-1", "beat-2", "listener", "flower"
    }  # fmt: skip
    for name, service in services.items():
        assert service["healthcheck"].get("test") or name == "database"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["networks"]


def test_only_what_must_reaches_each_network() -> None:
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    reached = {
        network: {name for name, service in document["services"].items() if network in service["networks"]}
        for network in document["networks"]
    }
    assert reached["bus"] == {"rabbitmq", "beat-1", "beat-2", "listener"}
    assert reached["outside"] == {"worker-default", "worker-compose", "flower"}
    assert "flower" not in reached["database"]
    assert all(document["networks"][name]["internal"] for name in ("database", "broker", "bus"))
