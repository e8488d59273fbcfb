# SPDX-License-Identifier: GPL-3.0-or-later
"""How runs go on: the real engine on real databases, with plays that the tests make up."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from relengq.engine import clock, control
from relengq.engine.advance import Advance
from relengq.engine.rerun import rerun
from relengq.engine.start import Trigger
from relengq.errors import InputFault, NotFound, Refused, StaleAttempt, UsageFault, WrongState
from relengq.models import Attempt, History, Run, Step
from relengq.runs import lookup
from relengq.runs.attempts import renew
from relengq.runs.lookup import Filters
from relengq.states import RunState
from relengq.testing import Bench
from relengq.workflows import Workflow

MakeBench = Callable[..., Bench]


CHAIN = """
    steps:
      - {name: one, playbook: hello.yml}
      - {name: two, playbook: hello.yml}
    finally:
      - {name: report, playbook: hello.yml}
"""


def test_a_chain_is_played_step_by_step(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    assert bench.run(run_id).state == "queued"
    assert bench.steps(run_id) == {"one": "queued", "two": "pending", "report": "pending"}
    assert [bench.play(), bench.play(), bench.play()] == ["chain: one #1", "chain: two #1", "chain: report #1"]
    run = bench.run(run_id)
    assert (run.state, run.result, run.reason) == ("succeeded", "succeeded", None)
    assert run.started_at is not None
    assert run.finished_at is not None


def test_a_failed_step_fails_the_run_and_finally_runs(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    bench.play(state="failed", message="localhost: Make it: no disk")
    assert bench.steps(run_id) == {"one": "failed", "two": "skipped", "report": "queued"}
    bench.play()
    run = bench.run(run_id)
    assert run.state == "failed"
    assert run.reason == "one: localhost: Make it: no disk"


def test_finally_sees_what_a_failed_step_handed_on(make_bench: MakeBench) -> None:
    bench = make_bench(
        chain="""
        steps: [{name: one, playbook: hello.yml, retry: {attempts: 2}}]
        finally: [{name: report, playbook: hello.yml, when: outputs.compose_status == 'DOOMED'}]
        """
    )
    run_id = bench.start("chain")
    bench.play(state="failed", outputs={"compose_status": "STARTED"})
    assert bench.run(run_id).steps[0].outputs is None
    bench.play(state="failed", outputs={"compose_status": "DOOMED"})
    assert bench.steps(run_id) == {"one": "failed", "report": "queued"}
    bench.play()
    assert bench.run(run_id).outputs == {"compose_status": "DOOMED"}


def test_a_failed_finally_fails_the_run(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    bench.play()
    bench.play()
    bench.play(state="failed", message="mail is away")
    assert bench.run(run_id).state == "failed"
    assert bench.run(run_id).reason == "report: mail is away"


def test_retries_come_when_they_are_due_and_end(make_bench: MakeBench) -> None:
    bench = make_bench(chain="steps: [{name: one, playbook: hello.yml, retry: {attempts: 3, delay: 10m, backoff: 2}}]")
    run_id = bench.start("chain")
    for number in (1, 2):
        bench.play(state="failed", message="busy")
        assert bench.steps(run_id) == {"one": "queued"}
        step = bench.run(run_id).steps[0]
        assert step.reason == f"try {number + 1} of 3; busy"
        attempt = step.attempts[-1]
        assert attempt.due_at - attempt.created_at == timedelta(minutes=10 * number)
        assert not bench.sent, "a retry is not sent before it is due"
        _make_due(bench)
        bench.tick()
    bench.play(state="timed_out", message="took longer than 1m")
    assert bench.run(run_id).state == "failed"
    assert [attempt.state for attempt in bench.run(run_id).steps[0].attempts] == ["failed", "failed", "timed_out"]


def _make_due(bench: Bench) -> None:
    with bench.installation.database.write() as session:
        session.execute(update(Attempt).values(due_at=Attempt.created_at))


MATRIX = """
    inputs:
      arches: {type: list, choices: [x86_64, aarch64, s390x], default: [x86_64, aarch64]}
      failable: {type: list, default: []}
    steps:
      - name: createrepo
        playbook: hello.yml
        matrix: {arch: "{{ inputs.arches }}"}
        allow_failure: matrix.arch in inputs.failable
        when: matrix.arch != 's390x'
        queue: "default"
      - name: publish
        playbook: hello.yml
        when: outputs.packages | length > 0
    outputs: {packages: "{{ outputs.packages }}", failed: "{{ steps.createrepo.failed }}"}
"""


def test_a_matrix_runs_side_by_side_and_gathers_outputs(make_bench: MakeBench) -> None:
    bench = make_bench(matrix=MATRIX)
    run_id = bench.start("matrix", arches=["x86_64", "aarch64", "s390x"])
    assert bench.steps(run_id) == {
        "createrepo [aarch64]": "queued",
        "createrepo [s390x]": "skipped",
        "createrepo [x86_64]": "queued",
        "publish": "pending",
    }
    for parcel in list(bench.sent):
        bench.play(outputs={"packages": len(parcel.label)})
    bench.play()
    run = bench.run(run_id)
    assert run.state == "succeeded"
    assert run.outputs == {"packages": {"aarch64": 31, "x86_64": 30}, "failed": []}


def test_an_instance_that_may_fail_does_not_fail_the_run(make_bench: MakeBench) -> None:
    bench = make_bench(matrix=MATRIX)
    run_id = bench.start("matrix", failable=["aarch64"])
    first, second = bench.claim(), bench.claim()
    assert first is not None
    assert second is not None
    assert "[x86_64]" in first.label
    bench.finish(second, state="failed", message="broken")
    bench.finish(first, outputs={"packages": 3})
    bench.play()
    run = bench.run(run_id)
    assert run.state == "succeeded"
    assert run.outputs == {"packages": {"x86_64": 3}, "failed": ["aarch64"]}


def test_an_instance_that_may_not_fail_does(make_bench: MakeBench) -> None:
    bench = make_bench(matrix=MATRIX)
    run_id = bench.start("matrix")
    bench.play(outputs={"packages": 3})
    bench.play(state="failed", message="broken")
    assert bench.run(run_id).state == "failed"
    assert bench.run(run_id).reason == "createrepo [aarch64]: broken"


def test_an_empty_matrix_is_skipped(make_bench: MakeBench) -> None:
    bench = make_bench(matrix=MATRIX.replace("when: outputs.packages | length > 0", "when: true"))
    run_id = bench.start("matrix", arches=[])
    assert bench.steps(run_id)["createrepo"] == "skipped"


def test_an_expression_that_fails_fails_the_step(make_bench: MakeBench) -> None:
    bench = make_bench(matrix=MATRIX)
    run_id = bench.start("matrix", arches=[])
    run = bench.run(run_id)
    assert run.state == "failed"
    assert "publish" in (run.reason or "")
    assert "packages" in (run.reason or "")


def test_outputs_are_seen_by_key_and_by_step(make_bench: MakeBench) -> None:
    bench = make_bench(
        chain="""
        steps:
          - {name: one, playbook: hello.yml}
          - {name: two, playbook: hello.yml, when: outputs.id == 'X' and outputs.one.id == 'X'}
        """
    )
    run_id = bench.start("chain")
    bench.play(outputs={"id": "X"})
    assert bench.steps(run_id)["two"] == "queued"
    bench.play(outputs={"id": "Y"})
    assert bench.run(run_id).outputs == {"id": "Y"}


APPROVAL = """
    steps:
      - {name: go, approval: {groups: [leads], timeout: 1d}}
      - {name: publish, playbook: hello.yml, when: outputs.go.approved}
"""


def test_an_approval_waits_for_a_person(make_bench: MakeBench) -> None:
    bench = make_bench(release=APPROVAL)
    run_id = bench.start("release")
    run = bench.run(run_id)
    assert (run.state, run.reason) == ("waiting", "approval by leads")
    assert not bench.sent
    assert control.approve(bench.installation, run_id, None, who="alice", note="fine", accepted=True) == "go"
    bench.play()
    run = bench.run(run_id)
    assert run.state == "succeeded"
    assert run.steps[0].outputs is not None
    assert run.steps[0].outputs["by"] == "alice"
    with pytest.raises(WrongState):
        bench.decide(run_id)


def test_a_rejected_approval_fails_the_run(make_bench: MakeBench) -> None:
    bench = make_bench(release=APPROVAL)
    run_id = bench.start("release")
    with pytest.raises(NotFound, match="'gp'"):
        control.approve(bench.installation, run_id, "gp", who="alice", note=None, accepted=False)
    control.approve(bench.installation, run_id, "go", who="alice", note="too early", accepted=False)
    assert bench.run(run_id).reason == "go: rejected by alice: too early"


def test_an_approval_times_out(make_bench: MakeBench) -> None:
    bench = make_bench(release=APPROVAL)
    run_id = bench.start("release")
    bench.tick()
    assert bench.run(run_id).state == "waiting"
    with bench.installation.database.write() as session:
        session.execute(update(Step).values(due_at=bench.run(run_id).created_at - timedelta(seconds=1)))
    bench.tick()
    assert bench.run(run_id).state == "failed"
    assert "nobody answered in time" in (bench.run(run_id).reason or "")


def test_cancel_withdraws_what_is_queued_and_finally_runs(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    bench.play()
    control.cancel(bench.installation, run_id, who="alice")
    assert bench.steps(run_id) == {"one": "succeeded", "two": "cancelled", "report": "queued"}
    assert bench.claim() is None, "the withdrawn attempt cannot be claimed"
    assert bench.play() == "chain: report #1"
    run = bench.run(run_id)
    assert (run.state, run.reason) == ("cancelled", "cancelled by alice")
    with pytest.raises(WrongState):
        control.cancel(bench.installation, run_id, who="alice")


def test_cancel_before_the_first_step_runs_nothing(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    control.cancel(bench.installation, run_id, who="alice")
    assert bench.run(run_id).state == "cancelled"
    assert bench.steps(run_id) == {"one": "cancelled", "two": "skipped", "report": "skipped"}


def test_cancel_asks_the_worker_to_stop(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    held = bench.claim()
    assert held is not None
    control.cancel(bench.installation, run_id, who="alice")
    database = bench.installation.database
    with database.write() as session:
        assert renew(session, held, now=database.now(session), lease=timedelta(seconds=9)) == "cancelled"
    assert bench.run(run_id).state == "running"
    bench.finish(held, state="cancelled")
    assert bench.steps(run_id) == {"one": "cancelled", "two": "skipped", "report": "queued"}
    bench.play()
    assert bench.run(run_id).state == "cancelled"


def test_a_step_that_succeeds_while_it_is_cancelled_is_not_followed(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    held = bench.claim()
    assert held is not None
    control.cancel(bench.installation, run_id, who="alice")
    bench.finish(held)
    assert bench.steps(run_id) == {"one": "succeeded", "two": "skipped", "report": "queued"}


def test_a_second_cancel_stops_finally(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    bench.play()
    control.cancel(bench.installation, run_id, who="alice")
    control.cancel(bench.installation, run_id, who="alice")
    assert bench.run(run_id).state == "cancelled"
    assert bench.steps(run_id)["report"] == "cancelled"


def test_hold_lets_nothing_new_begin(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    control.hold(bench.installation, run_id, who="alice", note="freeze")
    assert (bench.run(run_id).state, bench.run(run_id).reason) == ("held", "held by alice: freeze")
    assert bench.claim() is None
    control.release(bench.installation, run_id, who="bob")
    assert bench.run(run_id).state == "queued"
    bench.play()
    held = bench.claim()
    assert held is not None
    control.hold(bench.installation, run_id, who="alice")
    bench.finish(held)
    assert bench.steps(run_id) == {"one": "succeeded", "two": "succeeded", "report": "pending"}
    control.release(bench.installation, run_id, who="bob")
    bench.play()
    assert bench.run(run_id).state == "succeeded"
    with pytest.raises(WrongState):
        control.release(bench.installation, run_id, who="bob")


def test_a_group_lets_one_run_at_a_time_through_in_order(make_bench: MakeBench) -> None:
    bench = make_bench(chain="concurrency: {group: compose}" + textwrap.dedent(CHAIN))
    first, second, third = (bench.start("chain") for _ in range(3))
    assert bench.run(second).reason == f"concurrency group compose is held by run {first}"
    assert len(bench.sent) == 1
    bench.play()
    bench.play()
    bench.play()
    assert bench.run(first).state == "succeeded"
    with bench.installation.database.read() as session:
        seen = {line.id: line.reason for line in lookup.runs(session, Filters(workflow="chain"))}
    assert seen[third] == f"concurrency group compose is held by run {second}"
    control.cancel(bench.installation, second, who="alice")
    assert bench.claim() is None
    for _ in range(3):
        bench.play()
    assert bench.run(third).state == "succeeded"


def test_a_busy_group_skips_or_replaces(make_bench: MakeBench) -> None:
    steps = textwrap.dedent(CHAIN)
    bench = make_bench(
        skip="concurrency: {group: a, when_busy: skip}" + steps,
        replace="concurrency: {group: b, when_busy: cancel-running}" + steps,
    )
    first, second = bench.start("skip"), bench.start("skip")
    assert bench.run(second).state == "skipped"
    assert bench.run(second).reason == f"concurrency group a is held by run {first}"
    old, new = bench.start("replace"), bench.start("replace")
    assert bench.run(old).state == "cancelled"
    assert bench.run(new).state == "queued"
    assert bench.run(new).reason is None


def test_a_run_that_is_replaced_already_ends_as_it_would(make_bench: MakeBench) -> None:
    """A second newer run does not stop what the first one left to it."""
    bench = make_bench(
        push="concurrency: {group: g, when_busy: cancel-running}\n"
        "steps: [{name: one, playbook: hello.yml}]\nfinally: [{name: clean, playbook: hello.yml}]\n"
    )
    old = bench.start("push")
    one = bench.claim()
    assert one is not None
    bench.start("push")
    bench.finish(one, state="cancelled")
    clean = bench.claim()
    assert clean is not None
    newest = bench.start("push")
    (attempt,) = bench.run(old).steps[1].attempts
    assert (attempt.state, attempt.stop_reason) == ("running", None)
    bench.finish(clean)
    assert bench.steps(old) == {"one": "cancelled", "clean": "succeeded"}
    bench.play()
    assert bench.run(newest).state == "running"


def test_a_key_starts_once(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    trigger = Trigger("message", "bus", key="m" * 300)
    first = bench.started("chain", {}, trigger)
    again = bench.started("chain", {}, trigger)
    assert (first.run_id, first.fresh, again.fresh) == (again.run_id, True, False)
    assert len(bench.sent) == 1


def test_a_step_is_claimed_once_and_stale_writes_are_refused(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    bench.sent.append(bench.sent[0])
    held = bench.claim()
    assert held is not None
    assert bench.claim() is None, "a second delivery finds the attempt claimed"
    _let_leases_run_out(bench)
    bench.tick()
    assert bench.steps(run_id)["one"] == "queued"
    assert [attempt.state for attempt in bench.run(run_id).steps[0].attempts] == ["lost", "queued"]
    with pytest.raises(StaleAttempt):
        bench.finish(held)
    bench.play()
    assert bench.steps(run_id)["one"] == "succeeded"


def _let_leases_run_out(bench: Bench) -> None:
    with bench.installation.database.write() as session:
        session.execute(update(Attempt).values(lease_until=Attempt.created_at))


def test_a_lost_step_is_held_or_failed_when_it_is_not_safe_to_repeat(make_bench: MakeBench) -> None:
    bench = make_bench(
        hold="steps: [{name: sign, playbook: hello.yml, on_lost: hold}]",
        fail="steps: [{name: sign, playbook: hello.yml, on_lost: fail}]",
    )
    failed = bench.start("fail")
    bench.claim()
    held = bench.start("hold")
    bench.claim()
    _let_leases_run_out(bench)
    bench.tick()
    assert bench.run(failed).state == "failed"
    assert bench.run(held).state == "held"
    assert "lost with its worker" in (bench.run(held).reason or "")
    control.release(bench.installation, held, who="alice")
    bench.play()
    assert bench.run(held).state == "succeeded"


def test_losses_are_limited(make_bench: MakeBench) -> None:
    bench = make_bench(chain="steps: [{name: one, playbook: hello.yml, lost_limit: 1}]")
    run_id = bench.start("chain")
    for _ in range(2):
        assert bench.claim() is not None
        _let_leases_run_out(bench)
        bench.tick()
    assert bench.run(run_id).state == "failed"
    assert bench.run(run_id).steps[0].failures == 0


def test_an_interrupted_step_is_handed_back_and_not_counted(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    bench.play(state="interrupted")
    assert bench.steps(run_id)["one"] == "queued"
    assert bench.run(run_id).steps[0].failures == 0
    assert bench.play() == "chain: one #2"


def test_a_run_past_its_timeout_fails_and_finally_runs(make_bench: MakeBench) -> None:
    bench = make_bench(chain="timeout: 1h" + textwrap.dedent(CHAIN))
    run_id = bench.start("chain")
    bench.play()
    with bench.installation.database.write() as session:
        session.execute(update(Run).values(deadline=Run.created_at))
    bench.tick()
    assert bench.claim() is None
    assert bench.play() == "chain: report #1"
    assert bench.run(run_id).state == "failed"
    assert "timeout of 1h" in (bench.run(run_id).reason or "")


def test_rerun_failed_keeps_what_succeeded(make_bench: MakeBench) -> None:
    bench = make_bench(matrix=MATRIX)
    origin = bench.start("matrix")
    with pytest.raises(WrongState):
        rerun(bench.installation, origin, trigger=Trigger("person", "alice"), failed=True)
    bench.play(outputs={"packages": 3})
    bench.play(state="failed", message="broken")
    again = rerun(bench.installation, origin, trigger=Trigger("person", "alice"), failed=True).run_id
    run = bench.run(again)
    assert (run.origin_id, run.origin_from) == (origin, "failed")
    assert bench.steps(again) == {
        "createrepo [aarch64]": "queued",
        "createrepo [x86_64]": "succeeded",
        "publish": "pending",
    }
    assert bench.play(outputs={"packages": 4}) == "matrix: createrepo [aarch64] #1"
    bench.play()
    assert bench.run(again).outputs == {"packages": {"aarch64": 4, "x86_64": 3}, "failed": []}
    assert [step.kept_from for step in bench.run(again).steps] == [None, origin, None]


def test_rerun_from_a_step(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    origin = bench.start("chain")
    for _ in range(3):
        bench.play(outputs={"id": "X"})
    trigger = Trigger("person", "alice")
    with pytest.raises(NotFound, match=r"(?i)did you mean 'two'"):
        rerun(bench.installation, origin, trigger=trigger, from_step="twoo")
    with pytest.raises(WrongState, match="no failed step"):
        rerun(bench.installation, origin, trigger=trigger, failed=True)
    again = rerun(bench.installation, origin, trigger=trigger, from_step="two").run_id
    assert bench.steps(again) == {"one": "succeeded", "two": "queued", "report": "pending"}
    whole = rerun(bench.installation, origin, trigger=trigger).run_id
    assert bench.steps(whole) == {"one": "queued", "two": "pending", "report": "pending"}


def test_inputs_are_checked_before_a_run_exists(make_bench: MakeBench) -> None:
    bench = make_bench(matrix=MATRIX)
    with pytest.raises(InputFault, match="arches"):
        bench.start("matrix", arches=["vax"])
    with pytest.raises(NotFound, match=r"(?i)did you mean 'matrix'"):
        bench.start("matrx")
    with bench.installation.database.read() as session:
        assert session.scalars(select(Run)).all() == []


def test_a_secret_input_is_never_stored_in_clear(make_bench: MakeBench) -> None:
    bench = make_bench(
        sign="""
        inputs: {token: {type: string, secret: true}, release: {type: string}}
        steps: [{name: sign, playbook: hello.yml, vars: {sign_token: "{{ inputs.token }}"}}]
        """
    )
    run_id = bench.start("sign", token="canary-5f2c", release="f44")
    run = bench.run(run_id)
    assert run.inputs == {"token": "********", "release": "f44"}
    assert run.sealed_inputs is not None
    assert b"canary" not in run.sealed_inputs
    assert bench.installation.secrets.open(run.sealed_inputs) == {"token": "canary-5f2c"}
    bench.play(state="failed")
    again = rerun(bench.installation, run_id, trigger=Trigger("person", "alice"))
    assert bench.installation.secrets.open(bench.run(again.run_id).sealed_inputs) == {"token": "canary-5f2c"}


def test_a_flood_of_runs_is_refused(make_bench: MakeBench) -> None:
    bench = make_bench(settings="max_runs_active = 2\n", chain=CHAIN)
    bench.start("chain")
    bench.start("chain")
    with pytest.raises(Refused, match="max_runs_active is 2"):
        bench.start("chain")


def test_an_edit_of_the_file_does_not_reach_a_run(make_bench: MakeBench, site: Path) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    (site / "playbooks/workflows/chain.yml").write_text("steps: [{name: other, playbook: hello.yml}]\n")
    bench.play()
    assert bench.play() == "chain: two #1"
    assert bench.steps(bench.start("chain")) == {"other": "queued"}
    assert bench.run(run_id).state is RunState.RUNNING


def test_values_that_read_alike_are_different_instances(make_bench: MakeBench) -> None:
    bench = make_bench(
        wide="""
        inputs: {values: {type: list, default: ["x", "x, y"]}}
        steps:
          - {name: mixed, playbook: hello.yml, matrix: {a: [1, "1"]}}
          - {name: product, playbook: hello.yml, matrix: {a: "{{ inputs['values'] }}", b: ["y, z", z]}}
        """
    )
    run_id = bench.start("wide")
    assert set(bench.steps(run_id)) == {"mixed [1]", "mixed [1 ~2]", "product"}
    bench.play()
    bench.play()
    assert len([label for label in bench.steps(run_id) if label.startswith("product")]) == 4


def test_a_rendered_queue_must_be_a_name(make_bench: MakeBench) -> None:
    bench = make_bench(
        chain="""
        inputs: {where: {type: string}}
        steps: [{name: one, playbook: hello.yml, queue: "{{ inputs.where }}"}]
        """
    )
    for where in ("", "amq.gen/*", "x" * 300, "a b"):
        run = bench.run(bench.start("chain", where=where))
        assert run.state == "failed"
        assert "is no name of a queue" in (run.reason or "")


def test_an_expression_cannot_make_what_no_database_keeps(make_bench: MakeBench) -> None:
    bench = make_bench(
        chain="""
        inputs: {x: {type: string}}
        steps: [{name: one, playbook: hello.yml, matrix: {a: "{{ inputs.x | from_json }}"}}]
        """
    )
    run = bench.run(bench.start("chain", x='["a\\u0000"]'))
    assert run.state == "failed"
    assert "NUL" in (run.reason or "")


def test_a_bug_in_what_follows_does_not_lose_an_ending(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench(chain="concurrency: {group: g}" + textwrap.dedent(CHAIN))
    run_id, next_id = bench.start("chain"), bench.start("chain")
    held = bench.claim()
    assert held is not None

    def broken(self: Advance) -> None:
        if self.run.id == run_id:
            raise KeyError("a bug")
        proper(self)

    proper = Advance.go
    monkeypatch.setattr(Advance, "go", broken)
    bench.finish(held)
    run = bench.run(run_id)
    assert run.state == "failed"
    assert "a bug in relengq, KeyError" in (run.reason or "")
    assert bench.steps(run_id) == {"one": "succeeded", "two": "skipped", "report": "skipped"}
    assert [attempt.state for attempt in run.steps[0].attempts] == ["succeeded"]
    assert bench.play() == "chain: one #1", "the group has gone to the next run"
    assert bench.run(next_id).state == "running"


def test_one_run_that_cannot_go_on_stops_no_other(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench(release=APPROVAL)
    bad, good = bench.start("release"), bench.start("release")
    with bench.installation.database.write() as session:
        session.execute(update(Step).where(Step.kind == "approval").values(due_at=Step.started_at))
    proper = clock.workflow_of

    def broken(run: Run) -> Workflow:
        if run.id == bad:
            raise ValueError("a definition that this version refuses")
        return proper(run)

    monkeypatch.setattr(clock, "workflow_of", broken)
    bench.tick()
    assert bench.run(good).state == "failed"
    assert "nobody answered" in (bench.run(good).reason or "")
    assert bench.run(bad).state == "failed"


def test_many_runs_that_end_at_once_leave_their_group(make_bench: MakeBench) -> None:
    bench = make_bench(
        chain="""
        concurrency: {group: g}
        inputs: {play: {type: bool, default: false}}
        steps: [{name: one, playbook: hello.yml, when: inputs.play}]
        """
    )
    first = bench.start("chain", play=True)
    others = [bench.start("chain") for _ in range(60)]
    control.cancel(bench.installation, first, who="alice")
    for _ in range(5):
        bench.tick()
    assert {bench.run(each).state for each in others} == {RunState.SUCCEEDED}


def test_rerun_failed_plays_finally_alone_when_only_that_failed(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    origin = bench.start("chain")
    bench.play()
    bench.play()
    bench.play(state="failed", message="mail is away")
    trigger = Trigger("person", "alice")
    again = rerun(bench.installation, origin, trigger=trigger, failed=True).run_id
    assert bench.steps(again) == {"one": "succeeded", "two": "succeeded", "report": "queued"}
    bench.play()
    assert bench.run(again).state == "succeeded"
    with pytest.raises(UsageFault, match="belongs to finally"):
        rerun(bench.installation, origin, trigger=trigger, from_step="report")


def test_rerun_from_behind_a_failed_step_is_refused(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    origin = bench.start("chain")
    bench.play(state="failed", message="no disk")
    bench.play()
    with pytest.raises(WrongState, match="has no result to keep"):
        rerun(bench.installation, origin, trigger=Trigger("person", "alice"), from_step="two")


def test_an_approval_with_a_matrix_is_decided_by_instance(make_bench: MakeBench) -> None:
    bench = make_bench(
        release="""
        steps: [{name: go, approval: {note: "Release {{ matrix.arch }}?"}, matrix: {arch: [x86_64, aarch64]}}]
        """
    )
    run_id = bench.start("release")
    assert bench.run(run_id).steps[0].reason == "approval: Release aarch64?"
    with pytest.raises(UsageFault, match="Several steps"):
        bench.decide(run_id)
    assert bench.decide(run_id, "go [x86_64]") == "go [x86_64]"
    assert bench.decide(run_id, "go") == "go [aarch64]"
    assert bench.run(run_id).state == "succeeded"
    assert bench.run(run_id).outputs == {}, "a decision is no output of the run"


def test_history_says_who_did_what(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    run_id = bench.start("chain")
    control.hold(bench.installation, run_id, who="alice", note="freeze")
    control.release(bench.installation, run_id, who="bob")
    control.cancel(bench.installation, run_id, who="carol")
    with bench.installation.database.read() as session:
        rows = session.execute(
            select(History.who, History.action).where(History.run_id == run_id).order_by(History.id)
        ).all()
    assert ("tester", "created") in rows
    assert ("alice", "hold") in rows
    assert ("bob", "release") in rows
    assert ("carol", "cancel requested") in rows
