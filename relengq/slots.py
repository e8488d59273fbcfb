# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker on RabbitMQ takes a task only for a slot that is free, so that a busy one keeps nothing from an idle one.

RabbitMQ hands a consumer what its prefetch count allows, and with early acknowledgement that is one task more than are
played: for hours it would wait behind a long step. (On Redis, Celery's own ``worker_disable_prefetch`` sees to it. Late
acknowledgement is no way: a task that is not acknowledged for half an hour is RabbitMQ's reason to close the channel.)

So a worker consumes only while it has a free slot, one task at a time from each queue. The task that fills the last
slot ends its consumers before it is acknowledged: nothing more is delivered. When a slot becomes free, the worker asks
each queue in turn (basic.get) until its slots are filled, and consumes again when the queues are empty. Two queues may
deliver in the same moment to the only slot that is free; the second task is given back at once.
"""

from __future__ import annotations

from contextlib import suppress

from celery.bootsteps import RUN, StartStopStep
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.consumer.tasks import Tasks
from kombu.asynchronous import Hub
from kombu.message import Message

from relengq.celery import app

_PASSES = 50
"""How often the queues are asked in one go, before heartbeats and remote control have their turn."""


class Slots(StartStopStep):
    """Celery's step that puts a gate before the queues, for each connection anew."""

    requires = (Tasks,)

    def __init__(self, c: Consumer, **options: object) -> None:
        self._gate: Gate | None = None
        super().__init__(c, **options)

    def include_if(self, c: Consumer) -> bool:
        """On RabbitMQ, with Celery's event loop."""
        return c.hub is not None and c.conninfo.transport.driver_type == "amqp"

    def start(self, c: Consumer) -> None:
        """Nothing yet: Celery sets the consumer's callback just before its loop begins."""

    def register_with_event_loop(self, c: Consumer, hub: Hub) -> None:
        """Called just before Celery begins to consume."""
        self._gate = Gate(c, hub)
        hub.on_tick.add(self._gate.tick)

    def stop(self, c: Consumer) -> None:
        """The connection is lost, or the worker ends."""
        if self._gate is not None:
            c.hub.on_tick.discard(self._gate.tick)
            self._gate = None


class Gate:
    """Opens and closes the consumers of one connection, as slots become free and are taken."""

    def __init__(self, c: Consumer, hub: Hub) -> None:
        self._c = c
        self._hub = hub
        self._consumer = c.task_consumer
        self._take = self._consumer.on_message
        self._listen = self._consumer.consume
        self._unanswered: list[Message] = []
        """What was taken and is not acknowledged yet: it may wait in a bucket of a rate limit."""
        self._turn = 0
        self._consumer.on_message = self._receive
        self._consumer.consume = self._consume

    def full(self) -> bool:
        """Whether every slot is taken: by what runs in the pool, or by what is on its way there."""
        controller, pool = self._c.controller, self._c.pool
        limit: int = getattr(controller, "max_concurrency", None) or pool.num_processes
        # What was terminated is reserved no more, and may still run.
        running = len(getattr(getattr(pool, "_pool", None), "_cache", ()))
        self._unanswered = [each for each in self._unanswered if not each.acknowledged]
        return max(len(state.reserved_requests), running, len(self._unanswered)) >= limit

    def tick(self) -> None:
        """Called at each turn of Celery's loop: what a task's end has changed is seen in the next one."""
        if self._c.blueprint.state != RUN or self._consumer is not self._c.task_consumer:
            return
        if self.full():
            self._rest()
        elif not all(map(self._consumer.consuming_from, self._consumer.queues)):
            self._fill()
            self._hand_on()

    def _hand_on(self) -> None:
        """Let the pool write what was taken to its processes in this very turn of the loop.

        It does so at each turn's beginning too, in no fixed order with this gate, and the turn then sleeps until
        something happens: up to a second, in which a task would lie here.
        """
        for callback in self._hub.on_tick - {self.tick}:
            callback()

    def _receive(self, message: Message) -> None:
        if self.full():
            message.requeue()  # type: ignore[no-untyped-call]
            return
        self._unanswered.append(message)
        self._take(message)
        if self.full():
            self._rest()

    def _rest(self) -> None:
        if any(map(self._consumer.consuming_from, self._consumer.queues)):
            self._consumer.cancel()

    def _consume(self, no_ack: bool | None = None) -> None:
        """In the place of the consumer's own: remote control and Celery's start call it at any time."""
        if not self.full():
            self._consumer.channel.basic_qos(0, 1, False)  # for each consumer by itself
            self._listen(no_ack)

    def _fill(self) -> None:
        """Ask the queues in turn until all slots are taken; listen when there is nothing."""
        for _ in range(_PASSES):
            if not self._ask_each():
                self._consumer.consume()
                break
            if self.full():
                break
        # An encrypted connection may have read more than was asked for, and nobody would look.
        with suppress(TimeoutError, BlockingIOError):
            while True:
                self._c.connection.drain_events(timeout=0)

    def _ask_each(self) -> bool:
        """Take a task of each queue while slots are free. Returns whether there was any."""
        queues = self._consumer.queues
        self._turn += 1
        found = False
        for index in range(len(queues)):
            if self.full():
                return True
            queue = queues[(self._turn + index) % len(queues)]
            delivered = self._consumer.channel.basic_get(queue.name)
            if delivered is not None:
                found = True
                self._consumer._receive_callback(delivered)  # noqa: SLF001 -- as if it had been pushed
        return found


app.steps["consumer"].add(Slots)
