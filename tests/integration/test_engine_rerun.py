# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rerun keeps of the run that it repeats, and where it begins."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from relengq.engine import control
from relengq.engine.rerun import rerun
from relengq.engine.start import Trigger
from relengq.errors import Refused, WrongState
from relengq.models import Run
from relengq.testing import Bench

MakeBench = Callable[..., Bench]
ALICE = Trigger("person", "alice")

CHAIN = """
    timeout: 1h
    steps:
      - {name: a, playbook: hello.yml}
      - {name: b, playbook: hello.yml}
      - {name: c, playbook: hello.yml}
    finally:
      - {name: report, playbook: hello.yml}
"""


def again(bench: Bench, origin: str, from_step: str | None = None) -> str:
    """Go on where the run failed or was stopped, or from a step."""
    return rerun(bench.installation, origin, trigger=ALICE, from_step=from_step, failed=from_step is None).run_id


def kept(bench: Bench, run_id: str) -> list[str]:
    """The labels of the steps that are kept from an earlier run."""
    return [step.label for step in bench.run(run_id).steps if step.kept_from]


def between_two_steps(bench: Bench) -> str:
    """A run that is on hold, with one step played and the next one not begun."""
    run_id = bench.start("chain")
    held = bench.claim()
    assert held is not None
    control.hold(bench.installation, run_id, who="alice")
    bench.finish(held, outputs={"id": "X"})
    return run_id


def cancelled(bench: Bench, run_id: str) -> None:
    control.cancel(bench.installation, run_id, who="alice")


def timed_out(bench: Bench, run_id: str) -> None:
    with bench.installation.database.write() as session:
        session.execute(update(Run).where(Run.id == run_id).values(deadline=Run.created_at))
    bench.tick()


@pytest.mark.parametrize("end", [cancelled, timed_out])
def test_a_run_that_ended_between_two_steps_goes_on_with_the_second(
    make_bench: MakeBench, end: Callable[[Bench, str], None]
) -> None:
    bench = make_bench(chain=CHAIN)
    origin = between_two_steps(bench)
    end(bench, origin)
    bench.play()
    assert bench.run(origin).state.final
    assert bench.steps(origin) == {"a": "succeeded", "b": "skipped", "c": "skipped", "report": "succeeded"}
    with pytest.raises(WrongState, match=r"Step 'b' of run \w+ has no result to keep"):
        again(bench, origin, "c")
    resumed = again(bench, origin)
    assert bench.steps(resumed) == {"a": "succeeded", "b": "queued", "c": "pending", "report": "pending"}
    assert kept(bench, resumed) == ["a"]
    for _ in range(3):
        bench.play()
    assert bench.run(resumed).state == "succeeded"


def test_a_run_that_never_began_is_repeated_as_a_whole(make_bench: MakeBench) -> None:
    bench = make_bench(chain="concurrency: {group: g}" + textwrap.dedent(CHAIN))
    holder, waiting = bench.start("chain"), bench.start("chain")
    cancelled(bench, waiting)
    cancelled(bench, holder)
    assert bench.steps(waiting) == dict.fromkeys(("a", "b", "c", "report"), "skipped")
    resumed = again(bench, waiting)
    assert bench.steps(resumed) == {"a": "queued", "b": "pending", "c": "pending", "report": "pending"}


def test_what_was_left_out_by_its_condition_is_kept(make_bench: MakeBench) -> None:
    """Also when it stands just before the step that failed, and in a rerun of a rerun."""
    bench = make_bench(
        chain="""
        inputs: {none: {type: list, default: []}}
        steps:
          - {name: a, playbook: hello.yml}
          - {name: b, playbook: hello.yml, when: "false"}
          - {name: m, playbook: hello.yml, matrix: {arch: "{{ inputs.none }}"}}
          - {name: n, playbook: hello.yml, when: "false", matrix: {arch: [x, y]}}
          - {name: o, playbook: hello.yml, when: matrix.arch == 'x', matrix: {arch: [x, y]}}
          - {name: c, playbook: hello.yml}
          - {name: d, playbook: hello.yml}
        finally:
          - {name: report, playbook: hello.yml, when: "false"}
        """
    )
    origin = bench.start("chain")
    bench.play()
    bench.play()
    bench.play(state="failed", message="no disk")
    for _ in range(2):
        origin = again(bench, origin)
        assert kept(bench, origin) == ["a", "b", "m", "n", "o [x]", "o [y]"]
        assert bench.steps(origin)["c"] == "queued"
        bench.play(state="failed", message="no disk")
    with pytest.raises(WrongState, match=r"Step 'c' of run \w+ has no result to keep"):
        again(bench, origin, "d")


def test_a_rerun_that_ended_before_its_first_step_begins_there_again(make_bench: MakeBench) -> None:
    """Of its matrix, what was kept stays kept, and what was not reached is played."""
    bench = make_bench(
        chain="""
        concurrency: {group: g}
        steps:
          - {name: a, playbook: hello.yml, allow_failure: true}
          - {name: m, playbook: hello.yml, matrix: {arch: [x, y]}}
          - {name: c, playbook: hello.yml}
        """
    )
    origin = bench.start("chain")
    bench.play(state="failed", message="never mind")
    bench.play(outputs={"id": "X"})
    bench.play(state="failed", message="no disk")
    holder = bench.start("chain")
    stopped = again(bench, origin)
    cancelled(bench, stopped)
    cancelled(bench, holder)
    assert bench.steps(stopped) == {"a": "failed", "m [x]": "succeeded", "m [y]": "skipped", "c": "skipped"}
    with pytest.raises(WrongState, match=r"Step 'm' of run \w+ has no result to keep"):
        again(bench, stopped, "c")
    bench.sent.clear()
    resumed = again(bench, stopped)
    assert bench.steps(resumed) == {"a": "failed", "m [x]": "succeeded", "m [y]": "queued", "c": "pending"}
    assert [step.kept_from for step in bench.run(resumed).steps] == [origin, origin, None, None]
    bench.play()
    bench.play()
    assert bench.run(resumed).state == "succeeded"


def test_a_run_that_was_cancelled_while_it_cleaned_up_only_cleans_up_again(make_bench: MakeBench) -> None:
    bench = make_bench(chain=CHAIN)
    origin = bench.start("chain")
    for _ in range(3):
        bench.play()
    cancelled(bench, origin)
    assert bench.steps(origin) == {"a": "succeeded", "b": "succeeded", "c": "succeeded", "report": "cancelled"}
    bench.sent.clear()
    resumed = again(bench, origin)
    assert kept(bench, resumed) == ["a", "b", "c"]
    bench.play()
    assert bench.run(resumed).state == "succeeded"


SIGN = """
    inputs: {token: {type: string, secret: true, default: ""}}
    steps: [{name: sign, playbook: hello.yml, vars: {sign_token: "{{ inputs.token }}"}}]
"""


def test_a_sealed_input_is_not_stored_in_clear_by_a_rerun(make_bench: MakeBench, site: Path) -> None:
    bench = make_bench(sign=SIGN)
    origin, without = bench.start("sign", token="canary-5f2c"), bench.start("sign")
    for _ in range(2):
        bench.play(state="failed")
    file = site / "playbooks/workflows/sign.yml"
    file.write_text(textwrap.dedent(SIGN).replace("secret: true", "secret: false, pattern: '[a-z]*'"))
    with pytest.raises(Refused) as refused:
        rerun(bench.installation, origin, trigger=ALICE, revision="latest")
    assert "Input 'token' of run" in str(refused.value)
    assert "canary" not in str(refused.value)
    rerun(bench.installation, without, trigger=ALICE, revision="latest")
    same = rerun(bench.installation, origin, trigger=ALICE).run_id
    with bench.installation.database.read() as session:
        assert all("canary" not in str(run.inputs) for run in session.query(Run))
    assert bench.installation.secrets.open(bench.run(same).sealed_inputs) == {"token": "canary-5f2c"}
