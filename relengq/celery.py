# SPDX-License-Identifier: GPL-3.0-or-later
"""The Celery application. ``celery -A relengq worker|beat|flower|inspect`` finds it from a site's directory.

Celery carries ids and nothing else: the rows in SQL say what is to be done, who does it, and what came of it. So a
task is acknowledged as soon as it is taken (the lease in SQL is the authority, not the broker), and no result is kept.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP, task_message
from celery.loaders.base import BaseLoader
from celery.signals import setup_logging
from kombu.connection import Connection
from kombu.exceptions import OperationalError as TransportError
from kombu.pools import producers

from relengq.errors import BrokerUnavailable
from relengq.records import configure
from relengq.settings import Settings

RUN_STEP = "relengq.run_step"
"""Name of the one task: play an attempt."""

_IO_SECONDS = 15
"""Without a limit on reads and writes a worker hangs for ever on a half-open connection."""
_SENDING_SECONDS = 2
"""The same limit for who sends or counts: a person waits for it, and the clock sends again anyway."""


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings for an installation. ``[celery]`` in relengq.toml adds to them."""
    url = settings.celery_broker_url
    redis = url.startswith(("redis", "rediss", "sentinel"))
    values: dict[str, Any] = {
        "broker_url": url,
        "broker_transport_options": _redis_options() if redis else _amqp_options(),
        "broker_connection_retry_on_startup": True,
        "broker_connection_timeout": 5,
        "broker_connection_max_retries": None,
        "broker_heartbeat": 20,
        # A channel that the broker closes is opened again; it must not end the worker with all that it plays.
        "broker_channel_error_retry": True,
        "task_default_queue": "default",
        "task_create_missing_queues": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "event_serializer": "json",
        "result_serializer": "json",
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_publish_retry": False,
        "task_send_sent_event": True,
        "worker_send_task_events": True,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": redis,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_redirect_stdouts": False,
        "worker_consumer": "relengq.consumer:Consumer",
        "worker_proc_alive_timeout": 30,
        "enable_utc": True,
        "timezone": "UTC",
        "beat_scheduler": "relengq.beat:Scheduler",
    }
    if not redis:
        values["task_default_queue_type"] = "quorum"
        values["task_create_missing_queue_type"] = "quorum"
        values["worker_detect_quorum_queues"] = True
    values.update(settings.celery)
    return values


_PUBLISHING = {"max_retries": 1, "interval_start": 0.2, "interval_step": 0.2}
"""Who sends says soon that the broker is away; the clock sends again. (Workers try for ever, by another setting.)"""


def _redis_options() -> dict[str, Any]:
    return {
        **_PUBLISHING,
        "socket_timeout": _IO_SECONDS,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "retry_on_timeout": True,
        "visibility_timeout": 86400,
    }


def _amqp_options() -> dict[str, Any]:
    return {**_PUBLISHING, "confirm_publish": True, "read_timeout": _IO_SECONDS, "write_timeout": _IO_SECONDS}


class SiteLoader(BaseLoader):
    """Reads Celery's configuration from the site's settings when it is first asked for, never at import."""

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> dict[str, Any]:
        """Celery's own hook; ``env`` is not used."""
        return configuration(Settings.load())


class NamedTasks(AMQP):
    """Names a task from its first event on as Flower shall show it.

    Stock Celery says the shadow name only when a worker has taken the task; Flower shows what the last event said,
    and the event of the sending may well come last.
    """

    def as_task_v2(self, *args: Any, **options: Any) -> task_message:
        """Celery's own, with the shadow name in the event as well; the parameters are Celery's."""
        message = super().as_task_v2(*args, **options)
        if message.sent_event and message.headers.get("shadow"):
            message.sent_event["name"] = message.headers["shadow"]
        return message


app = Celery(
    "relengq",
    loader=SiteLoader,
    amqp=NamedTasks,
    include=["relengq.tasks", "relengq.presence", "relengq.slots", "relengq.revoked"],
    set_as_current=False,
)


class WithoutInstances(logging.Filter):
    """Takes out of Celery's records what a matrix made of inputs: ``nightly: createrepo [x86_64] #1`` is a task there.

    The task's id, beside it, begins with that of the attempt.
    """

    _INSTANCE = re.compile(r" \[.*\](?= #[0-9]+\Z)", re.DOTALL)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if isinstance(record.args, Mapping):
            record.args = {name: self._plain(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(map(self._plain, record.args))
        return True

    def _plain(self, value: object) -> object:
        return self._INSTANCE.sub("", value) if isinstance(value, str) else value


_NAMING = ("celery.app.trace", "celery.worker.request", "celery.worker.strategy")
"""Celery's loggers that name tasks."""
_WITHOUT_INSTANCES = WithoutInstances()


@setup_logging.connect
def _set_up_records(loglevel: int | str | None, **_: object) -> None:
    """Workers and beat write structured records; Celery leaves logging alone where this signal has a receiver."""
    level = loglevel if isinstance(loglevel, int) else logging.getLevelNamesMapping().get(str(loglevel or "INFO"))
    configure(level or logging.INFO, Settings.load().log_format)
    for name in _NAMING:
        logging.getLogger(name).addFilter(_WITHOUT_INSTANCES)


_OF_ONE_QUEUE = re.compile(r"WRONGTYPE|permissions to access .*\bkeys?\b")
"""What Redis says of a queue's key that is something else, or that is kept from this user.

To Celery whatever Redis refuses is an error of the transport, as if the broker were away; on RabbitMQ a queue that is
refused is not.
"""


def enqueue(attempt_id: int, *, task_id: str, queue: str, label: str) -> None:
    """Put an attempt on its queue, under the name that Flower shows.

    Raises BrokerUnavailable, or what the broker's client raises when this queue alone is refused.
    """
    try:
        # Producers are kept by their connections' options; one broker in the settings is one pool.
        with producers[_impatient()].acquire(block=True) as producer:
            app.send_task(
                RUN_STEP, args=(attempt_id,), task_id=task_id, queue=queue, shadow=label, producer=producer,
                ignore_result=True,
            )  # fmt: skip
    except (TransportError, OSError) as error:
        if isinstance(refusal := error.__cause__, Exception) and _OF_ONE_QUEUE.search(str(refusal)):
            raise refusal from None
        raise BrokerUnavailable(
            f"The broker {_shown(app)} does not answer: {_sentence(error)}",
            hint="Runs are kept and start when it is back; see 'relengq doctor'.",
        ) from error


def queue_length(queue: str) -> int | None:
    """How many tasks a queue has in the broker, or None when there is no such queue. Raises BrokerUnavailable."""
    try:
        with _impatient() as connection:
            connection.ensure_connection(max_retries=0, timeout=2 * _SENDING_SECONDS)
            with connection.channel() as channel:
                return int(channel.queue_declare(queue=queue, passive=True).message_count)
    except connection_errors() as error:
        raise BrokerUnavailable(f"The broker {_shown(app)} does not answer: {_sentence(error)}") from error
    except Exception as error:
        if "NOT_FOUND" in str(error) or type(error).__name__ in ("NotFound", "ChannelError"):
            return None
        raise


def _impatient() -> Connection:
    """A connection that soon says that the broker is silent; workers listen with more patience."""
    options = app.conf.broker_transport_options
    limits = {
        name: _SENDING_SECONDS
        for name in ("socket_timeout", "socket_connect_timeout", "read_timeout", "write_timeout")
        if name in options
    }
    if "retry_on_timeout" in options:
        limits |= {"retry_on_timeout": False, "max_retries": 0}
    connection: Connection = app.connection_for_write(connect_timeout=_SENDING_SECONDS, transport_options=limits)
    return connection


def connection_errors() -> tuple[type[BaseException], ...]:
    """What a broken connection to the broker raises, for the transport in use."""
    errors: tuple[type[BaseException], ...] = tuple(app.connection_for_read().connection_errors)
    return (*errors, TransportError, OSError)


def _sentence(error: BaseException) -> str:
    return f"{str(error).rstrip('.') or 'timed out'}."  # with which RabbitMQ's client has nothing to say


def _shown(application: Celery) -> str:
    return str(application.connection_for_write().as_uri())
