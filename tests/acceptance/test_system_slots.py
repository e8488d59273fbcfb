# SPDX-License-Identifier: GPL-3.0-or-later
"""A busy worker keeps nothing from an idle one, on Redis and on RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.brokers import ready
from tests.support.servers import RabbitMQServer
from tests.support.systems import PATIENCE, Gates, System, private_redis, system
from tests.support.waiting import busy, wait_until

QUEUED = """\
inputs:
  gates: {type: string}
  queue: {type: string}
steps:
  - {name: first, playbook: gated.yml, vars: {gate_name: first}, queue: "{{ inputs.queue }}"}
"""
FILES = {
    "playbooks/workflows/queued.yml": QUEUED,
    "workers/narrow.yml": "queues: [narrow]\nconcurrency: 1\n",
    "workers/wide.yml": "queues: [left, right]\nconcurrency: 2\n",
}

SIDES = ("left", "right")


@pytest.fixture(scope="module", params=["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """An installation without a clock, so that nothing is sent twice, on each of the brokers."""
    directory = tmp_path_factory.mktemp("slots")
    if request.param == "rabbitmq":
        server: RabbitMQServer = request.getfixturevalue("rabbitmq_server")
        with system(directory, FILES, server.url) as made:
            yield made
    else:
        with private_redis(directory / "redis") as broker, system(directory, FILES, broker.url) as made:
            yield made


def _run(made: System, name: str, queue: str) -> tuple[str, Gates]:
    gates = made.gates(name)
    return made.run("queued", gates=str(gates.directory), queue=queue), gates


def _waits_in_the_broker(made: System, queue: str, count: int) -> None:
    """The broker itself has so many tasks that no worker was given."""
    wait_until(lambda: ready(made.broker_url, queue) == count, PATIENCE, f"{count} tasks wait in {queue}")


def _begun_on(made: System, run_id: str) -> str:
    [step] = made.get(run_id).steps
    [attempt] = step.attempts
    assert attempt.started_at is not None
    waited = (attempt.started_at - attempt.created_at).total_seconds()
    assert waited < busy(1.0), waited
    return str(attempt.worker).partition("@")[0]


def test_an_idle_worker_takes_the_next_step_at_once(running: System) -> None:
    first_worker = running.worker("narrow", name="a")
    first_worker.wait_for_log("ready.", 4 * PATIENCE)
    first, first_gates = _run(running, "first", "narrow")
    running.reach(first, first_gates, "first start")
    second_worker = running.worker("narrow", name="b")
    second_worker.wait_for_log("ready.", 4 * PATIENCE)

    second, second_gates = _run(running, "second", "narrow")
    running.reach(second, second_gates, "first start")
    assert (_begun_on(running, first), _begun_on(running, second)) == ("a", "b")
    third, third_gates = _run(running, "third", "narrow")
    _waits_in_the_broker(running, "narrow", 1)
    second_gates.open("first")
    running.reach(third, third_gates, "first start")
    assert running.get(third).steps[0].attempts[0].worker.startswith("b@")
    first_gates.open("first")
    third_gates.open("first")
    for run_id in (first, second, third):
        running.wait(run_id, "succeeded")
    first_worker.stop()
    second_worker.stop()


def test_two_slots_and_two_queues(running: System) -> None:
    """Both queues have more than fits; what ends makes room for one, from the queue whose turn it is."""
    worker = running.worker("wide")
    worker.wait_for_log("ready.", 4 * PATIENCE)
    runs = {f"{queue}-{number}": _run(running, f"{queue}-{number}", queue) for number in (1, 2) for queue in SIDES}

    def begun() -> set[str]:
        return {name for name, (_, gates) in runs.items() if "first start" in gates.ledger}

    wait_until(lambda: len(begun()) == 2, PATIENCE, "two begin")
    wait_until(lambda: sum(ready(running.broker_url, queue) for queue in SIDES) == 2, PATIENCE, "two wait")
    ended: set[str] = set()
    while len(ended) < 4:
        [*_, one] = sorted(begun() - ended)
        runs[one][1].open("first")
        running.wait(runs[one][0], "succeeded")
        ended.add(one)
        wait_until(lambda: len(begun()) == min(4, 2 + len(ended)), PATIENCE, "the next begins")
    assert all(gates.ledger == ["first start", "first end"] for _, gates in runs.values())
    assert all(len(running.attempts(run_id)) == 1 for run_id, _ in runs.values())
    worker.stop()
