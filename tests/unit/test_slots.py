# SPDX-License-Identifier: GPL-3.0-or-later
"""When a worker on RabbitMQ consumes, and what it takes. (tests/acceptance/test_system_slots.py has real ones.)"""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import pytest
from celery.bootsteps import CLOSE, RUN
from celery.worker import state

from relengq.celery import app
from relengq.slots import Gate, Slots


class Message:
    """A task's message."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.acknowledged = False
        self.requeued = False

    def requeue(self) -> None:
        self.acknowledged = self.requeued = True


class Queues:
    """A consumer and its channel, over queues of messages; what is taken runs until ``end``."""

    def __init__(self, *names: str) -> None:
        self.waiting = {name: deque[Message]() for name in names}
        self.active: set[str] = set()
        self.running: dict[str, Message] = {}
        self.asked: list[str] = []
        self.prefetch: list[tuple[int, int, bool]] = []
        self.channel = self
        self.on_message = self.take
        self.consume = self.listen

    @property
    def queues(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in self.waiting]

    def take(self, message: Message) -> None:
        self.running[message.name] = message

    def listen(self, no_ack: bool | None = None) -> None:
        self.active |= set(self.waiting)

    def cancel(self) -> None:
        self.active.clear()

    def consuming_from(self, queue: SimpleNamespace) -> bool:
        return queue.name in self.active

    def basic_qos(self, size: int, count: int, shared: bool) -> None:
        self.prefetch.append((size, count, shared))

    def basic_get(self, name: str) -> Message | None:
        self.asked.append(name)
        return self.waiting[name].popleft() if self.waiting[name] else None

    def _receive_callback(self, message: Message) -> None:
        self.on_message(message)

    def drain_events(self, timeout: float) -> None:
        raise TimeoutError

    def push(self, name: str) -> Message:
        message = Message(name)
        self.on_message(message)
        return message

    def end(self, name: str) -> None:
        self.running.pop(name).acknowledged = True


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Queues:
    made = Queues("left", "right")
    monkeypatch.setattr(state, "reserved_requests", made.running)
    return made


def _gate(queues: Queues, slots: int) -> tuple[Gate, SimpleNamespace]:
    consumer = SimpleNamespace(
        task_consumer=queues,
        controller=SimpleNamespace(max_concurrency=None),
        pool=SimpleNamespace(num_processes=slots),
        blueprint=SimpleNamespace(state=RUN),
        connection=queues,
        hub=SimpleNamespace(on_tick=set()),
    )
    gate = Gate(consumer, consumer.hub)
    consumer.hub.on_tick.add(gate.tick)
    return gate, consumer


def test_celery_makes_the_step_for_every_worker() -> None:
    assert Slots in app.steps["consumer"]


def test_the_task_that_fills_the_last_slot_ends_the_consumers_before_it_is_acknowledged(queues: Queues) -> None:
    _gate(queues, 2)
    queues.consume()
    assert queues.prefetch == [(0, 1, False)], "one at a time from each queue"
    queues.push("one")
    assert queues.active
    last = queues.push("two")
    assert not queues.active
    assert not last.acknowledged
    late = queues.push("late")
    assert late.requeued, "it was under way already"
    assert set(queues.running) == {"one", "two"}


def test_a_free_slot_is_filled_from_the_queues_in_turn_and_then_they_are_listened_to(queues: Queues) -> None:
    gate, _ = _gate(queues, 1)
    for name in queues.waiting:
        queues.waiting[name].extend(Message(f"{name}-{number}") for number in range(2))
    order = []
    while not queues.active:
        gate.tick()
        for name in list(queues.running):
            order.append(name)
            queues.end(name)
        assert len(order) <= 4
    assert sorted(order) == ["left-0", "left-1", "right-0", "right-1"]
    assert order[0][:4] != order[1][:4]


def test_what_was_taken_is_handed_on_before_the_loop_sleeps(queues: Queues) -> None:
    """The pool writes tasks to its processes at each turn of the loop, and may have had its turn already."""
    gate, consumer = _gate(queues, 1)
    written: list[list[str]] = []
    consumer.hub.on_tick.add(lambda: written.append(list(queues.running)))
    queues.waiting["left"].append(Message("one"))
    gate.tick()
    assert written == [["one"]]
    gate.tick()
    assert written == [["one"]], "the slot is full: nothing was taken"


def test_nothing_is_asked_while_slots_are_full_or_the_worker_stops(queues: Queues) -> None:
    gate, consumer = _gate(queues, 1)
    queues.push("one")
    queues.waiting["left"].append(Message("next"))
    gate.tick()
    queues.consume()
    assert (queues.asked, queues.active) == ([], set()), "remote control may ask for it: it has to wait"
    queues.end("one")
    consumer.blueprint.state = CLOSE
    gate.tick()
    assert queues.asked == []


def test_a_pool_that_grows_takes_more_and_one_that_shrinks_stops_listening(queues: Queues) -> None:
    gate, consumer = _gate(queues, 1)
    queues.push("one")
    consumer.pool.num_processes = 2
    gate.tick()
    assert queues.active
    consumer.pool.num_processes = 1
    gate.tick()
    assert not queues.active


def test_slots_are_counted_by_what_runs(queues: Queues) -> None:
    gate, consumer = _gate(queues, 1)
    consumer.pool._pool = SimpleNamespace(_cache={7: "terminated, and still running"})
    assert gate.full()
    consumer.pool._pool._cache.clear()
    assert not gate.full()
    queues.on_message = gate._receive
    held = queues.push("held back by a rate limit")
    queues.running.clear()
    assert gate.full()
    held.acknowledged = True
    assert not gate.full()
