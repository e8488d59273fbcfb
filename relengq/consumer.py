# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery's consumer without what relengq never asks a broker for.

With quorum queues a stock worker declares 28 queues and as many exchanges, and binds each of its own queues to them, so
that tasks can be sent with a countdown or an ETA. relengq sends none: what is due later waits in SQL, where the clock
finds it, however long that is.
"""

from __future__ import annotations

from celery.worker.consumer import Consumer as StockConsumer

_LEFT_OUT = "celery.worker.consumer.delayed_delivery:DelayedDelivery"


class Consumer(StockConsumer):
    """What the setting ``worker_consumer`` names."""

    class Blueprint(StockConsumer.Blueprint):
        """The steps by which a worker begins to consume."""

        default_steps = [step for step in StockConsumer.Blueprint.default_steps if step != _LEFT_OUT]  # noqa: RUF012
