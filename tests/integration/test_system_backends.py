# SPDX-License-Identifier: GPL-3.0-or-later
"""The same site on other servers, by settings alone: RabbitMQ as the broker, PostgreSQL as the database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers import queues
from tests.support.servers import RabbitMQServer, running
from tests.support.systems import PATIENCE, System, private_redis, system
from tests.support.waiting import wait_until

FILES = {
    "playbooks/workflows/chain.yml": """\
inputs:
  gates: {type: string}
steps:
  - {name: first, playbook: gated.yml, vars: {gate_name: first}}
  - {name: fan, playbook: gated.yml, matrix: {arch: [a, b, c]}, vars: {gate_name: "{{ matrix.arch }}"}}
  - {name: last, playbook: gated.yml, vars: {gate_name: "{{ outputs.passed.b }}-last"}}
finally:
  - {name: report, playbook: gated.yml, vars: {gate_name: report}}
""",
}
EVERYTHING = ("first", "a", "b", "c", "b-last", "report")


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQServer]:
    """A node of this module's own, because it is stopped and started."""
    with running(RabbitMQServer(tmp_path_factory.mktemp("rabbitmq"))) as server:
        yield server


@pytest.mark.rabbitmq
def test_a_chain_on_rabbitmq_whose_node_restarts(tmp_path: Path, rabbitmq: RabbitMQServer) -> None:
    with system(tmp_path, FILES, rabbitmq.url, RELENGQ_RESEND_SECONDS="2") as made:
        made.clock()
        worker = made.worker()
        gates = made.gates("chain")
        run_id = made.run("chain", gates=str(gates.directory))
        made.reach(run_id, gates, "first start")
        declared = queues(rabbitmq, "type")
        assert declared["default"] == ("quorum",)
        assert not [name for name in declared if name.startswith("celery_delayed")], "nothing is sent with a countdown"
        rabbitmq.stop()
        told = made.shell.run("run", "gated", "-i", f"gates={gates.directory}").stderr
        assert "does not answer" in told
        assert told.count("\n") == 1
        gates.open(*EVERYTHING)
        wait_until(lambda: made.steps(run_id)["first"] == "succeeded", PATIENCE, "the step ends without a broker")
        rabbitmq.start()
        rabbitmq.ready()
        _check(made, run_id)
        kept: str = made.shell.json("runs", "--workflow", "gated")[0]["id"]
        made.wait(kept, "succeeded", timeout=2 * PATIENCE)
        assert worker.running
        assert [line for line in gates.ledger if "twice" in line] == []
        assert gates.ledger.count("first start") == 2, "once for each of the runs"


@pytest.mark.postgresql
def test_a_chain_on_postgresql(tmp_path: Path, postgresql_url: str) -> None:
    with (
        private_redis(tmp_path / "redis") as broker,
        system(tmp_path, FILES, broker.url, postgresql_url) as made,
    ):
        made.worker()
        gates = made.gates("chain")
        gates.open(*EVERYTHING)
        run_id = made.run("chain", gates=str(gates.directory))
        _check(made, run_id)
        shell = made.shell
        assert "PLAY RECAP" in shell.run("logs", run_id, "--step", "fan [b]").stdout
        assert [run["id"] for run in shell.json("runs", "-i", f"gates={gates.directory}")] == [run_id]
        assert "succeeded" in shell.run("status", run_id[:9]).stdout


def _check(made: System, run_id: str) -> None:
    run = made.wait(run_id, "succeeded", timeout=2 * PATIENCE)
    assert set(made.steps(run_id)) == {"first", "fan [a]", "fan [b]", "fan [c]", "last", "report"}
    assert (run.outputs or {})["passed"] == "report"
    assert [str(line.state) for line in made.attempts(run_id)] == ["succeeded"] * 6
