# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests of the engine."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relengq.testing import Bench
from tests.support.calls import Caller


@pytest.fixture
def make_bench(site: Path, tmp_path: Path, database_url: str) -> Iterator[Callable[..., Bench]]:
    """Makes a bench over workflows given as text; a second one is another process on the same database."""
    with _benches(site, tmp_path / "bench", database_url) as make:
        yield make


@pytest.fixture
def make_postgresql_bench(site: Path, tmp_path: Path, postgresql_url: str) -> Iterator[Callable[..., Bench]]:
    """The same for what only PostgreSQL does."""
    with _benches(site, tmp_path / "bench", postgresql_url) as make:
        yield make


@pytest.fixture
def make_cli_bench(
    site: Path, tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Bench]]:
    """The same for calls of verbs in the site, which are not about the database."""
    monkeypatch.chdir(site)
    with _benches(site, tmp_path / "bench", sqlite_url) as make:
        yield make


@pytest.fixture
def call(bench: Bench, capsys: pytest.CaptureFixture[str]) -> Caller:
    """Calls verbs over the module's own ``bench``."""
    return Caller(bench, capsys)


@contextmanager
def _benches(site: Path, directory: Path, url: str) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(settings: str = "", **workflows: str) -> Bench:
        if settings:
            (site / "relengq.toml").write_text(settings)
        for name, text in workflows.items():
            (site / "playbooks/workflows" / f"{name}.yml").write_text(textwrap.dedent(text))
        bench = Bench(site, directory, url)
        assert bench.installation.site.faults == (), bench.installation.site.faults
        made.append(bench)
        return bench

    yield make
    for bench in made:
        bench.close()
