# SPDX-License-Identifier: GPL-3.0-or-later
"""From a message to a released compose, over a real bus, through a loss of power."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.bus import bus, consume, counts, runs
from tests.support.processes import Process, alive
from tests.support.servers import RabbitMQServer, RedisServer
from tests.support.systems import PATIENCE, RELENGQ, System, system
from tests.support.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

NAME = """\
- name: Name the compose
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Hand its id on
      ansible.builtin.set_stats:
        data: {compose_id: "{{ compose }}"}
"""
RELEASE = """\
- name: Release the compose
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Say that it is out
      ansible.builtin.copy:
        content: out
        dest: "{{ relengq.site.path }}/{{ relengq.outputs.compose_id }}.released"
        mode: "0644"
"""
WORKFLOW = """\
inputs:
  compose: {type: string, pattern: '[A-Za-z0-9.-]+'}
on:
  - message: org.fedoraproject.*.pungi.compose.status.change
    if: msg.status in ['FINISHED', 'FINISHED_INCOMPLETE']
    inputs: {compose: "{{ msg.compose_id }}"}
    key: "{{ msg.compose_id }}"
steps:
  - name: name
    playbook: name.yml
    vars: {compose: "{{ inputs.compose }}"}
    announce: {topic: compose.to.test, body: {compose_id: "{{ outputs.compose_id }}"}}
  - name: ci
    wait_for:
      message: org.centos.*.ci.*.test.complete
      if: msg.artifact.id == outputs.compose_id
      fail_if: msg.test.result != 'passed'
      timeout: 1h
  - name: release
    playbook: release.yml
    when: outputs.ci.test.result == 'passed'
"""
FILES = {
    "relengq.toml": 'bus_config = "bus.toml"\nflower_port = 0\nlease_seconds = 5\n',
    "playbooks/name.yml": NAME,
    "playbooks/release.yml": RELEASE,
    "playbooks/workflows/release.yml": WORKFLOW,
}
PUNGI = "org.fedoraproject.prod.pungi.compose.status.change"
CI = "org.centos.prod.ci.compose.test.complete"
ANNOUNCED = ["relengq.run.started.v1", "compose.to.test", "relengq.run.finished.v1"]


def passed(compose: str) -> dict[str, object]:
    return {"artifact": {"type": "compose", "id": compose}, "test": {"result": "passed"}}


def up(place: System) -> Process:
    """``relengq up``, once its listener listens."""
    process = place.process("up", *RELENGQ, "up")
    process.wait_for_log("relengq is up", PATIENCE)
    process.wait_for_log("bus.listening", PATIENCE)
    return process


def lose_power(process: Process) -> None:
    """Kill all of it with -9, and wait until nothing is left."""
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    process.kill()
    wait_until(lambda: not any(map(alive, family)), PATIENCE, "all of it is gone")


def until(place: System, there: Callable[[], bool], what: str) -> None:
    try:
        wait_until(there, PATIENCE, what)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{place.logs()}") from None


def test_a_compose_is_released_when_its_tests_have_passed_whatever_happens_meanwhile(
    tmp_path: Path, redis_server: RedisServer, rabbitmq_server: RabbitMQServer, sqlite_url: str
) -> None:
    heard = tmp_path / "heard"
    with (
        bus(rabbitmq_server, tmp_path) as mq,
        system(tmp_path, FILES, redis_server.url.replace("/0", "/8"), sqlite_url) as place,
    ):
        audience = mq.declare("#", queue=f"{mq.queue}.audience")
        heard_by = mq.configuration("#", name="audience", queue=audience)
        place.processes.append(consume(tmp_path, heard_by, "tests.support.audience:hear", "audience", HEARD=str(heard)))
        file = mq.configuration(top=f'topic_prefix = "test"\npublish_exchange = "{mq.exchange}"')
        file.rename(place.site / "bus.toml")

        first = up(place)
        mq.send(PUNGI, {"status": "STARTED", "compose_id": "A-1"})
        mq.send(PUNGI, {"status": "FINISHED", "compose_id": "A-1"})
        mq.send(PUNGI, {"status": "FINISHED", "compose_id": "A-1"})  # by a publisher that was not sure
        mq.send(PUNGI, {"status": "FINISHED", "compose_id": "B-1"})
        until(place, lambda: [run.state for run in runs(place.installation)] == ["waiting"] * 2, "both wait for tests")
        mq.send(CI, passed("A-1"), message_id="the results of A")
        until(place, lambda: counts(place.installation)["consumed"] == 5, "all is consumed")
        lose_power(first)
        mq.send(CI, passed("B-1"))  # while nobody is there

        up(place)
        mine = {run.inputs["compose"]: run.id for run in runs(place.installation)}
        for compose in ("A-1", "B-1"):
            place.wait(mine[compose], "succeeded")
            assert (place.site / f"{compose}.released").read_text() == "out"
        assert len(runs(place.installation)) == 2
        found = counts(place.installation)
        assert (found["started"], found["unmatched"], found["awaited"]) == (2, 1, 2)
        # The one that was sent twice, and perhaps what had been taken and not acknowledged when the power went.
        assert 1 <= found["duplicate"] == found["consumed"] - 5 <= 2
        until(
            place,
            lambda: all(topics(heard, compose, run) == ANNOUNCED for compose, run in mine.items()),
            "all is heard",
        )


def topics(heard: Path, compose: str, run: str) -> list[str]:
    """What was heard of a run, each message once, in order."""
    told: dict[str, str] = {}
    for message in map(json.loads, heard.read_text().splitlines() if heard.exists() else ()):
        topic, body = message["topic"], message["body"]
        if body.get("run") == run or (topic == "test.compose.to.test" and body["compose_id"] == compose):
            told.setdefault(message["id"], topic.removeprefix("test."))
    return list(told.values())
