# SPDX-License-Identifier: GPL-3.0-or-later
"""The shipped workflows of the bus by the real engine, with recorded messages; only the plays are made up."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from relengq.documents import Json
from relengq.engine.taking import Disposition
from relengq.testing import Bench
from tests.support.recorded import NAMES, recorded

ROOT = Path(__file__).parents[2]
COMPOSE = "Fedora-Rawhide-20261120.n.0"
COMPOSED: dict[str, Json] = {
    "compose_id": COMPOSE,
    "compose_path": f"/srv/composes/{COMPOSE}",
    "compose_respin": 0,
    "compose_status": "FINISHED",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this repository ships, as a site that knows of a bus."""
    site = tmp_path_factory.mktemp("shipped") / "site"
    shutil.copytree(ROOT / "playbooks", site / "playbooks", ignore=shutil.ignore_patterns("samples"))
    shutil.copytree(ROOT / "workers", site / "workers")
    (site / "relengq.toml").write_text('bus_config = "bus.toml"\n')
    (site / "bus.toml").write_text('amqp_url = "amqp://"\n')
    return site


@pytest.fixture
def bench(site: Path, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(site, tmp_path)
    yield bench
    bench.close()


def gated(bench: Bench, **inputs: Json) -> str:
    """A gated compose that has not been played yet."""
    return bench.start("gated-compose", release="rawhide", **inputs)


def released(bench: Bench, run_id: str) -> bool:
    """Whether the compose gets to the people once everything is played that can be."""
    while bench.sent:
        bench.play()
    run, told = bench.run(run_id), [topic for topic, _ in bench.announced(run_id)]
    assert run.state.final
    assert (run.state == "succeeded") is ("compose.released" in told)
    return run.state == "succeeded"


def test_of_all_that_was_recorded_each_occurrence_starts_one_run(bench: Bench) -> None:
    receipts = {name: bench.receive(recorded(name))[0] for name in NAMES}
    started = {name for name, receipt in receipts.items() if receipt.disposition is Disposition.STARTED}
    assert started == {
        "koji-tag-container", "koji-tag-toolbox", "compose-finished", "compose-finished-incomplete",
        "bodhi-complete", "bodhi-stray-comma", "ostree",
    }  # fmt: skip
    repeated = {name for name, receipt in receipts.items() if receipt.disposition is Disposition.DUPLICATE}
    assert repeated == {"ostree-again", "ostree-and-again", "compose-stray-comma"}
    assert not [receipt for receipt in receipts.values() if receipt.parked]
    assert sum(len(receipt.runs) for receipt in receipts.values()) == 7


def test_a_commit_that_is_announced_three_times_is_one_run(bench: Bench) -> None:
    receipts = bench.receive(*(recorded(name) for name in ("ostree", "ostree-again", "ostree-and-again")))
    assert [receipt.disposition for receipt in receipts] == ["started", "duplicate", "duplicate"]
    [run_id] = receipts[0].runs
    assert {receipt.duplicates for receipt in receipts[1:]} == {(("ostree", run_id),)}
    other = recorded("ostree", commitid="f" * 64)
    assert [receipt.disposition for receipt in bench.receive(other, other)] == ["started", "duplicate"]


def test_a_compose_is_announced_when_it_is_finished_and_when_it_is_doomed(bench: Bench) -> None:
    first = gated(bench, location="https://composes.example.org/rawhide")
    bench.play(outputs=COMPOSED)
    [body] = [body for topic, body in bench.announced(first) if topic == "pungi.compose.status.change"]
    told = {
        key: value
        for key, value in recorded("compose-finished").body.items()
        if key not in ("compose_path", "location")
    }
    assert body.items() >= told.items()
    assert body["location"] == f"https://composes.example.org/rawhide/{COMPOSE}/compose"

    second = gated(bench, ci=["validation"])
    assert bench.run(second).state == "queued"  # one compose of a release at a time
    bench.receive(recorded("ci-failed"))
    bench.play(outputs={**COMPOSED, "compose_status": "DOOMED"}, state="failed", message="libsap is broken")
    topics = [(topic, body.get("status")) for topic, body in bench.announced(second)]
    assert ("pungi.compose.status.change", "DOOMED") in topics
    assert bench.run(second).state == "failed"


def test_a_compose_that_passes_everything_is_released(bench: Bench) -> None:
    run_id = gated(bench)
    bench.play(outputs=COMPOSED)
    assert bench.steps(run_id) == {
        "compose": "succeeded", "ci [validation]": "waiting", "openqa": "pending", "release": "pending",
    }  # fmt: skip
    for name in ("ci-running", "ci-other-category", "ci-of-a-build"):
        bench.receive(recorded(name))
    assert bench.steps(run_id)["ci [validation]"] == "waiting"
    bench.receive(recorded("ci-passed"))
    assert bench.steps(run_id)["openqa"] == "waiting"
    for name in ("openqa-one-of-many", "openqa-other-build"):
        bench.receive(recorded(name))
    assert bench.steps(run_id)["openqa"] == "waiting"
    bench.receive(recorded("openqa-last"))
    assert bench.play() == "gated-compose: release #1"
    run = bench.run(run_id)
    assert run.outputs == {"compose_id": COMPOSE, "compose_path": COMPOSED["compose_path"]}
    assert bench.announced(run_id)[-2][0] == "compose.released"


def test_results_that_come_before_anybody_waits_for_them_count(bench: Bench) -> None:
    run_id = gated(bench)
    receipts = bench.receive(*(recorded(name) for name in ("openqa-one-of-many", "openqa-last", "ci-passed")))
    assert {receipt.awaiting for receipt in receipts} == {(run_id,)}
    bench.play(outputs=COMPOSED)
    assert released(bench, run_id)


@pytest.mark.parametrize(
    ("names", "step"),
    [
        (["ci-failed"], "ci [validation]"),
        (["ci-passed", "openqa-one-of-many", "openqa-failed"], "openqa"),
    ],
)
def test_a_test_that_fails_keeps_the_compose_from_release(bench: Bench, names: list[str], step: str) -> None:
    run_id = gated(bench)
    bench.play(outputs=COMPOSED)
    bench.receive(*(recorded(name) for name in names))
    assert not released(bench, run_id)
    assert bench.steps(run_id)[step] == "failed"
    assert bench.steps(run_id)["release"] == "skipped"


@pytest.mark.parametrize(("result", "passes"), [("user_cancelled", False), ("softfailed", True)])
def test_the_last_openqa_test_must_not_have_failed_hard(bench: Bench, result: str, *, passes: bool) -> None:
    run_id = gated(bench)
    bench.play(outputs=COMPOSED)
    bench.receive(recorded("ci-passed"), recorded("openqa-last", result=result))
    assert released(bench, run_id) is passes


def test_each_category_of_ci_must_pass_and_openqa_may_be_left_out(bench: Bench) -> None:
    run_id = gated(bench, ci=["validation", "static-analysis"], openqa=False)
    bench.play(outputs=COMPOSED)
    bench.receive(recorded("ci-passed"))
    assert bench.run(run_id).state == "waiting"
    bench.receive(recorded("ci-other-category"))
    assert released(bench, run_id)


def test_a_container_image_may_miss_an_architecture_that_may_fail(bench: Bench) -> None:
    [receipt] = bench.receive(recorded("koji-tag-container"))
    [run_id] = receipt.runs
    bench.play(outputs={"container_build": "Fedora-Container-Base-Generic-44-20261120.0"})
    while "copy" in bench.play(outputs={"container_digest": {"localhost:5000": "sha256:" + "0" * 64}}):
        pass
    run = bench.run(run_id)
    assert run.state == "succeeded"
    assert set(bench.steps(run_id).values()) == {"succeeded"}
