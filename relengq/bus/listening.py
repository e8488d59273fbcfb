# SPDX-License-Identifier: GPL-3.0-or-later
"""Consume for a Taker until the process is told to stop, whatever the broker does meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from typing import Any

import structlog
from fedora_messaging import api, config, exceptions
from twisted.internet import defer, task
from twisted.python import log as twisted_log

from relengq.bus.consumer import HANDSHAKE, Taker, install
from relengq.bus.loop import reactor

_AGAIN = 5.0
"""Seconds between two attempts to begin when the broker refuses."""
_QUIET = ("fedora_messaging", "pika", "twisted")

_log = structlog.get_logger(__name__)


def listen(taker: Taker, queues: Mapping[str, config.QueueConfig]) -> None:
    """Consume from these queues until SIGTERM or Ctrl-C; returns when what was under way has been finished.

    The queues are made unless the configuration says ``passive_declares``. A broker that is away, or refuses, is
    tried again for as long as it takes.
    """
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    twisted_log.PythonLoggingObserver().start()  # type: ignore[no-untyped-call]
    install(taker)
    reactor.callWhenRunning(_begin, taker, dict(queues))
    reactor.run()


@defer.inlineCallbacks
def _begin(taker: Taker, queues: dict[str, config.QueueConfig]) -> Generator[defer.Deferred[Any], Any, None]:
    said = None
    while True:
        try:
            yield api.twisted_consume(taker, bindings=[], queues=queues)
        except Exception as error:  # also what the library did not foresee, such as a certificate that has gone
            reason = _explained(error)
            taker.cut(reason)
            if reason != said:
                known = isinstance(error, exceptions.BaseException)
                _log.error("bus.refused", error=reason, exc_info=None if known else error)
            said = reason
            yield task.deferLater(reactor, _AGAIN)
        else:
            return


def _explained(error: Exception) -> str:
    """What the library's exception means to an operator."""
    if isinstance(error, exceptions.BadDeclaration):
        return f"the broker refuses the {error.obj_type} {error.description}: {error.reason}"
    if isinstance(error, exceptions.PermissionException):
        return f"the broker does not let this user consume from {error.description}: {error.reason}"
    if isinstance(error, exceptions.ConnectionException):
        return HANDSHAKE
    if isinstance(error, exceptions.BaseException):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"
