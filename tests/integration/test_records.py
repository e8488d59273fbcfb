# SPDX-License-Identifier: GPL-3.0-or-later
"""The system's own log: who did what, and never a value of an input."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from relengq.celery import RUN_STEP, WithoutInstances
from relengq.engine import execute
from relengq.execution import Outcome, PlayOrder, Sink
from relengq.states import AttemptState
from relengq.testing import Bench

MakeBench = Callable[..., Bench]
CANARY = "canary-4711"
TAG = "org.test.tag"
TAGGED = """\
inputs: {name: {type: string, pattern: '[a-z]+'}, token: {type: string, secret: true, default: ''}}
on:
  - message: org.test.tag
    if: msg.tag == 'f44' or msg.tag + 1
    inputs: {name: '{{ msg.name }}', token: '{{ msg.token | default("") }}'}
steps: [{name: one, playbook: hello.yml}]
"""
MATRIX = """\
inputs: {arches: {type: list}}
steps: [{name: createrepo, playbook: hello.yml, matrix: {arch: '{{ inputs.arches }}'}}]
"""
OWN = """\
inputs: {word: {type: string}}
announce:
  - {topic: said, body: {a: "{{ inputs.word | from_json }}"}}
steps: [{name: one, playbook: hello.yml}]
"""

Records = list[MutableMapping[str, Any]]


def of(records: Records, action: str) -> Records:
    return [record for record in records if record["event"] == action]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"tag": "f44", "name": CANARY}, "InputFault"),
        ({"tag": "f44", "name": "x", "token": [CANARY]}, "InputFault"),
        ({"tag": CANARY}, "ExpressionFault"),
    ],
)
def test_a_parked_message_is_logged_with_the_kind_of_its_fault(
    make_bench: MakeBench, body: dict[str, Any], fault: str
) -> None:
    bench = make_bench(tagged=TAGGED)
    message = bench.message(TAG, **body)
    with capture_logs() as records:
        [receipt] = bench.receive(message)
    [(_, reason)] = receipt.parked
    assert reason
    [record] = of(records, "message.parked")
    assert (record["workflow"], record["message_id"], record["fault"]) == ("tagged", message.id, fault)
    assert CANARY not in repr(records)


def test_an_attempt_of_a_matrix_is_logged_by_its_number(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []

    def play(order: PlayOrder, sink: Sink, stop: Callable[[], object], until: Callable[[], float]) -> Outcome:
        labels.append(order.label)
        return Outcome(AttemptState.SUCCEEDED, return_code=0)

    monkeypatch.setattr(execute, "play", play)
    bench = make_bench(matrix=MATRIX)
    run_id = bench.start("matrix", arches=[CANARY])
    attempt_id = bench.sent[0].attempt_id
    with capture_logs() as records:
        execute.execute(bench.installation, attempt_id, "worker@here")
    assert bench.steps(run_id) == {f"createrepo [{CANARY}]": "succeeded"}
    for action in ("attempt.started", "attempt.ended"):
        [record] = of(records, action)
        assert (record["run_id"], record["attempt"], record["step"]) == (run_id, attempt_id, "createrepo")
    assert labels == ["matrix: createrepo #1"]
    assert CANARY not in repr(records)


def test_an_announcement_that_cannot_be_made_is_logged_with_the_kind_of_its_fault(make_bench: MakeBench) -> None:
    bench = make_bench(own=OWN)
    run_id = bench.start("own", word=f"[{CANARY}")
    with capture_logs() as records:
        bench.play()
    [record] = of(records, "announcement.failed")
    assert (record["run_id"], record["topic"], record["fault"]) == (run_id, "said", "ExpressionFault")
    assert CANARY not in repr(records)


def test_celery_logs_tasks_without_what_a_matrix_made_of_inputs() -> None:
    written = io.StringIO()
    logger = logging.getLogger("celery.of.this.test")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(written))
    logger.addFilter(WithoutInstances())
    label = f"nightly: createrepo [a] [{CANARY}\n] #12"
    logger.info("Task %(name)s[%(id)s] received", {"name": label, "id": "7.1"})
    logger.info("Discarding revoked task: %s[%s]", label, "7.1")
    logger.info("Task %(name)s[%(id)s] received", {"name": RUN_STEP, "id": "8.1"})
    logger.info("ready")
    assert written.getvalue().splitlines() == [
        "Task nightly: createrepo #12[7.1] received",
        "Discarding revoked task: nightly: createrepo #12[7.1]",
        f"Task {RUN_STEP}[8.1] received",
        "ready",
    ]
