# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery's application, as far as it can be told without a broker."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from pathlib import Path

import celery
import pytest
from celery.signals import worker_shutting_down
from celery.worker.consumer import Consumer as StockConsumer
from kombu.utils.imports import symbol_by_name

import relengq
import relengq.presence
from relengq.celery import RUN_STEP, NamedTasks, app, configuration
from relengq.consumer import Consumer
from relengq.settings import Settings


def test_a_task_has_its_own_name_from_the_first_event_on() -> None:
    assert app.amqp_cls is NamedTasks
    message = NamedTasks(app).as_task_v2("7.1", RUN_STEP, args=(7,), shadow="nightly: sync #1", create_sent_event=True)
    assert message.sent_event["name"] == "nightly: sync #1"
    assert message.headers["task"] == RUN_STEP
    assert message.body[0] == (7,)


def test_without_an_event_or_a_name_nothing_changes() -> None:
    assert NamedTasks(app).as_task_v2("7.1", RUN_STEP, args=(7,), shadow="x").sent_event is None
    assert NamedTasks(app).as_task_v2("7.1", RUN_STEP, create_sent_event=True).sent_event["name"] == RUN_STEP


@pytest.mark.parametrize(("url", "kind"), [("amqp://broker//", "quorum"), ("redis://broker/0", None)])
def test_every_queue_on_rabbitmq_is_a_quorum_queue(url: str, kind: str | None, tmp_path: Path) -> None:
    settings = Settings.load(tmp_path).model_copy(update={"broker_url": url})
    made = celery.Celery("kinds", set_as_current=False)
    made.conf.update(configuration(settings))
    for name in (made.conf.task_default_queue, "compose-s390x"):
        assert (made.amqp.queues[name].queue_arguments or {}).get("x-queue-type") == kind
    made.close()


def _calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the package, with the file that it is in."""
    [place] = relengq.__path__
    for path in Path(place).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(place)), node


def test_no_task_is_sent_with_a_countdown_or_an_eta() -> None:
    """What is due later waits in SQL: brokers hand such tasks out early, late, or five times."""
    sending = {"send_task", "apply_async", "signature", "retry"}
    calls = [(file, node.func) for file, node in _calls() if isinstance(node.func, ast.Attribute)]
    named = [(file, function.attr) for file, function in calls if ast.unparse(function) != "inspect.signature"]
    assert [(file, name) for file, name in named if name in sending] == [("celery.py", "send_task")]
    timed = {"countdown", "eta", "expires"}
    assert [file for file, node in _calls() for given in node.keywords if given.arg in timed] == []


def test_a_worker_declares_nothing_for_tasks_with_a_countdown(tmp_path: Path) -> None:
    named = configuration(Settings.load(tmp_path))["worker_consumer"]
    assert symbol_by_name(named) is Consumer
    left_out = set(StockConsumer.Blueprint.default_steps) - set(Consumer.Blueprint.default_steps)
    assert {step.partition(":")[2] for step in left_out} == {"DelayedDelivery"}


def test_a_signal_that_interrupts_the_handler_of_another_one_is_handled_too() -> None:
    def interrupted() -> None:
        with worker_shutting_down.lock:
            worker_shutting_down.send("a node", how="Cold")

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
