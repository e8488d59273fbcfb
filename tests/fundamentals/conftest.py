# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests that tell what relengq is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relengq.testing import Bench


@pytest.fixture
def workflow(site: Path, tmp_path: Path) -> Iterator[Callable[[str], Bench]]:
    """Makes a site whose workflow ``nightly`` is this, with plays that the test makes up."""
    made: list[Bench] = []

    def make(text: str) -> Bench:
        (site / "playbooks/workflows/nightly.yml").write_text(text)
        made.append(Bench(site, tmp_path / "state"))
        return made[-1]

    yield make
    for bench in made:
        bench.close()
