# SPDX-License-Identifier: GPL-3.0-or-later
"""The listener as its users start it, on a real bus: killed, stopped, cut off, and edited under way."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relengq import doctor
from relengq.models import Listener
from tests.support.bus import Bus, accounted, bus, counts, listener, listener_row, runs
from tests.support.processes import Process
from tests.support.servers import PostgreSQLServer, RabbitMQServer, RedisServer
from tests.support.systems import NOWHERE, RELENGQ, System, system
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq]

TOPIC = "org.test.tag"
TAGGED = """\
inputs: {name: {type: string}}
on:
  - message: org.test.tag
    if: msg.tag == 'wanted'
    inputs: {name: "{{ msg.name }}"}
    key: "{{ msg.key|default(id) }}"
steps: [{name: go, approval: {}}]
"""
WAITING = """\
on: [{message: org.test.begin}]
steps: [{name: ci, wait_for: {message: org.test.ci.complete, if: msg.passed}}]
"""
FILES = {"playbooks/workflows/tagged.yml": TAGGED, "playbooks/workflows/waiting.yml": WAITING}

Make = Callable[[str], System]


@pytest.fixture
def mq(rabbitmq_server: RabbitMQServer, tmp_path: Path) -> Iterator[Bus]:
    with bus(rabbitmq_server, tmp_path) as made:
        yield made


@pytest.fixture
def place(tmp_path: Path, sqlite_url: str) -> Iterator[System]:
    with system(tmp_path, FILES, NOWHERE, sqlite_url) as made:
        yield made


@pytest.fixture
def anywhere(tmp_path: Path, database_url: str) -> Iterator[System]:
    """An installation on SQLite and on PostgreSQL."""
    with system(tmp_path, FILES, NOWHERE, database_url) as made:
        yield made


def wanted(mq: Bus, count: int, begin: int = 0) -> None:
    for number in range(begin, begin + count):
        mq.send(TOPIC, {"tag": "wanted", "name": f"n{number}"}, message_id=f"id-{mq.exchange}-{number}")


def names(place: System) -> list[str]:
    return [str(run.inputs["name"]) for run in runs(place.installation, "tagged")]


def numbered(count: int) -> list[str]:
    return [f"n{number}" for number in range(count)]


def row(place: System) -> Listener:
    found = listener_row(place.installation)
    assert found is not None
    return found


def trouble(place: System) -> str:
    found = listener_row(place.installation)
    return (found.trouble or "") if found else ""


def told(place: System) -> str:
    """What the doctor says."""
    return "\n".join(f"{found.level} {found.subject}: {found.message}" for found in doctor.examine(place.installation))


def listen(place: System, file: Path, name: str = "listen") -> Process:
    """``relengq listen``."""
    return place.process(name, *RELENGQ, "listen", FEDORA_MESSAGING_CONF=str(file))


def ended(process: Process, code: int) -> None:
    wait_until(lambda: not process.running, what="the process ends")
    assert process.returncode == code, process.log[-3000:]


def test_each_message_starts_one_run_whenever_the_listener_is_killed(mq: Bus, anywhere: System) -> None:
    file = mq.configuration("org.test.#")
    mq.declare("org.test.#")
    wanted(mq, 5)
    before = listener(anywhere, file, "tests.support.callbacks:KilledBeforeCommit", "before-commit")
    ended(before, -signal.SIGKILL)
    assert runs(anywhere.installation) == []
    wait_until(lambda: mq.depth() == 5, what="the messages are back")

    after = listener(anywhere, file, "tests.support.callbacks:KilledBeforeAck", "before-ack")
    ended(after, -signal.SIGKILL)
    committed = len(runs(anywhere.installation))
    assert committed >= 1
    wait_until(lambda: mq.depth() == 5, what="the messages are back, though their runs have been made")

    wanted(mq, 5)  # the same once more
    wanted(mq, 5, begin=5)
    last = listener(anywhere, file)
    found = accounted(anywhere.installation, committed + 15, last)
    assert names(anywhere) == numbered(10)
    assert (found["started"], found["runs"], found["duplicate"]) == (10, 10, committed + 5)
    assert mq.depth() == 0


def test_a_storm_of_duplicates_starts_one_run_each_in_order(mq: Bus, place: System) -> None:
    mq.declare("org.test.#")
    for number in range(600):
        mq.send(TOPIC, {"tag": "wanted", "name": f"n{number % 20}", "key": f"commit {number % 20}"})
    for _ in range(200):
        mq.send(TOPIC, {"tag": "f44-build-side-12345"})
        mq.send("org.test.nobody.wants.this")
    process = listener(place, mq.configuration("org.test.#"))
    found = accounted(place.installation, 1000, process)
    assert names(place) == numbered(20)
    assert (found["started"], found["duplicate"], found["unmatched"]) == (20, 580, 400)
    wait_until(lambda: row(place).queue, what="the row names the queue")
    said = told(place)
    assert f"ok listener {row(place).host}: queue {mq.queue}, last message " in said
    assert "consumed 1000: started 20 (20 runs), awaited 0, duplicate 580, parked 0, unmatched 400; matched 600" in said

    process.signal(signal.SIGTERM)
    ended(process, 0)
    assert row(place).stopped
    assert counts(place.installation) == found
    assert f"warn listener {row(place).host}: was stopped" in told(place)
    assert "bad listener: none is alive, so messages of the bus do nothing; meant for tagged, waiting" in told(place)


def test_a_slow_commit_stalls_no_heartbeat_and_a_stop_waits_for_it(mq: Bus, place: System) -> None:
    mq.declare("org.test.#")
    wanted(mq, 3)
    file = mq.configuration("org.test.#", heartbeat=2)
    slow = listener(place, file, "tests.support.callbacks:Slow", SLOW_SECONDS="7")
    found = accounted(place.installation, 3, slow)
    assert (found["started"], found["duplicate"]) == (3, 0)
    assert "lost" not in slow.log

    wanted(mq, 3, begin=3)
    wait_until(lambda: slow.log.count("the slow commit begins") > 1 and mq.depth() == 0, what="it is under way")
    slow.signal(signal.SIGTERM)
    ended(slow, 0)
    made = names(place)
    assert made == numbered(len(made))
    assert len(made) > 3, "what was under way was finished"
    assert mq.depth() == 6 - len(made), "and acknowledged"


def test_messages_wait_on_the_broker_while_sqlite_is_away(mq: Bus, place: System, sqlite_url: str) -> None:
    process = listener(place, mq.configuration("org.test.#"))
    wait_until(lambda: (found := listener_row(place.installation)) and found.queue, what="it listens")
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    files = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
    for file in files:
        if file.exists():
            file.rename(file.with_suffix(file.suffix + ".away"))
    wanted(mq, 30)
    process.wait_for_log("listener.waits")
    for file in files:
        if (away := file.with_suffix(file.suffix + ".away")).exists():
            away.rename(file)
    found = accounted(place.installation, 30, process)
    assert (names(place), found["duplicate"]) == (numbered(30), 0)
    assert process.log.count("listener.waits") == 1
    wait_until(lambda: trouble(place) == "", what="the trouble is over")


@pytest.fixture
def impatient(mq: Bus) -> Iterator[Bus]:
    """A broker that closes channels after three seconds without an acknowledgement; Fedora's does after six hours."""
    _broker_waits(mq, 3_000, look=500)
    yield mq
    _broker_waits(mq, 1_800_000, look=60_000)


def _broker_waits(mq: Bus, milliseconds: int, look: int) -> None:
    """For channels that are opened from now on, and how often the broker looks."""
    mq.control(
        "eval",
        f"application:set_env(rabbit, consumer_timeout, {milliseconds}),"
        f"application:set_env(rabbit, channel_tick_interval, {look}).",
    )


def test_a_database_that_is_away_for_longer_than_the_broker_waits_costs_only_time(
    impatient: Bus, place: System, sqlite_url: str
) -> None:
    process = listen(place, impatient.configuration())
    process.wait_for_log("event='bus.listening'")
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    files = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
    for file in files:
        if file.exists():
            file.rename(file.with_suffix(file.suffix + ".away"))
    wanted(impatient, 30)
    wait_until(lambda: process.log.count("event='bus.listening'") >= 3, 60, "it consumes again, twice")
    for file in files:
        if (away := file.with_suffix(file.suffix + ".away")).exists():
            away.rename(file)
    accounted(place.installation, 30, process)
    assert names(place) == numbered(30)
    wait_until(lambda: trouble(place) == "" and impatient.depth() == 0, what="the trouble is over")


@pytest.mark.postgresql
def test_messages_wait_while_postgresql_restarts_and_flow_on_when_the_bus_restarts(
    mq: Bus, tmp_path: Path, postgresql_server: PostgreSQLServer, postgresql_url: str
) -> None:
    with system(tmp_path, FILES, NOWHERE, postgresql_url) as place:
        process = listen(place, mq.configuration())
        process.wait_for_log("event='bus.listening'")
        place.installation.database.close()
        postgresql_server.stop()
        try:
            wanted(mq, 40)
            process.wait_for_log("listener.waits")
        finally:
            postgresql_server.start()
            postgresql_server.ready()
        accounted(place.installation, 40, process)
        assert names(place) == numbered(40)

        mq.close()
        mq.server.stop()
        try:
            wait_until(lambda: "was lost" in trouble(place) or "be reached" in trouble(place), what="the row says it")
            assert "no messages since" in told(place)
        finally:
            mq.server.start()
            mq.server.ready()
        wait_until(lambda: process.new_log.count("event='bus.listening'") == 2, 60, "it listens again")
        wanted(mq, 40, begin=40)
        found = accounted(place.installation, 80, process)
        assert (names(place), found["duplicate"]) == (numbered(80), 0)
        wait_until(lambda: trouble(place) == "", what="the trouble is over")


def test_listen_makes_its_queue_and_binds_it_to_what_the_site_wants(mq: Bus, place: System) -> None:
    own_queue = f"{mq.queue}.own"
    place.write({"relengq.toml": f'bus_queue = "{own_queue}"\n'})
    process = listen(place, mq.configuration("ignored.#", states_queue=False))
    process.wait_for_log("event='bus.listening'")
    assert [topic for topic in (TOPIC, "org.test.begin", "org.test.ci.complete") if not mq.bound(topic)] == []
    assert not mq.bound("ignored.topic")
    assert row(place).queue == own_queue

    mq.send("org.test.begin")
    wait_until(lambda: runs(place.installation, "waiting"), what="a run waits for its message")
    mq.send("org.test.ci.complete", {"passed": True, "url": "https://ci"})
    run_id = runs(place.installation, "waiting")[0].id
    assert [step.outputs for step in place.wait(run_id, "succeeded").steps] == [{"passed": True, "url": "https://ci"}]

    edited = TAGGED.replace("org.test.tag", "org.test.*.edited")
    place.write({"playbooks/workflows/tagged.yml": edited})
    wait_until(lambda: mq.bound("org.test.x.edited") and not mq.bound(TOPIC), what="the bindings follow the site")
    mq.send("org.test.x.edited", {"tag": "wanted", "name": "n0"})
    wait_until(lambda: names(place) == ["n0"], what="the edited workflow is started")

    mq.channel.queue_delete(own_queue)
    wait_until(lambda: process.log.count("event='bus.listening'") == 2, what="a deleted queue is made again")
    assert mq.bound("org.test.x.edited")
    mq.send("org.test.x.edited", {"tag": "wanted", "name": "n1"})
    wait_until(lambda: names(place) == ["n0", "n1"], what="it goes on")
    process.signal(signal.SIGTERM)
    ended(process, 0)
    assert "Traceback" not in process.log


def test_where_nothing_may_be_declared_missing_bindings_are_named(mq: Bus, place: System) -> None:
    mq.declare(TOPIC)
    process = listen(place, mq.configuration(TOPIC, "org.test.ci.#", top="passive_declares = true"))
    process.wait_for_log("event='bus.listening'")
    wait_until(lambda: "has no binding for org.test.begin" in trouble(place), what="the row says it")
    assert f"bad listener {row(place).host}: " in told(place)
    assert not mq.bound("org.test.begin")
    wanted(mq, 1)
    accounted(place.installation, 1, process)
    place.write({"playbooks/workflows/waiting.yml": WAITING.replace("org.test.begin", TOPIC)})
    wait_until(lambda: trouble(place) == "", what="nothing is missing any more")


def test_a_broker_that_refuses_is_asked_again_until_it_does_not(mq: Bus, place: System) -> None:
    user = mq.exchange
    process = listen(place, mq.configuration(user=user))
    wait_until(lambda: "ended the handshake; are user, password" in trouble(place), what="the row says it")
    mq.control("add_user", user, user)
    mq.control("set_permissions", user, "^$", "^$", ".*")
    wait_until(lambda: f"refuses the queue {mq.queue}" in trouble(place) or "ACCESS_REFUSED" in trouble(place))
    mq.control("set_permissions", user, ".*", ".*", ".*")
    process.wait_for_log("event='bus.listening'", 60)
    wanted(mq, 1)
    wait_until(lambda: mq.depth() == 0, what="the message is handed out")
    accounted(place.installation, 1, process)
    mq.control("delete_user", user)


def test_up_has_a_listener_where_a_bus_is_configured(
    mq: Bus, tmp_path: Path, sqlite_url: str, redis_server: RedisServer
) -> None:
    file = mq.configuration()
    files = {**FILES, "relengq.toml": f'bus_config = "{file}"\nflower_port = 0\n'}
    with system(tmp_path, files, redis_server.url.replace("/0", "/9"), sqlite_url) as place:
        up = place.process("up", *RELENGQ, "up")
        up.wait_for_log("relengq is up")
        assert f"listener: to the message bus of {file}" in up.log
        wait_until(lambda: "event='bus.listening'" in up.log, what="it listens")
        wanted(mq, 1)
        wait_until(lambda: names(place) == ["n0"], what="a message starts a run")
        up.signal(signal.SIGTERM)
        ended(up, 0)
        assert row(place).stopped
