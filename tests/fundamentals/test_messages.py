# SPDX-License-Identifier: GPL-3.0-or-later
"""What messages of the bus do: they start runs, runs wait for them, and none of them is lost."""

from __future__ import annotations

from collections.abc import Callable

from relengq.engine import parking
from relengq.testing import Bench

MakeBench = Callable[[str], Bench]
TAG = "org.fedoraproject.prod.buildsys.tag"


TAGGED = """\
inputs:
  release: {type: string, pattern: 'f[0-9]+'}
on:
  - message: org.fedoraproject.*.buildsys.tag
    if: msg.instance == 'primary'
    inputs: {release: '{{ msg.tag }}'}
steps:
  - {name: compose, playbook: hello.yml}
"""
WAITING = """\
steps:
  - {name: compose, playbook: hello.yml}
  - name: ci
    wait_for: {message: org.centos.*.ci.*.test.complete, if: msg.artifact == outputs.compose_id, timeout: 6h}
  - {name: publish, playbook: hello.yml, when: outputs.ci.result == 'passed'}
"""


def test_a_message_starts_a_run_once(workflow: MakeBench) -> None:
    # Given a workflow that a message starts
    bench = workflow(TAGGED)
    message = bench.message(TAG, tag="f44", instance="primary")
    # When the bus delivers it, and again after the listener died before it could acknowledge
    [first], [second] = bench.receive(message), bench.receive(message)
    # Then there is one run, with the inputs that the message gave
    assert (first.disposition, second.disposition) == ("started", "duplicate")
    [run_id] = first.runs
    assert bench.run(run_id).inputs == {"release": "f44"}
    assert second.duplicates == (("nightly", run_id),)
    # And a message for which the condition is false starts nothing
    [other] = bench.receive(bench.message(TAG, tag="f44", instance="s390"))
    assert other.disposition == "unmatched"


def test_a_run_waits_for_a_message_that_came_before_the_step(workflow: MakeBench) -> None:
    # Given a run whose second step waits for the result of tests
    bench = workflow(WAITING)
    run_id = bench.start("nightly")
    # When the result comes while the first step is still played
    tested = bench.message("org.centos.prod.ci.compose.test.complete", artifact="Fedora-44", result="passed")
    [receipt] = bench.receive(tested)
    assert receipt.awaiting == (run_id,)
    bench.play(outputs={"compose_id": "Fedora-44"})
    # Then the wait is over as soon as it begins, the message is its outputs, and the run goes on
    assert bench.steps(run_id) == {"compose": "succeeded", "ci": "succeeded", "publish": "queued"}
    assert bench.run(run_id).steps[1].outputs == {"artifact": "Fedora-44", "result": "passed"}


def test_a_message_that_cannot_be_used_is_parked(workflow: MakeBench) -> None:
    # Given a workflow whose input has a pattern
    bench = workflow(TAGGED)
    # When a message comes that does not fit it, and one that does
    bad, good = bench.receive(*[bench.message(TAG, tag=tag, instance="primary") for tag in ("rawhide", "f44")])
    # Then the first is kept with the reason, and the second is not held up
    assert (bad.disposition, good.disposition) == ("parked", "started")
    with bench.installation.database.read() as session:
        [parked] = parking.listed(session)
    assert "input 'release' must match the pattern f[0-9]+, not 'rawhide'" in parked.reason
    # And when the workflow has been mended, a person replays it
    file = bench.settings.site / "playbooks/workflows/nightly.yml"
    file.write_text(file.read_text().replace("f[0-9]+", "rawhide|f[0-9]+"))
    replayed = parking.replay(bench.installation, parked.id, "alice")
    assert replayed.fresh
    assert bench.run(replayed.line.run_id or "").inputs == {"release": "rawhide"}
