# SPDX-License-Identifier: GPL-3.0-or-later
"""How announcements leave: order, repeats, a bus that is away, and messages that it does not take."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from relengq.announcements import announcer as sending
from relengq.announcements import backlog
from relengq.announcements.announcer import Announcer
from relengq.announcements.outbox import FAILED
from relengq.doctor.bus import announcements
from relengq.errors import BusUnavailable, DatabaseUnavailable, MessageFault, MessageRejected
from relengq.models import Announcement
from relengq.runs import lookup
from relengq.testing import Bench
from tests.support.waiting import wait_until

ONE = "announce: [run.started, run.finished]\nsteps: [{name: one, playbook: hello.yml}]"


class Audience:
    """A bus of the test's own: it takes what it is given, unless the test wants otherwise."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []
        """Run and kind."""
        self.ids: list[str] = []
        self.trouble: Callable[[Announcement], Exception | None] = lambda _: None
        self._lock = threading.Lock()

    def __call__(self, row: Announcement) -> None:
        with self._lock:
            if fault := self.trouble(row):
                raise fault
            self.got.append((row.run_id, row.kind))
            self.ids.append(row.message_id)

    def of(self, run_id: str) -> list[str]:
        return [kind for run, kind in self.got if run == run_id]


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench(one=ONE)


@pytest.fixture
def audience() -> Audience:
    return Audience()


@pytest.fixture
def announcer(bench: Bench, audience: Audience) -> Announcer:
    return Announcer(bench.installation.database, audience)


def play(bench: Bench, count: int) -> list[str]:
    """So many runs that are over."""
    run_ids = [bench.start("one") for _ in range(count)]
    for _ in run_ids:
        bench.play()
    return run_ids


def pause_over(bench: Bench) -> None:
    """Let the time pass after which what failed is tried again."""
    with bench.installation.database.write() as session:
        session.execute(update(Announcement).values(due_at=Announcement.created_at))


def rows(bench: Bench, run_id: str) -> list[Announcement]:
    with bench.installation.database.read() as session:
        mine = select(Announcement).where(Announcement.run_id == run_id).order_by(Announcement.id)
        return list(session.scalars(mine))


def failures(bench: Bench, run_id: str) -> list[str | None]:
    with bench.installation.database.read() as session:
        return [event.note for event in lookup.history(session, run_id) if event.action == FAILED]


def go(announcer: Announcer) -> float:
    return announcer.round(threading.Event())


def test_each_message_is_sent_once_and_in_the_order_of_its_run(
    bench: Bench, announcer: Announcer, audience: Audience
) -> None:
    run_ids = play(bench, 8)
    assert go(announcer) == 0
    assert all(audience.of(run_id) == ["run.started", "run.finished"] for run_id in run_ids)
    assert go(announcer) > 0
    assert len(audience.got) == 16
    assert all(row.sent_at and row.tries == 1 for run_id in run_ids for row in rows(bench, run_id))


def test_a_message_that_is_not_taken_holds_back_its_own_run_only(
    bench: Bench, announcer: Announcer, audience: Audience
) -> None:
    bad, good = play(bench, 2)
    audience.trouble = lambda row: MessageRejected("the queue is full") if row.run_id == bad else None
    go(announcer)
    assert (audience.of(bad), audience.of(good)) == ([], ["run.started", "run.finished"])
    first, second = rows(bench, bad)
    assert (first.tries, first.fault, second.tries) == (1, "the queue is full", 0)
    assert failures(bench, bad) == ["relengq.run.started.v1: the queue is full; it is tried again"]
    go(announcer)
    assert rows(bench, bad)[0].tries == 1  # not before its time
    pause_over(bench)
    go(announcer)
    again = rows(bench, bad)[0]
    assert again.due_at - bench.installation.now() > timedelta(seconds=8)  # the pauses grow
    assert len(failures(bench, bad)) == 1
    audience.trouble = lambda _: None
    pause_over(bench)
    go(announcer)
    assert audience.of(bad) == ["run.started", "run.finished"]


def test_a_message_that_can_never_be_sent_is_told_and_passed_over(
    bench: Bench, announcer: Announcer, audience: Audience
) -> None:
    (run_id,) = play(bench, 1)
    audience.trouble = lambda row: MessageFault("it is no good") if row.kind == "run.started" else None
    go(announcer)
    go(announcer)
    assert audience.of(run_id) == ["run.finished"]
    assert failures(bench, run_id) == ["relengq.run.started.v1: it is no good"]
    (refused, told) = announcements(bench.installation)
    assert (refused.level, refused.message) == ("warn", "1 can never be sent")
    assert (told.level, told.message) == ("ok", "all sent")


def test_a_bus_that_is_away_is_said_once_and_asked_with_one_message_at_a_time(
    bench: Bench, announcer: Announcer, audience: Audience, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    run_ids = play(bench, 6)

    def away(row: Announcement) -> Exception:
        asked.append(row.run_id)
        return BusUnavailable("nobody answers")

    audience.trouble = away
    assert go(announcer) > 1
    assert len(asked) <= 4
    before = len(asked)
    assert [go(announcer) > 1 for _ in range(3)] == [True] * 3
    assert len(asked) <= before + 3
    out = capsys.readouterr().out
    assert out.count("bus.away") == 1
    (finding,) = announcements(bench.installation)
    assert finding.level == "ok"  # it may be a matter of seconds
    assert "12 unsent since" in finding.message
    assert "nobody answers" in finding.message
    for age, level in ((timedelta(minutes=2), "warn"), (timedelta(hours=2), "bad")):
        with bench.installation.database.write() as session:
            session.execute(update(Announcement).values(created_at=bench.installation.now() - age))
        assert [found.level for found in announcements(bench.installation)] == [level]
    audience.trouble = lambda _: None
    pause_over(bench)
    go(announcer)
    go(announcer)
    assert all(audience.of(run_id) == ["run.started", "run.finished"] for run_id in run_ids)
    assert "bus.back" in capsys.readouterr().out
    assert all(failures(bench, run_id) == [] for run_id in run_ids)


def test_what_was_sent_and_could_not_be_marked_is_marked_before_anything_else(
    bench: Bench, announcer: Announcer, audience: Audience, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = play(bench, 1)
    mark_sent = backlog.mark_sent

    def away(*_: object) -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(backlog, "mark_sent", away)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            go(announcer)
    monkeypatch.setattr(backlog, "mark_sent", mark_sent)
    go(announcer)
    assert audience.of(run_id) == ["run.started", "run.finished"]


def test_old_messages_are_forgotten_when_they_were_sent(bench: Bench, announcer: Announcer, audience: Audience) -> None:
    sent, kept = play(bench, 2)
    audience.trouble = lambda row: MessageFault("no") if row.run_id == kept else None
    go(announcer)
    with bench.installation.database.write() as session:
        long_ago = bench.installation.now() - backlog.KEPT - timedelta(seconds=1)
        session.execute(update(Announcement).where(Announcement.sent_at.is_not(None)).values(sent_at=long_ago))
    go(announcer)
    assert (len(rows(bench, sent)), len(rows(bench, kept))) == (0, 2)


def test_the_thread_starts_and_stops_any_number_of_times(
    bench: Bench, announcer: Announcer, audience: Audience, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_IDLE_SECONDS", 0.02)
    for number in (1, 2):
        announcer.start()
        announcer.start()
        (run_id,) = play(bench, 1)
        wait_until(lambda run_id=run_id: len(audience.of(run_id)) == 2, what="both are sent")  # type: ignore[misc]
        announcer.stop()
        assert not any(thread.name == "announcer" for thread in threading.enumerate()), number
    (run_id,) = play(bench, 1)
    assert audience.of(run_id) == []
