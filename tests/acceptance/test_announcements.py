# SPDX-License-Identifier: GPL-3.0-or-later
"""Announcements as somebody else's fedora-messaging consumer hears them, from a real clock and real workers."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from relengq.doctor.bus import announcements
from relengq.engine.control import approve
from relengq.models import Announcement
from tests.support.bus import Bus, bus, consume
from tests.support.proxies import Proxy, proxy
from tests.support.servers import RabbitMQServer, RedisServer
from tests.support.systems import PATIENCE, System, system
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow, pytest.mark.timeout(300)]

FILES = {
    "relengq.toml": 'bus_config = "bus.toml"\n',
    "playbooks/name.yml": """\
- name: Name the compose
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Hand its id on
      ansible.builtin.set_stats:
        data: {compose_id: "Test-{{ release }}-1"}
""",
    "playbooks/workflows/compose.yml": """\
inputs: {release: {}, token: {secret: true, default: ''}}
access: {launch: [releng]}
announce:
  - run.started
  - run.finished
  - {topic: pungi.compose.status.change, body: {status: FINISHED, compose_id: '{{ outputs.compose_id }}'}}
steps:
  - {name: name, playbook: name.yml, vars: {release: '{{ inputs.release }}'}, announce: step.finished}
  - {name: go, approval: {groups: [leads]}, announce: run.waiting}
""",
}
KILLED = """\
import os, signal, sys
from celery.__main__ import main
from relengq.announcements import backlog
from relengq.bus import publisher
publisher._PUBLISH_SECONDS, publisher._LONGEST_DELAY = 3, 1
mark_sent = backlog.mark_sent
def killed(session, ids, now):
    if ids:
        os.kill(os.getpid(), signal.SIGKILL)
    mark_sent(session, ids, now)
backlog.mark_sent = killed
sys.argv = ["celery", "-A", "relengq", "beat"]
main()
"""
"""A clock whose host loses its power between the broker's confirmation and the mark of it, and that is in a hurry."""
TOPICS = [
    "relengq.run.started.v1",
    "relengq.step.finished.v1",
    "relengq.run.waiting.v1",
    "relengq.run.finished.v1",
    "pungi.compose.status.change",
]
PREFIX = "org.fedoraproject.stg."


@dataclass
class Place:
    """An installation with a bus behind a network that can be cut, and somebody who listens."""

    system: System
    bus: Bus
    network: Proxy
    heard_file: Path

    def heard(self, run_id: str) -> list[dict[str, Any]]:
        """What the consumer has got of a run, repeats and all."""
        text = self.heard_file.read_text() if self.heard_file.exists() else ""
        mine = {row.message_id for row in self.rows(run_id)}
        return [found for found in map(json.loads, text.splitlines()) if found["id"] in mine]

    def rows(self, run_id: str) -> list[Announcement]:
        with self.system.installation.database.read() as session:
            mine = select(Announcement).where(Announcement.run_id == run_id).order_by(Announcement.id)
            return list(session.scalars(mine))

    def all_heard(self, run_id: str) -> list[dict[str, Any]]:
        """Wait until every announcement of the run has been heard; the first of each, in order of arrival."""
        wait_until(
            lambda: {each["id"] for each in self.heard(run_id)} == {row.message_id for row in self.rows(run_id)},
            PATIENCE,
            f"all is heard\n{self.system.logs()}",
        )
        return list({each["id"]: each for each in reversed(self.heard(run_id))}.values())[::-1]

    def make(self, release: str) -> str:
        """A run from its start to its end."""
        run_id = self.system.run("compose", release=release, token="hunter2")
        self.system.wait(run_id, "waiting")
        approve(self.system.installation, run_id, None, who="bob", note=None, accepted=True)
        self.system.wait(run_id, "succeeded")
        return run_id


@pytest.fixture
def place(tmp_path: Path, redis_server: RedisServer, rabbitmq_server: RabbitMQServer) -> Iterator[Place]:
    with (
        bus(rabbitmq_server, tmp_path) as made,
        proxy(rabbitmq_server.port) as network,
        system(tmp_path, FILES, redis_server.url) as installed,
    ):
        made.declare("#")
        heard = tmp_path / "heard"
        consumer = consume(
            tmp_path, made.configuration("#"), "tests.support.audience:hear", "audience", HEARD=str(heard)
        )
        installed.processes.append(consumer)
        url = made.url().replace(f":{rabbitmq_server.port}/", f":{network.port}/")
        (installed.site / "bus.toml").write_text(
            f'amqp_url = "{url}"\npublish_exchange = "{made.exchange}"\ntopic_prefix = "{PREFIX.rstrip(".")}"\n'
        )
        yield Place(installed, made, network, heard)


def test_a_run_is_heard_of_in_order_and_with_one_id_a_message_whatever_happens_to_clock_and_bus(place: Place) -> None:
    installed = place.system
    installed.worker()
    clock = installed.process("doomed", sys.executable, "-c", KILLED)

    # The bus is away for all of the run, and the run does not care.
    run_id = place.make("f44")
    assert [row.topic for row in place.rows(run_id)] == TOPICS
    wait_until(lambda: any(row.fault for row in place.rows(run_id)), PATIENCE, "the clock has tried")
    (told,) = announcements(installed.installation)
    assert "5 unsent since" in told.message
    assert "did not confirm" in told.message
    assert clock.log.count("bus.away") == 1

    # It comes back, and the clock dies after it has sent and before it can know it.
    place.network.open()
    wait_until(lambda: clock.returncode == -signal.SIGKILL, PATIENCE, f"the clock dies\n{clock.log}")
    assert all(row.sent_at is None for row in place.rows(run_id))
    wait_until(lambda: place.heard(run_id), PATIENCE, "something was sent all the same")
    clock = installed.clock()
    wait_until(lambda: all(row.sent_at for row in place.rows(run_id)), PATIENCE, f"all is sent\n{clock.log}")
    heard = place.all_heard(run_id)
    assert [each["topic"] for each in heard] == [f"{PREFIX}{topic}" for topic in TOPICS]
    assert len(place.heard(run_id)) > len(heard)  # some came twice

    # What came is what the schemas promise; fedora-messaging has validated it before.
    started, step, waiting, finished, own = heard
    assert [each["class"] for each in heard] == [
        "RunStartedV1",
        "StepFinishedV1",
        "RunWaitingV1",
        "RunFinishedV1",
        "Message",
    ]
    assert (started["severity"], started["body"]["inputs"]) == (20, {"release": "f44"})
    assert started["headers"]["fedora_messaging_schema_package"] == "relengq_messages"
    assert started["headers"][f"fedora_messaging_user_{started['usernames'][0]}"] is True
    assert waiting["headers"]["fedora_messaging_group_leads"] is True
    assert step["summary"] == f"Step name of compose ({run_id}) succeeded"
    assert (finished["body"]["result"], finished["body"]["outputs"]) == ("succeeded", {"compose_id": "Test-f44-1"})
    assert own["body"] == {"status": "FINISHED", "compose_id": "Test-f44-1"}
    assert "hunter2" not in place.heard_file.read_text()

    # The network is cut under a clock that is connected; it finds its way back by itself.
    place.network.shut()
    second = place.make("f45")
    wait_until(lambda: any(row.fault for row in place.rows(second)), PATIENCE, "the clock has tried")
    place.network.open()
    assert [each["topic"] for each in place.all_heard(second)] == [f"{PREFIX}{topic}" for topic in TOPICS]
    wait_until(lambda: [found.message for found in announcements(installed.installation)] == ["all sent"], PATIENCE)
    assert "bus.away" in clock.log
    assert "bus.back" in clock.log

    # A clock with a lost bus still ends when it is told to.
    place.network.shut()
    clock.stop(15)
    assert clock.returncode == 0, clock.log
    assert "Traceback" not in clock.log
