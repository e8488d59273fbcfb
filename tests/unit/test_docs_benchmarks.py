# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual shows what the last ``make bench`` has measured, and nothing is left out of it."""

from __future__ import annotations

import re

import pytest

from tests.support.manual import DOCS

MEASURED = DOCS / "measured.inc"
ROWS = [
    "a play of one task that says something, from run to stored result",
    "a play of one task that writes something, from run to stored result",
    r"a chain of \d+ steps of one task",
    r"\d+ runs of one task on a pool of 2, finished a minute",
    r"\d+ hosts, \d+ tasks, events stored\n     - ansible-playbook",
    r"\d+ hosts, \d+ tasks, events stored\n     - ansible_runner.run",
    r"\d+ MB of output, stored",
    r"\d+ MB of output, memory",
    "a line behind, on a follower's screen",
    "idle, share of a core",
    "relengq --help",
    "from the command that starts to its first task: relengq run",
    "a worker, until it is ready",
    r"memory of the whole system after [\d,]+ plays",
    "pipelining: ",
    "gathering = explicit: ",
    "fact_caching: ",
    "forks = 10, ",
    r"a compose of \d+ packages",
]


def test_the_page_shows_the_table() -> None:
    assert ".. include:: measured.inc" in (DOCS / "benchmarks.rst").read_text()
    assert "benchmarks" in (DOCS / "index.rst").read_text().split()


@pytest.mark.parametrize("row", ROWS)
def test_the_table_has_each_row(row: str) -> None:
    assert re.search(rf"^   \* - {row}", MEASURED.read_text(), re.MULTILINE)


def test_the_table_says_on_what_it_was_measured() -> None:
    preface = MEASURED.read_text().partition(".. list-table::")[0]
    for name in ("processors", "Python", "relengq", "ansible-core", "ansible-runner", "celery", "load"):
        assert name in preface
