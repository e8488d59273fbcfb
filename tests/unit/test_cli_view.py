# SPDX-License-Identifier: GPL-3.0-or-later
"""How a run looks: what fits a terminal, and what is never shown as markup."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from relengq.cli.screen import Screen
from relengq.cli.view import View, advise
from relengq.documents import Json
from relengq.runs.lookup import RunLine
from relengq.runs.timeline import StepLine, Timeline, Waits
from relengq.states import RunState, StepState

NOW = datetime(2026, 11, 20, 5, 15, tzinfo=UTC)
STEP = StepLine(
    name="one", instance="", label="one", kind="playbook", final=False, state=StepState.PENDING, allow_failure=False,
    reason=None, waits=None, queue="default", host=None, attempts=0, started_at=None, finished_at=None, usual=None,
    kept_from=None, play=None, task=None, task_host=None, outputs={}, failures=(),
)  # fmt: skip
RUN = RunLine(
    id="0abc", workflow="nightly", state=RunState.RUNNING, reason=None, trigger="person", who="alice",
    inputs={"release": "f44"}, given=("release",), revision="a" * 40, dirty=True, origin=None, created_at=NOW,
    started_at=NOW, finished_at=None, readers=None,
)  # fmt: skip


def seen(*steps: StepLine, run: RunLine = RUN) -> Timeline:
    return Timeline(
        run=run, held=False, origin_from=None, trigger_detail={}, group=None, deadline=None, usual=90.0, outputs=None,
        reruns=(), pruned=(), steps=steps,
    )  # fmt: skip


def shown(timeline: Timeline, *, live: bool = False, height: int = 25) -> list[str]:
    screen = Screen("Europe/Prague")
    screen.console.size = (100, height)  # type: ignore[assignment]
    view = View(screen, timeline, NOW + timedelta(seconds=61))
    with screen.console.capture() as captured:
        screen.console.print(view.live() if live else view.whole())
    return captured.get().splitlines()


def test_the_head_says_how_long_against_the_usual_in_the_local_time() -> None:
    lines = shown(seen(STEP))
    assert lines[0] == "nightly  0abc  running  for 1m1s (usually 1m30s)"
    assert any("alice (person) at 2026-11-20 06:15" in line or "at 06:15:00" in line for line in lines)
    assert any("aaaaaaaaaaaa with uncommitted changes" in line for line in lines)


def test_the_head_has_the_message_that_started_it() -> None:
    by_message = replace(RUN, trigger="message", who="bus")
    detail: dict[str, Json] = {"message_id": "6c0b\x1b[0m", "topic": "org.example.ostree", "key": "f44/iot abc"}
    lines = shown(replace(seen(STEP, run=by_message), trigger_detail=detail))
    assert any("started by" in line and "bus (message)" in line for line in lines)
    assert any(line.split() == ["message", "6c0b", "[0m", "on", "org.example.ostree"] for line in lines)
    assert any(line.split() == ["key", "f44/iot", "abc"] for line in lines)


def test_a_running_step_says_where_it_is() -> None:
    step = replace(
        STEP, state=StepState.RUNNING, started_at=NOW, usual=50.0, host="builder1", play="Make", task="createrepo",
        task_host="web1", attempts=2,
    )  # fmt: skip
    assert any(
        "1m1s (usually 50s)" in line and "builder1: Make / createrepo (web1) (try 2)" in line
        for line in shown(seen(step))
    )


@pytest.mark.parametrize(
    ("state", "waits", "says"),
    [
        (StepState.QUEUED, Waits("try 2 of 3", NOW), "try 2 of 3 due at"),
        (StepState.WAITING, Waits("approval by leads", NOW), "approval by leads until"),
        (StepState.QUEUED, Waits("nobody serves queue x"), "nobody serves queue x"),
    ],
)
def test_a_waiting_step_says_for_what_and_until_when(state: StepState, waits: Waits, says: str) -> None:
    assert any(says in line for line in shown(seen(replace(STEP, state=state, waits=waits))))


def test_steps_of_finally_are_set_apart() -> None:
    lines = shown(seen(STEP, replace(STEP, name="report", label="report", final=True)))
    assert lines.index(next(line for line in lines if line.startswith("finally"))) == len(lines) - 4
    assert any(line.startswith("report") for line in lines)


@pytest.mark.parametrize("active", [0, 50, 99])
def test_the_live_view_fits_the_terminal_and_has_what_is_under_way(active: int) -> None:
    states = [StepState.SUCCEEDED] * active + [StepState.RUNNING] + [StepState.PENDING] * (99 - active)
    steps = [replace(STEP, name=f"s{at}", label=f"s{at}", state=state) for at, state in enumerate(states)]
    lines = shown(seen(*steps), live=True, height=24)
    assert len(lines) <= 24
    assert any(line.startswith(f"s{active} ") for line in lines)
    assert any("lines below" in line for line in lines) or active == 99
    assert any("lines above" in line for line in lines) or active == 0


def test_advice_fits_the_state() -> None:
    approval = replace(STEP, name="go", label="go", kind="approval", state=StepState.WAITING, waits=Waits("approval"))
    assert "relengq approve 0abc go" in advise(seen(approval, run=replace(RUN, state=RunState.WAITING)))[0]
    failed = replace(STEP, state=StepState.FAILED, attempts=1)
    assert advise(seen(failed, run=replace(RUN, state=RunState.FAILED))) == [
        "relengq logs 0abc --failed",
        "relengq rerun 0abc --failed",
    ]
    assert "relengq release 0abc" in advise(seen(STEP, run=replace(RUN, state=RunState.HELD)))[0]
    assert advise(seen(STEP, run=replace(RUN, state=RunState.SUCCEEDED))) == []


def test_values_from_outside_are_plain_text() -> None:
    inputs = {"a": "[red]x[/red]\n\x1b[31my", "empty": ""}
    lines = shown(seen(STEP, run=replace(RUN, inputs=inputs, given=("a",))))
    line = next(line for line in lines if "[red]" in line)
    assert "a=[red]x[/red] [31my" in line
    assert "empty" not in line
