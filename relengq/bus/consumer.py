# SPDX-License-Identifier: GPL-3.0-or-later
"""fedora-messaging's consumer, as one that nobody has to look after.

The library (3.9) decodes and checks each message before any callback sees it: one that does not pass is dropped, or
ends the process; an acknowledgement on a channel that has gone, or a binding that is refused at a reconnection, leaves
a consumer that runs and consumes nothing. Here messages are handed on as they came, in batches of what the broker has
sent ahead, and are acknowledged together when the batch has been taken; whatever goes wrong ends the connection, and
the next one begins anew.

``install`` puts this in the place of the library's own, for callbacks that are a ``Taker``; any other callback is
served as before.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pika.exceptions
import structlog
from fedora_messaging.exceptions import Nack
from fedora_messaging.message import Message as LibraryMessage
from fedora_messaging.twisted import protocol as library_protocol
from fedora_messaging.twisted import service as library_service
from fedora_messaging.twisted.consumer import Consumer
from fedora_messaging.twisted.factory import FedoraMessagingFactoryV2
from fedora_messaging.twisted.protocol import FedoraMessagingProtocolV2
from pika.adapters.twisted_connection import ClosableDeferredQueue, ReceivedMessage
from twisted.internet import defer, task, threads
from twisted.python.failure import Failure

from relengq.bus import headers
from relengq.bus.bindings import Bindings
from relengq.bus.loop import reactor
from relengq.messages import Message, delivered

BATCH_MESSAGES = 100
BATCH_BYTES = 16 << 20
"""A batch ends at whichever comes first."""
LONGEST_DELAY = 30
"""Seconds between two attempts to connect, at most. The library's own grow to an hour."""
HANDSHAKE = "the broker ended the handshake; are user, password, virtual host and, with TLS, certificates right?"
_PAUSE = 5.0
"""Seconds before a connection is given up on which consuming could not begin."""

Step = Generator[defer.Deferred[Any], Any, None]

_log = structlog.get_logger(__name__)


class Taker(ABC):
    """A callback that takes messages in batches, as they came. All but ``take`` is called in the reactor's thread."""

    bindings: Bindings | None = None
    """The bindings that its queue gets; None when the configuration file's are made by the library."""

    def __call__(self, message: LibraryMessage) -> None:
        """Take one message that the library has decoded (``fedora-messaging reconsume``). Raises Nack at a stop."""
        if not self.take([_plain(message)], lambda: False):
            raise Nack

    @abstractmethod
    def take(self, batch: Sequence[Message], stale: Callable[[], bool]) -> bool:
        """Deal with all of them, and return True: they will be acknowledged. Runs in a thread, and may wait.

        False leaves them to be delivered again: when the process stops, or when the batch is ``stale`` because its
        connection has gone, so that the broker delivers it again anyway.
        """

    @abstractmethod
    def listening(self, queue: str) -> None:
        """Messages of this queue come from now on."""

    @abstractmethod
    def cut(self, reason: str) -> None:
        """No messages come for the time being."""

    @abstractmethod
    def stopping(self) -> None:
        """The process is about to stop: do not wait for anything any more."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will come."""


def install(taker: Taker) -> bool:
    """Have the library consume for ``taker`` by this module. False when the library is not as it is known here."""
    headers.tolerate()
    reactor.addSystemEventTrigger("before", "shutdown", taker.stopping)
    reactor.addSystemEventTrigger("after", "shutdown", taker.close)
    missing = [name for name in ("_read", "_read_one", "_read_loop_errback", "consume") if not hasattr(Consumer, name)]
    missing += [name for name in ("Consumer",) if not hasattr(library_protocol, name)]
    missing += [name for name in ("FedoraMessagingFactoryV2",) if not hasattr(library_service, name)]
    if missing:
        _log.error("bus.library_unknown", missing=missing, consequence="messages are taken one at a time")
        return False
    library_protocol.Consumer = BatchConsumer  # type: ignore[attr-defined]
    library_service.FedoraMessagingFactoryV2 = functools.partial(PatientFactory, taker)  # type: ignore[assignment,attr-defined]
    return True


class BatchConsumer(Consumer):
    """Hands a Taker all messages that are there, as they came."""

    _current: ClosableDeferredQueue | None = None
    """The deliveries that are read just now; those of an earlier channel are not read to their end."""

    @property
    def _taker(self) -> Taker | None:
        callback: object = self.callback
        return callback if isinstance(callback, Taker) else None

    @property
    def reading(self) -> bool:
        """Whether messages are read from a channel that is open."""
        return self._running and self._current is not None and self._current.closed is None

    @defer.inlineCallbacks
    def consume(self) -> Step:
        """The library's own, after the bindings have been made."""
        taker = self._taker
        if taker is not None and taker.bindings is not None and self._protocol is not None:
            yield taker.bindings.settle(self._protocol)
        yield super().consume()
        if taker is not None:
            taker.listening(str(self.queue))

    @defer.inlineCallbacks
    def _read(self, queue_object: ClosableDeferredQueue) -> Step:
        self._current = queue_object
        while self._running and self._current is queue_object:
            yield self._read_one(queue_object)

    @defer.inlineCallbacks
    def _read_one(self, queue_object: ClosableDeferredQueue) -> Step:
        taker = self._taker
        if taker is None:
            yield super()._read_one(queue_object)
            return
        try:
            waiting = queue_object.get()
            waiting.addTimeout(1, reactor)
            first = yield waiting
        except (defer.TimeoutError, defer.CancelledError):
            return
        if not queue_object.pending:
            # The rest of what came with it has not been looked at yet.
            yield task.deferLater(reactor, 0)
        batch, size = [first], len(first.body)
        while queue_object.pending and len(batch) < BATCH_MESSAGES and size < BATCH_BYTES:
            delivery = yield queue_object.get()
            batch.append(delivery)
            size += len(delivery.body)
        taken = self._running and (yield threads.deferToThread(_hand_over, taker, batch, queue_object))
        self.stats.received += len(batch)
        if not taken:
            still_read = self._current is queue_object  # else another channel is by now
            if still_read:
                # Nothing after these may be acknowledged: it would acknowledge these as well.
                self._current = None
            if still_read and queue_object.closed is not None:
                # The broker may have closed the channel alone, for want of acknowledgements.
                raise queue_object.closed
        elif queue_object.closed is None:
            batch[-1].channel.basic_ack(delivery_tag=batch[-1].method.delivery_tag, multiple=True)
            self.stats.processed += len(batch)

    def _read_loop_errback(self, failure: Failure) -> None:
        """Whatever ended the loop: the next connection begins anew."""
        taker = self._taker
        if taker is None:
            super()._read_loop_errback(failure)
            return
        self._current = None
        if isinstance(failure.value, pika.exceptions.ConsumerCancelled):
            reason = f"the broker has cancelled consuming from {self.queue}: was the queue deleted?"
        else:
            reason = _told(failure)
        taker.cut(reason)
        if self._protocol is not None and self._protocol.is_open:
            _log.warning("bus.consuming_ended", queue=self.queue, error=reason)
            self._protocol.close()


class PatientFactory(FedoraMessagingFactoryV2):
    """Connects for as long as the process lives, and says why there is no connection."""

    maxDelay = LONGEST_DELAY  # noqa: N815 -- Twisted's name
    noisy = False

    def __init__(self, taker: Taker, parameters: pika.connection.Parameters, confirms: bool = True) -> None:
        super().__init__(parameters, confirms)
        self._taker = taker
        self._greeted = False

    def buildProtocol(self, addr: Any) -> FedoraMessagingProtocolV2:  # noqa: N802
        """The library's own; afterwards it is looked whether all consumers could be registered again."""
        client = super().buildProtocol(addr)
        self._greeted = False
        if client.ready is not None:
            client.ready.addCallback(lambda _: self._look_after(client))
        return client

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:  # noqa: N802
        """The broker cannot be reached."""
        self._taker.cut(f"the broker {self._where} cannot be reached: {_told(reason)}")
        super().clientConnectionFailed(connector, reason)  # type: ignore[no-untyped-call]

    def clientConnectionLost(self, connector: Any, reason: Failure) -> None:  # noqa: N802
        """The connection went, or never came so far as to be one."""
        if self.continueTrying:
            lost = f"the connection to the broker {self._where} was lost: {_told(reason)}"
            self._taker.cut(lost if self._greeted else f"{HANDSHAKE} ({self._where}: {_told(reason)})")
        super().clientConnectionLost(connector, reason)  # type: ignore[no-untyped-call]

    @property
    def _where(self) -> str:
        return f"{self._parameters.host}:{self._parameters.port}"

    def _look_after(self, client: FedoraMessagingProtocolV2) -> None:
        self._greeted = self._client is client
        idle = [
            record.consumer
            for record in self._consumers
            if isinstance(record.consumer, BatchConsumer) and not record.consumer.reading
        ]
        if idle and client.is_open:
            reason = f"consuming from {', '.join(str(each.queue) for each in idle)} could not begin again"
            _log.warning("bus.not_consuming", error=reason)
            self._taker.cut(f"{reason}; see the log")
            reactor.callLater(_PAUSE, _give_up, client)


def _give_up(client: FedoraMessagingProtocolV2) -> None:
    if client.is_open:
        client.close()


def _plain(message: LibraryMessage) -> Message:
    """A message that the library has decoded, as it may have come."""
    properties = message._properties  # noqa: SLF001 -- the headers are to be had nowhere else
    return delivered(message.topic, message.id, properties.headers, message._encoded_body)  # noqa: SLF001


def _hand_over(taker: Taker, batch: Sequence[ReceivedMessage], queue_object: ClosableDeferredQueue) -> bool:
    messages = [
        delivered(
            each.method.routing_key,
            each.properties.message_id,
            each.properties.headers,
            each.body,
            each.properties.content_encoding,
        )
        for each in batch
    ]
    return taker.take(messages, lambda: queue_object.closed is not None)


def _told(failure: Failure) -> str:
    """What a failure says, in one line."""
    return failure.getErrorMessage().strip().replace("\n", " ").rstrip(".") or repr(failure.value)
