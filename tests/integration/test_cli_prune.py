# SPDX-License-Identifier: GPL-3.0-or-later
"""``prune``, and what is said of that which was deleted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from relengq import access
from relengq.doctor.storage import kept
from relengq.engine import retention
from relengq.logs import store
from relengq.models import Announcement, OutputChunk, Run, TaskResult
from relengq.testing import Bench
from relengq.workflows import Retention
from tests.support.calls import Caller
from tests.support.clocks import set_ahead

FLOW = "steps: [{name: one, playbook: hello.yml}]\n"


@pytest.fixture
def bench(make_cli_bench: Callable[..., Bench]) -> Bench:
    """A bench over two workflows; nobody is an admin."""
    return make_cli_bench("admins = []\n", flow=FLOW, other=FLOW)


class Later:
    """Lets the database's clock be ahead."""

    def __init__(self) -> None:
        self.days = 0.0

    def date(self, ago: float = 0) -> str:
        return f"{datetime.now(UTC) + timedelta(days=self.days - ago):%Y-%m-%d}"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    made = Later()
    set_ahead(monkeypatch, lambda: timedelta(days=made.days))
    return made


def become_admin(bench: Bench) -> None:
    bench.installation.settings = bench.settings.model_copy(update={"admins": [access._user()]})


def finished(bench: Bench, workflow: str = "flow", state: str = "succeeded") -> str:
    run_id = bench.start(workflow)
    held = bench.claim()
    assert held is not None
    with bench.installation.database.write() as session:
        session.add(OutputChunk(**store.chunk(held.attempt_id, 1, b"some output\n")))
        session.add(
            TaskResult(
                attempt_id=held.attempt_id, seq=1, host="h1", play="p", task="t", action="a", status="ok",
                changed=False, duration=0.1,
            )
        )  # fmt: skip
    bench.finish(held, state=state)
    with bench.installation.database.write() as session:
        session.execute(update(Announcement).values(sent_at=Announcement.created_at))
    return run_id


def count(bench: Bench, table: type[Run | OutputChunk | TaskResult]) -> int:
    with bench.installation.database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def names(call: Caller, *arguments: str) -> list[str]:
    """The workflows of which a call deletes something."""
    listed = call.json(*arguments)["workflows"]
    assert isinstance(listed, list)
    return [each["workflow"] for each in listed]


def test_only_admins_may_and_everybody_may_ask(bench: Bench, call: Caller) -> None:
    for _ in range(3):
        finished(bench)
    assert "may not prune: it needs group nobody but admins" in call("prune", "--keep", "1", code=4).err
    said = call.json("prune", "--keep", "1", "--dry-run")
    assert said == {"dry_run": True, "workflows": [{"workflow": "flow", "logs": 0, "events": 0, "runs": 2}]}
    assert count(bench, Run) == 3
    become_admin(bench)
    assert call.json("prune", "--keep", "1") == {**said, "dry_run": False}
    assert count(bench, Run) == 1
    assert "Nothing is old enough" in call("prune", "--keep", "1").out


def test_options_and_names_narrow_it_down(bench: Bench, call: Caller, later: Later) -> None:
    become_admin(bench)
    for name in ("flow", "other"):
        for _ in range(2):
            finished(bench, name)
    later.days = 8
    assert names(call, "prune", "--logs-after", "7d", "--dry-run") == ["flow", "other"]
    assert names(call, "prune", "--logs-after", "7d", "other") == ["other"]
    assert count(bench, OutputChunk) == 3
    assert names(call, "prune", "--events-after", "0", "--logs-after", "") == []
    assert "Did you mean 'other'?" in call("prune", "othr", code=3).err
    assert "a duration is written like" in call("prune", "--runs-after", "soon", code=2).err


def test_what_was_deleted_is_told_and_why(bench: Bench, call: Caller, later: Later) -> None:
    old = finished(bench, state="failed")
    young = finished(bench)
    later.days = 100
    for _ in retention.prune(bench.installation, Retention(runs=0)):
        pass
    today = later.date()
    logs = f"The output of run {old}: pruned on {today} by the retention of 30d."
    tasks = f"The task results of run {old}: pruned on {today} by the retention of 90d."
    assert logs in call("logs", old).err
    assert logs in call("logs", old, "--follow").err
    assert tasks in call("logs", old, "--host", "h1", code=3).err
    assert tasks in call("logs", old, "--json").err
    status = " ".join(call("status", old).out.split())
    assert f"output pruned on {today} by the retention of 30d" in status
    assert f"task results pruned on {today} by the retention of 90d" in status
    assert "relengq logs" not in status, "there is nothing to look at any more"
    assert [each["what"] for each in call.json("status", old)["pruned"]] == ["output", "task results"]  # type: ignore[attr-defined]
    assert "some output" in call("logs", young).out


def test_the_doctor_tells_the_size_and_what_is_next(bench: Bench, later: Later) -> None:
    finished(bench)
    finished(bench)
    later.days = 40
    size, due = kept(bench.installation)
    ended = later.date(ago=40)
    assert size.message.startswith("the database has ")
    assert size.message.endswith(f"of it free to be used again; the oldest output is of {ended}")
    assert due.message == "the next prune deletes output of 1 runs, events of 0, and 0 runs"


def test_a_clock_that_has_not_pruned_for_long_is_a_warning(
    bench: Bench, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(bench)
    finished(bench)
    later.days = 40
    monkeypatch.setattr("relengq.doctor.storage._MANY", 0)
    _, due = kept(bench.installation)
    assert (due.level, due.message) == ("warn", "to be deleted: output of 1 runs, events of 0, and 0 runs")
