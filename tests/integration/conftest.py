# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests of the engine."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relengq.testing import Bench


@pytest.fixture
def make_bench(site: Path, tmp_path: Path, database_url: str) -> Iterator[Callable[..., Bench]]:
    """Makes a bench over workflows given as text; a second one is another process on the same database."""
    made: list[Bench] = []

    def make(settings: str = "", **workflows: str) -> Bench:
        if settings:
            (site / "relengq.toml").write_text(settings)
        for name, text in workflows.items():
            (site / "playbooks/workflows" / f"{name}.yml").write_text(textwrap.dedent(text))
        bench = Bench(site, tmp_path / "bench", database_url)
        assert bench.installation.site.faults == (), bench.installation.site.faults
        made.append(bench)
        return bench

    yield make
    for bench in made:
        bench.close()
