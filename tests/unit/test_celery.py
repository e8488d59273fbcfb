# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery's application, as far as it can be told without a broker."""

from __future__ import annotations

from relengq.celery import RUN_STEP, NamedTasks, app


def test_a_task_has_its_own_name_from_the_first_event_on() -> None:
    assert app.amqp_cls is NamedTasks
    message = NamedTasks(app).as_task_v2("7.1", RUN_STEP, args=(7,), shadow="nightly: sync #1", create_sent_event=True)
    assert message.sent_event["name"] == "nightly: sync #1"
    assert message.headers["task"] == RUN_STEP
    assert message.body[0] == (7,)


def test_without_an_event_or_a_name_nothing_changes() -> None:
    assert NamedTasks(app).as_task_v2("7.1", RUN_STEP, args=(7,), shadow="x").sent_event is None
    assert NamedTasks(app).as_task_v2("7.1", RUN_STEP, create_sent_event=True).sent_event["name"] == RUN_STEP
