# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server has read besides modules: none of it may change unseen."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import sys
import time
from pathlib import Path

import pytest

from relengq.execution.guard.warm import openssl
from relengq.execution.guard.warm.watched import Watched


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A directory for files that are older than whoever watches them."""
    (tmp_path / "old").mkdir()
    return tmp_path / "old"


def watched(*files: Path) -> Watched:
    """It watches what this process has loaded, and these were there before."""
    latest = max(path.stat().st_ctime_ns for path in files)
    while time.time_ns() <= latest + 10_000_000:  # the clock of files goes by ticks
        time.sleep(0.001)
    found = Watched()
    found.add_modules()
    assert found.changed() is None
    return found


def test_a_file_that_extends_the_search_path_is_watched(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(old)])
    (old / "site.pth").write_text("# nothing\n")
    found = watched(old / "site.pth")
    (old / "site.pth").write_text("/somewhere\n")
    assert found.changed() == str(old / "site.pth")


def test_the_file_of_a_virtual_environment_is_watched(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(old / "bin/python"))
    found = watched(old)
    (old / "pyvenv.cfg").write_text("home = /usr/bin\n")
    assert found.changed() == str(old / "pyvenv.cfg")


def test_shared_libraries_are_watched(old: Path) -> None:
    spec = importlib.util.find_spec("_lsprof")
    if spec is None or not (spec.origin or "").endswith(".so"):
        pytest.skip("this Python has that in itself")
    library = old / "library.so"
    shutil.copy(spec.origin or "", library)
    ctypes.CDLL(str(library))
    found = watched(library)
    shutil.copy(library, old / "new.so")
    (old / "new.so").replace(library)
    assert found.changed() == str(library)
    # For one that begins to watch only now it is the same: another file than that which is loaded.
    late = Watched()
    late.add_modules()
    assert late.changed() == str(library)
    library.unlink()


def test_the_configuration_of_openssl_is_known_with_what_it_includes(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old / "more.d").mkdir()
    for name in ("more.d/a.cnf", "more.d/readme", "policy.config"):
        (old / name).write_text("")
    (old / "openssl.cnf").write_text(f".include {old}/more.d\n[s]\n.include = {old}/policy.config\n# .include no\n")
    monkeypatch.setenv("OPENSSL_CONF", str(old / "openssl.cnf"))
    names = {str(Path(each).relative_to(old)) for each in openssl.configuration()}
    assert names == {"openssl.cnf", "more.d", "more.d/a.cnf", "policy.config"}
    monkeypatch.delenv("OPENSSL_CONF")
    assert openssl.configuration()[0].endswith("/openssl.cnf")
