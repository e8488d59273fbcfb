# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run is: made once, played step by step, and kept with everything that happened to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relengq.engine import control
from relengq.engine.rerun import rerun
from relengq.engine.start import Trigger
from relengq.errors import BrokerUnavailable, WrongState
from relengq.runs import lookup
from relengq.testing import Bench

MakeBench = Callable[[str], Bench]


TWO = """\
steps:
  - {name: compose, playbook: hello.yml}
  - {name: publish, playbook: hello.yml}
finally:
  - {name: report, playbook: hello.yml}
"""


def test_a_run_is_a_chain_of_steps(workflow: MakeBench) -> None:
    # Given a workflow of two steps, with one more for the end
    bench = workflow(TWO)
    # When a person starts it
    run_id = bench.start("nightly")
    # Then the first step is on its queue, and the others wait for their turn
    assert bench.steps(run_id) == {"compose": "queued", "publish": "pending", "report": "pending"}
    # And when workers play one after the other, the run succeeds
    assert [bench.play() for _ in range(3)] == ["nightly: compose #1", "nightly: publish #1", "nightly: report #1"]
    assert bench.run(run_id).state == "succeeded"


def test_a_start_happens_once(workflow: MakeBench) -> None:
    # Given a bus that delivers one message to two listeners
    bench = workflow(TWO)
    message = Trigger("message", "bus", key="2026-5a1c0e3f")
    # When both start a run for it
    first, second = bench.started("nightly", {}, message), bench.started("nightly", {}, message)
    # Then there is one run, and one step was sent
    assert first.run_id == second.run_id
    assert (first.fresh, second.fresh) == (True, False)
    assert len(bench.sent) == 1


def test_a_step_is_played_by_one_worker(workflow: MakeBench) -> None:
    # Given a step that the broker delivers twice
    bench = workflow(TWO)
    bench.start("nightly")
    bench.sent.append(bench.sent[0])
    # When two workers want it
    first, second = bench.claim(), bench.claim()
    # Then one gets it
    assert first is not None
    assert second is None


def test_steps_hand_values_on(workflow: MakeBench) -> None:
    # Given a step that needs what an earlier one has found
    bench = workflow(
        "steps:\n"
        "  - {name: compose, playbook: hello.yml}\n"
        "  - {name: publish, playbook: hello.yml, when: outputs.status == 'FINISHED'}\n"
        'outputs: {published: "{{ outputs.compose_id }}"}\n'
    )
    # When the earlier one hands values on with set_stats
    run_id = bench.start("nightly")
    bench.play(outputs={"status": "FINISHED", "compose_id": "Test-1"})
    # Then the later one decides by them, and the run's result can name them
    assert bench.steps(run_id)["publish"] == "queued"
    bench.play()
    assert bench.run(run_id).outputs == {"published": "Test-1"}


def test_a_matrix_plays_side_by_side(workflow: MakeBench) -> None:
    # Given a step that fans out over architectures, of which one may fail
    bench = workflow(
        "inputs:\n  arches: {type: list, default: [x86_64, s390x]}\n"
        "steps:\n"
        "  - name: build\n"
        "    playbook: hello.yml\n"
        "    matrix: {arch: '{{ inputs.arches }}'}\n"
        "    allow_failure: matrix.arch == 's390x'\n"
        "  - {name: publish, playbook: hello.yml}\n"
    )
    run_id = bench.start("nightly")
    # When one worker is still busy with the first instance, another plays the second
    first, second = bench.claim(), bench.claim()
    assert first is not None
    assert second is not None
    bench.finish(second, state="failed", message="no builder")
    assert bench.steps(run_id)["publish"] == "pending"
    bench.finish(first)
    # Then the chain goes on when all have ended, without the one that may fail
    assert bench.steps(run_id) == {"build [s390x]": "failed", "build [x86_64]": "succeeded", "publish": "queued"}


def test_a_failed_step_fails_the_run_and_finally_is_played(workflow: MakeBench) -> None:
    # Given a run
    bench = workflow(TWO)
    run_id = bench.start("nightly")
    # When its first step fails
    bench.play(state="failed", message="localhost: Make it: no space left")
    bench.play()
    # Then the second is not played, the report is, and the run says why it failed
    assert bench.steps(run_id) == {"compose": "failed", "publish": "skipped", "report": "succeeded"}
    assert bench.run(run_id).reason == "compose: localhost: Make it: no space left"


def test_a_step_is_tried_as_often_as_it_says(workflow: MakeBench) -> None:
    # Given a step that may be tried twice
    bench = workflow("steps: [{name: sync, playbook: hello.yml, retry: {attempts: 2}}]\n")
    run_id = bench.start("nightly")
    # When it fails once and then succeeds
    bench.play(state="failed", message="mirror is down")
    bench.play()
    # Then the run succeeds, and both tries are kept
    run = bench.run(run_id)
    assert run.state == "succeeded"
    assert [attempt.state for attempt in run.steps[0].attempts] == ["failed", "succeeded"]


def test_a_worker_that_is_stopped_costs_no_try(workflow: MakeBench) -> None:
    # Given a step that may be tried once
    bench = workflow("steps: [{name: sync, playbook: hello.yml}]\n")
    run_id = bench.start("nightly")
    # When its worker is stopped, it hands the step back
    bench.play(state="interrupted")
    # Then another worker plays it, and nothing has failed
    bench.play()
    assert bench.run(run_id).state == "succeeded"
    assert bench.run(run_id).steps[0].failures == 0


@pytest.mark.parametrize(("on_lost", "then"), [("retry", "queued"), ("hold", "held"), ("fail", "failed")])
def test_the_author_decides_what_follows_a_lost_worker(workflow: MakeBench, on_lost: str, then: str) -> None:
    # Given a step that says whether it is safe to play it again
    bench = workflow(f"steps: [{{name: sign, playbook: hello.yml, on_lost: {on_lost}}}]\n")
    run_id = bench.start("nightly")
    # When the host that plays it dies
    bench.play(state="lost")
    # Then it is played again, held until a person has looked, or failed
    assert bench.steps(run_id) == {"sign": then}


def test_a_person_approves_and_it_is_recorded(workflow: MakeBench) -> None:
    # Given a run that needs a decision
    bench = workflow("steps:\n  - {name: go, approval: {groups: [leads]}}\n  - {name: publish, playbook: hello.yml}\n")
    run_id = bench.start("nightly")
    assert bench.run(run_id).state == "waiting"
    # When a lead approves it
    control.approve(bench.installation, run_id, "go", who="alice", note="smoke test is fine", accepted=True)
    # Then it goes on, and the history knows who it was and why
    assert bench.steps(run_id) == {"go": "succeeded", "publish": "queued"}
    with bench.installation.database.read() as session:
        events = lookup.history(session, run_id)
    assert ("alice", "approved", "smoke test is fine") in [(each.who, each.action, each.note) for each in events]


def test_a_cancelled_run_still_cleans_up(workflow: MakeBench) -> None:
    # Given a run whose first step is being played
    bench = workflow(TWO)
    run_id = bench.start("nightly")
    held = bench.claim()
    assert held is not None
    # When it is cancelled
    control.cancel(bench.installation, run_id, who="alice")
    bench.finish(held, state="cancelled")
    # Then 'finally' is played, the rest is not, and nothing more can be done to it
    bench.play()
    assert bench.steps(run_id) == {"compose": "cancelled", "publish": "skipped", "report": "succeeded"}
    assert bench.run(run_id).state == "cancelled"
    with pytest.raises(WrongState):
        control.cancel(bench.installation, run_id, who="alice")


def test_a_failed_run_is_resumed_where_it_failed(workflow: MakeBench) -> None:
    # Given a run whose second step failed
    bench = workflow(TWO)
    origin = bench.start("nightly")
    bench.play(outputs={"compose_id": "Test-1"})
    bench.play(state="failed")
    bench.play()
    # When it is started again from its failure
    again = rerun(bench.installation, origin, trigger=Trigger("person", "alice"), failed=True).run_id
    # Then it is a new run that names its origin and keeps what had succeeded
    assert bench.run(again).origin_id == origin
    assert bench.steps(again) == {"compose": "succeeded", "publish": "queued", "report": "pending"}
    assert bench.run(again).steps[0].outputs == {"compose_id": "Test-1"}


def test_one_run_of_a_group_at_a_time(workflow: MakeBench) -> None:
    # Given a workflow that must not run beside itself for one release
    bench = workflow(
        "inputs: {release: {type: string}}\n"
        "concurrency: {group: 'compose-{{ inputs.release }}'}\n"
        "steps: [{name: compose, playbook: hello.yml}]\n"
    )
    # When it is started three times, twice for one release
    first, second, other = (bench.start("nightly", release=release) for release in ("f44", "f44", "rawhide"))
    # Then the second run of the release waits, and says for whom
    assert [bench.steps(run_id)["compose"] for run_id in (first, second, other)] == ["queued", "pending", "queued"]
    assert bench.run(second).reason == f"concurrency group compose-f44 is held by run {first}"
    bench.play()
    assert bench.steps(second)["compose"] == "queued"


def test_what_is_accepted_is_kept_while_the_broker_is_away(workflow: MakeBench) -> None:
    # Given a broker that does not answer
    bench = workflow(TWO)
    working = bench.installation.send

    def away(_: object) -> None:
        raise BrokerUnavailable("The broker does not answer.")

    bench.installation.send = away
    # When a person starts a run
    started = bench.started("nightly", {}, Trigger("person", "alice"))
    # Then it is kept, and who started it is told
    assert started.broker_away == "The broker does not answer."
    assert bench.run(started.run_id).state == "queued"
    # And when the broker is back, the clock sends its step
    bench.installation.send = working
    bench.tick()
    assert bench.play() == "nightly: compose #1"
