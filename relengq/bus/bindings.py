# SPDX-License-Identifier: GPL-3.0-or-later
"""Bindings of the listener's queue: which topics the broker puts into it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import pika.exceptions
import structlog
from fedora_messaging.twisted.protocol import FedoraMessagingProtocolV2
from twisted.internet import defer

from relengq.bus.loop import reactor

Step = Generator[defer.Deferred[Any], Any, None]

_log = structlog.get_logger(__name__)


def uncovered(patterns: Iterable[str], bound: Iterable[str]) -> list[str]:
    """The patterns of which some topic reaches none of the bindings by itself, sorted."""
    split = [each.split(".") for each in bound]
    return sorted({each for each in patterns if not any(_covers(one, each.split(".")) for one in split)})


def _covers(bound: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether each topic that fits ``pattern`` fits ``bound``. Patterns like ``*.#`` are not looked through."""
    if not bound:
        return not pattern
    first, rest = bound[0], bound[1:]
    if first == "#":
        return _covers(rest, pattern) or (bool(pattern) and _covers(bound, pattern[1:]))
    if not pattern or pattern[0] == "#":
        return False
    return (first == "*" or first == pattern[0]) and _covers(rest, pattern[1:])


class Bindings:
    """The bindings that one queue shall have, made at each connection and whenever they change.

    Only what this process bound is ever unbound. ``trouble`` gets a sentence when the broker refuses one, and None
    when all are made. ``want`` may be called from any thread, all else from the reactor's.
    """

    def __init__(self, queue: str, exchange: str, trouble: Callable[[str | None], None]) -> None:
        self.queue = queue
        self.exchange = exchange
        self._trouble = trouble
        self._wanted: frozenset[str] = frozenset()
        self._made: set[str] = set()
        self._said: tuple[list[str], list[str]] = ([], [])
        self._protocol: FedoraMessagingProtocolV2 | None = None
        self._turns = defer.DeferredLock()

    def want(self, patterns: Iterable[str]) -> None:
        """Say which topics the queue shall get from now on. What the broker has refused is asked for again."""
        self._wanted = frozenset(patterns)
        if self._wanted != self._made:
            reactor.callFromThread(self._again)

    def settle(self, protocol: FedoraMessagingProtocolV2) -> defer.Deferred[None]:
        """Make all bindings at a new connection: the queue may be a new one."""
        self._protocol = protocol
        return self._turns.run(self._settle, protocol, True)

    def _again(self) -> None:
        if self._protocol is not None and self._protocol.is_open:
            self._turns.run(self._settle, self._protocol, False).addErrback(_log_failure)

    @defer.inlineCallbacks
    def _settle(self, protocol: FedoraMessagingProtocolV2, anew: bool) -> Step:
        wanted = self._wanted
        refused: list[str] = []
        for pattern in sorted(wanted if anew else wanted - self._made):
            reason = yield self._do(protocol, "queue_bind", pattern)
            if reason is None:
                self._made.add(pattern)
            else:
                refused.append(f"{pattern}: {reason}")
        for pattern in sorted(self._made - wanted):
            reason = yield self._do(protocol, "queue_unbind", pattern)
            if reason is None:
                self._made.discard(pattern)
        self._say(refused)

    def _say(self, refused: list[str]) -> None:
        """What is bound, and what is not, when that has changed."""
        said = (sorted(self._made), refused)
        if said == self._said:
            return
        self._said = said
        _log.info("bus.bound", queue=self.queue, exchange=self.exchange, patterns=said[0])
        sentence = f"the broker refuses to bind {self.queue} to {'; '.join(refused)}"
        if refused:
            _log.error("bus.binding_refused", error=sentence)
        self._trouble(sentence if refused else None)

    @defer.inlineCallbacks
    def _do(
        self, protocol: FedoraMessagingProtocolV2, what: str, pattern: str
    ) -> Generator[defer.Deferred[Any], Any, str | None]:
        """Bind or unbind one; returns why the broker refuses it, or None. A refusal costs the channel."""
        channel = yield protocol._allocate_channel()  # noqa: SLF001 -- as the library's own bind_queues does it
        try:
            yield getattr(channel, what)(queue=self.queue, exchange=self.exchange, routing_key=pattern)
        except pika.exceptions.ChannelClosed as error:
            return str(error.args[1] if len(error.args) > 1 else error)
        if channel.is_open:
            channel.close()
        return None


def _log_failure(failure: Any) -> None:
    """The connection went; the next one makes all bindings."""
    _log.info("bus.not_bound", error=str(failure.value))
