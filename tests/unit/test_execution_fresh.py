# SPDX-License-Identifier: GPL-3.0-or-later
"""What a play from a server makes anew at its beginning, and how it knows at its end what is a site's code."""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from relengq.execution.guard.warm import fresh


@pytest.fixture
def zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file with a time zone, which is that of this process."""
    write_zone(tmp_path / "zone", "OLD", 0)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", f":{tmp_path}/zone")
        time.tzset()
        assert time.tzname[0] == "OLD"
        yield tmp_path / "zone"
    time.tzset()


def write_zone(path: Path, name: str, hours: int) -> None:
    """As tzfile(5) has it, with one type of time."""
    block = b"TZif2" + bytes(15) + struct.pack(">6l", 0, 0, 0, 0, 1, 4)
    block += struct.pack(">lbb", hours * 3600, 0, 0) + name.encode() + b"\0"
    path.with_suffix(".new").write_bytes(block * 2 + f"\n{name}{-hours}\n".encode())
    path.with_suffix(".new").rename(path)


def test_a_time_zone_is_read_anew(zone: Path) -> None:
    write_zone(zone, "NEW", 5)
    fresh._zone()
    assert (time.tzname[0], time.timezone) == ("NEW", -5 * 3600)
    assert os.environ["TZ"] == f":{zone}"


class Lazy(ModuleType):
    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"{name} of what it stands for cannot be loaded")


@pytest.mark.parametrize(
    ("file", "foreign"),
    [
        (os.__file__, False),
        (pytest.__file__, False),
        (f"{sys.prefix}/site/plugins/callback.py", True),
        (f"{sys.base_prefix}/share/ansible/plugins/callback/x.py", True),
        ("<ansible_synthetic_collection_package>", False),
        (None, False),
    ],
)
def test_a_site_below_python_s_prefix_is_a_site(
    file: str | None, foreign: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Lazy("some")
    if file is not None:
        module.__file__ = file
    with monkeypatch.context() as patch:
        patch.setattr(sys, "modules", {"some": module, "none": None})
        found = fresh._has_foreign_code()
    assert found is foreign
