# SPDX-License-Identifier: GPL-3.0-or-later
"""What is sent again while attempts wait: all that the broker has lost, and nothing that only waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from amqp.exceptions import PreconditionFailed
from redis.exceptions import ResponseError
from sqlalchemy import select, update
from structlog.testing import capture_logs

from relengq.engine import dispatch
from relengq.engine.installation import Parcel
from relengq.errors import BrokerUnavailable
from relengq.models import Attempt
from relengq.testing import Bench

MakeBench = Callable[..., Bench]
WAITING = 5
HOUR = timedelta(hours=1)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many tasks each queue has."""
    lengths: Counter[str] = Counter()
    monkeypatch.setattr(dispatch, "queue_length", lambda queue: lengths[queue] or None)
    return lengths


@pytest.fixture
def bench(make_bench: MakeBench, broker: Counter[str]) -> Bench:
    made = make_bench(one="steps:\n  - {name: only, playbook: hello.yml}\n")
    for _ in range(WAITING):
        made.start("one")
    _to_broker(made, broker)
    return made


def _to_broker(bench: Bench, broker: Counter[str]) -> int:
    sent = len(bench.sent)
    broker.update(parcel.queue for parcel in bench.sent)
    bench.sent.clear()
    return sent


def _look(bench: Bench, broker: Counter[str], after: timedelta, uncounted: set[str] | None = None) -> int:
    """The clock looks and sends, so long after now; how many it sent."""
    said = set() if uncounted is None else uncounted
    dispatch.resend_unclaimed(bench.installation, bench.installation.now() + after, said)
    dispatch.send_due(bench.installation)
    return _to_broker(bench, broker)


def test_what_only_waits_is_never_sent_again(bench: Bench, broker: Counter[str]) -> None:
    assert [_look(bench, broker, HOUR * hours) for hours in range(1, 100)] == [0] * 99


def test_what_an_empty_queue_has_lost_is_sent_at_once(bench: Bench, broker: Counter[str]) -> None:
    broker.clear()
    soon = timedelta(seconds=bench.settings.resend_seconds + 1)
    assert _look(bench, broker, soon) == WAITING
    assert broker["default"] == WAITING


def test_one_that_is_missing_is_sent_with_the_others_and_the_queue_stays_bounded(
    bench: Bench, broker: Counter[str]
) -> None:
    broker["default"] -= 1
    assert _look(bench, broker, timedelta(seconds=bench.settings.resend_seconds + 1)) == 0, "it may be on its way"
    assert _look(bench, broker, HOUR) == WAITING
    assert [_look(bench, broker, HOUR * hours) for hours in range(2, 100)] == [0] * 98
    assert broker["default"] < 2 * WAITING


def test_what_an_empty_queue_has_lost_is_found_behind_any_number_that_wait_elsewhere(
    bench: Bench, broker: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_LOOKED_AT", WAITING)
    (bench.settings.site / "playbooks/workflows/two.yml").write_text(
        "queue: other\nsteps:\n  - {name: only, playbook: hello.yml}\n"
    )
    bench.start("two")
    _to_broker(bench, broker)
    broker["other"] = 0
    assert _look(bench, broker, timedelta(seconds=bench.settings.resend_seconds + 1)) == 1
    assert broker["other"] == 1


def test_a_queue_that_cannot_be_counted_keeps_no_other_from_being_looked_at(
    bench: Bench, broker: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def strange(queue: str) -> int | None:
        if queue == "strange":
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return broker[queue] or None

    monkeypatch.setattr(dispatch, "queue_length", strange)
    uncounted: set[str] = set()
    with bench.installation.database.write() as session:
        oldest = select(Attempt.id).order_by(Attempt.id).limit(1).scalar_subquery()
        session.execute(update(Attempt).where(Attempt.id == oldest).values(queue="strange"))
    broker.clear()
    with capture_logs() as logs:
        assert [_look(bench, broker, HOUR * hours, uncounted) for hours in (1, 2)] == [WAITING - 1, 0]
    assert [(line["event"], line["queue"]) for line in logs if "queue" in line] == [("queue.not_counted", "strange")]


def test_a_broker_that_is_away_is_told_whatever_else_cannot_be_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str) -> int:
        raise BrokerUnavailable("The broker does not answer.")

    monkeypatch.setattr(dispatch, "queue_length", away)
    with pytest.raises(BrokerUnavailable):
        _look(bench, Counter(), HOUR)


def test_what_the_broker_refuses_keeps_nothing_else_from_being_sent(
    bench: Bench, broker: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many it refuses, and however often: they are tried again when they would be if it had lost them."""
    monkeypatch.setattr(dispatch, "_BATCH", WAITING)
    sent: list[str] = []
    refusals = 0

    def send(parcel: Parcel) -> None:
        nonlocal refusals
        if parcel.queue == "default":
            refusals += 1
            raise PreconditionFailed("inequivalent arg 'x-queue-type'")
        sent.append(parcel.queue)

    monkeypatch.setattr(bench.installation, "send", send)
    with bench.installation.database.write() as session:
        session.execute(update(Attempt).values(sent_at=None))
        newest = session.scalars(select(Attempt.id).order_by(Attempt.id.desc())).first()
        session.execute(update(Attempt).where(Attempt.id == newest).values(queue="other"))
    bench.tick()
    bench.tick()
    assert (sent, refusals) == (["other"], WAITING - 1)
    broker.clear()
    broker["other"] = 1
    soon = bench.installation.now() + timedelta(seconds=bench.settings.resend_seconds + 1)
    assert dispatch.resend_unclaimed(bench.installation, soon, set()) == WAITING - 1
    bench.tick()
    assert (sent, refusals) == (["other"], 2 * (WAITING - 1))
