# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmarks can be run, in a small size, and tell a target that was missed from one that was not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from benchmarks import slots
from benchmarks.measure import Figure, Ratio, as_rst, as_text, percentile
from benchmarks.plays.__main__ import PARTS, QUICK, main
from benchmarks.plays.place import Place, write_site
from benchmarks.plays.place import running as running_up
from benchmarks.scale import finished, gaps, queued
from benchmarks.scale.__main__ import told
from benchmarks.scale.measure import Comparison
from tests.support.servers import PostgreSQLServer, RabbitMQServer, RedisServer, running


def test_a_missed_target_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    well = Comparison("quick", [1.0, 1.0, 9.0], [1.2, 0.1, 9.0], 1.3)
    bad = Comparison("slow", [1.0, 1.0, 9.0], [2.2, 2.2, 2.2], 2.0)
    assert told([well, bad]) == [bad]
    first, second = capsys.readouterr().out.splitlines()
    assert "1.20  (at most 1.3: ok)" in first
    assert "2.20  (at most 2: MISSED)" in second


@pytest.mark.postgresql
def test_queued_runs_are_measured(postgresql_server: PostgreSQLServer, tmp_path: Path) -> None:
    found = list(queued.measure(postgresql_server, tmp_path, count=300, turns=1))
    assert [each.target for each in found] == [queued.TARGET, queued.TARGET, queued.TICK_TARGET]
    assert all(min(*each.little, *each.much) > 0 for each in found)


@pytest.mark.postgresql
def test_finished_runs_are_measured(postgresql_server: PostgreSQLServer, tmp_path: Path) -> None:
    found = list(finished.measure(postgresql_server, tmp_path, count=1200, turns=1))
    assert [each.name for each in found] == list(finished.questions())


@pytest.mark.postgresql
def test_gaps_are_measured(
    postgresql_server: PostgreSQLServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELENGQ_SITE", "")  # which the benchmark sets; it is put back afterwards
    (tmp_path / "redis").mkdir()
    with running(RedisServer(tmp_path / "redis")) as redis:
        bare, kept = gaps.measure(postgresql_server, redis, tmp_path, steps=4, turns=1)
    assert {len(side) for found in (bare, kept) for side in (found.little, found.much)} == {3}
    assert (bare.target, kept.target) == (gaps.TARGET, None)


@pytest.mark.rabbitmq
def test_a_gate_before_the_queues_does_not_keep_tasks_waiting(
    rabbitmq_server: RabbitMQServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots.app.conf, "broker_url", rabbitmq_server.url)
    found = slots.measure(rabbitmq_server, tmp_path, turns=3, tasks=10, seconds=0.3)
    assert found.ratio < 2.2, "a task that lies in the worker until its loop wakes up makes it 3"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    site = tmp_path_factory.mktemp("bench") / "site"
    write_site(site, "")
    with running_up(site) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_each_row_is_measured(place: Place, part: str) -> None:
    rows = list(PARTS[part](place, QUICK))
    assert rows
    for row in rows:
        assert len(row.cells()) == 7
        samples = row.samples if isinstance(row, Figure) else row.ratios  # type: ignore[attr-defined]
        assert samples
        assert min(samples) > 0 or part == "idle"


@pytest.mark.slow
def test_the_table_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "measured.inc"
    before = structlog.get_config()
    try:
        main(["--quick", "--only", "single", "--write", str(file)])
    finally:
        structlog.configure(**before)
    printed = capsys.readouterr().out
    written = file.read_text()
    assert "ansible-core 2." in written
    for does in ("says", "writes"):
        what = f"a play of one task that {does} something, from run to stored result"
        assert f"{what}; ansible-playbook" in printed
        assert f"   * - {what}\n     - ansible-playbook\n" in written


def test_the_table_says_what_was_measured() -> None:
    rate = Ratio("runs", "xargs", [100.0, 130.0, 90.0], [50.0, 100.0, 30.0], 2.5, at_least=True, unit="")
    time = Ratio("play", "plain", [1.0, 2.0], [2.0, 2.0], 0.8)
    figure = Figure("behind", "p95", [0.1, 0.2], 0.2, "s", 0.5)
    assert [each.missed for each in (rate, time, figure)] == [True, False, False]
    text = "\n".join(as_text([rate, time, figure]))
    assert "2 (1.65 to 2.5)   (at least 2.5: MISSED)" in text
    assert "0.75 (0.625 to 0.875)   (at most 0.8: ok)" in text
    assert "0.2 s   (at most 0.5 s: ok)" in text
    lines = list(as_rst([rate, time, figure]))
    assert lines.count("   * - play") == 1
    assert sum(line.startswith("     -") for line in lines) == 4 * 6


def test_percentiles_are_samples() -> None:
    assert percentile([3.0, 1.0, 2.0], 95) == 3.0
    assert percentile([float(each) for each in range(1, 101)], 95) == 95.0
