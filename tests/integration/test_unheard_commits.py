# SPDX-License-Identifier: GPL-3.0-or-later
"""A commit that happens while who committed is told that the connection broke: nothing is lost, nothing done twice.

On SQLite the fault is made in the process, on PostgreSQL by a proxy that cuts the connection before the answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from relengq.announcements import backlog
from relengq.announcements.announcer import Announcer
from relengq.engine import control, execute
from relengq.engine.calendar import fire_due
from relengq.engine.intake import Disposition
from relengq.engine.start import Trigger
from relengq.errors import DatabaseUnavailable, MessageFault, WrongState
from relengq.execution import Outcome, PlayOrder, Sink, TaskOutcome
from relengq.logs import Recorder, read
from relengq.models import Announcement, History, Run, ScheduleFire, TaskResult
from relengq.states import AttemptState
from relengq.testing import Bench
from tests.support.commits import CommitHook, Faults, commit_proxy
from tests.support.servers import PostgreSQLServer

WORKFLOWS = {
    "two": "steps:\n  - {name: first, playbook: hello.yml}\n  - {name: second, playbook: hello.yml}\n",
    "tidy": """\
steps:
  - {name: first, playbook: hello.yml}
finally:
  - {name: report, playbook: hello.yml}
""",
    "told": """\
on:
  - message: org.example.tag
announce: [run.started, run.finished]
steps:
  - {name: first, playbook: hello.yml}
""",
}


@dataclass
class Faulty:
    """A bench whose commits go wrong when they are told to."""

    bench: Bench
    faults: Faults

    def rows(self, model: type[Run | History | TaskResult | ScheduleFire | Announcement], *where: object) -> int:
        query = select(func.count()).select_from(model)
        with self.bench.installation.database.read() as session:
            return session.scalar(query.where(*where)) or 0  # type: ignore[arg-type]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def faulty(request: pytest.FixtureRequest, site: Path, tmp_path: Path) -> Iterator[Faulty]:
    for name, text in WORKFLOWS.items():
        (site / "playbooks/workflows" / f"{name}.yml").write_text(text)
    (site / "beat/nightly.yml").write_text("often: {workflow: two, every: 1h}\n")
    if request.param == "sqlite":
        bench = Bench(site, tmp_path / "bench", request.getfixturevalue("sqlite_url"))
        with CommitHook(bench.installation.database) as faults:
            yield Faulty(bench, faults)
        bench.close()
        return
    server: PostgreSQLServer = request.getfixturevalue("postgresql_server")
    with commit_proxy(server.directory) as proxy:
        bench = Bench(site, tmp_path / "bench", proxy.via(request.getfixturevalue("postgresql_url")))
        yield Faulty(bench, proxy.faults)
        bench.close()


def _plays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes up the plays of ``execute``; returns where their playbooks are noted."""
    played: list[str] = []

    def play(order: PlayOrder, sink: Sink, stop: Callable[[], object], until: Callable[[], float]) -> Outcome:
        played.append(order.label)
        sink.output("played\n")
        return Outcome(AttemptState.SUCCEEDED)

    monkeypatch.setattr(execute, "play", play)
    return played


def _execute_next(faulty: Faulty) -> None:
    execute.execute(faulty.bench.installation, faulty.bench.sent.popleft().attempt_id, "worker@here")


def test_a_claim_is_recognised(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    played = _plays(monkeypatch)
    run_id = faulty.bench.start("two")
    [parcel] = faulty.bench.sent
    faulty.faults.lose_answer(having="attempt running")
    _execute_next(faulty)
    assert faulty.faults.done == [("answer", "attempt running")]
    assert faulty.bench.steps(run_id) == {"first": "succeeded", "second": "queued"}
    assert len(played) == 1
    faulty.bench.sent.appendleft(parcel)
    _execute_next(faulty)
    assert len(played) == 1, "a second delivery has another token"


def test_a_claim_that_was_lost_is_made_again(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    played = _plays(monkeypatch)
    run_id = faulty.bench.start("two")
    faulty.faults.lose_commit(2, having="attempt running")
    _execute_next(faulty)
    assert faulty.bench.steps(run_id)["first"] == "succeeded"
    assert len(played) == 1


def test_an_ending_is_recognised_and_what_it_queued_is_sent(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    played = _plays(monkeypatch)
    run_id = faulty.bench.start("two")
    faulty.faults.lose_answer(having="attempt succeeded")
    _execute_next(faulty)
    assert len(faulty.bench.sent) == 1, "the second step is sent at once, without a clock"
    _execute_next(faulty)
    assert faulty.bench.run(run_id).state == "succeeded"
    assert len(played) == 2
    assert faulty.rows(History, History.action == "attempt succeeded") == 2


def test_output_and_results_are_written_once(faulty: Faulty) -> None:
    run_id = faulty.bench.start("two")
    held = faulty.bench.claim()
    assert held is not None
    database = faulty.bench.installation.database
    pieces = [f"line {number}\n" for number in range(40)]
    with Recorder(database, held.attempt_id, held.fence) as recorder:
        faulty.faults.every(2)
        for number, piece in enumerate(pieces):
            recorder.output(piece)
            if number % 10 == 0:
                recorder.task(TaskOutcome(number // 10 + 1, "h", "p", "t", "a", "ok", False, 0.1, None))
                threading.Event().wait(0.25)  # a batch of its own
    faulty.faults.every(0)
    assert len(faulty.faults.done) >= 2
    assert "".join(read(database, held.attempt_id)) == "".join(pieces)
    assert faulty.rows(TaskResult, TaskResult.attempt_id == held.attempt_id) == 4
    faulty.bench.finish(held)
    assert faulty.bench.steps(run_id)["first"] == "succeeded"


def test_a_person_starts_once(faulty: Faulty) -> None:
    faulty.faults.lose_answer(having="created")
    faulty.faults.lose_commit(having="created")
    first = faulty.bench.started("two", {}, Trigger("person", "alice"))
    second = faulty.bench.started("two", {}, Trigger("person", "alice"))
    assert (first.fresh, second.fresh) == (True, True)
    assert faulty.rows(Run) == 2
    assert len(faulty.bench.sent) == 2
    assert len(faulty.faults.done) == 2


def test_a_request_id_starts_once(faulty: Faulty) -> None:
    wanted = Trigger("person", "alice", "ticket 7")
    first, second = (faulty.bench.started("two", {}, wanted) for _ in range(2))
    assert first.run_id == second.run_id
    assert (first.fresh, second.fresh) == (True, False)


def test_a_person_is_told_when_it_stays_away(faulty: Faulty) -> None:
    faulty.faults.lose_commit(100)
    with pytest.raises(DatabaseUnavailable):
        faulty.bench.start("two")
    assert len(faulty.faults.done) == 5


def test_a_cancel_is_one_cancel(faulty: Faulty) -> None:
    run_id = faulty.bench.start("tidy")
    held = faulty.bench.claim()
    assert held is not None
    faulty.faults.lose_answer(having="cancel requested")
    control.cancel(faulty.bench.installation, run_id, who="alice")
    assert faulty.rows(History, History.action == "cancel requested") == 1
    faulty.bench.finish(held, state=AttemptState.CANCELLED)
    assert faulty.bench.steps(run_id) == {"first": "cancelled", "report": "queued"}
    faulty.faults.lose_commit(having="cancel requested")
    control.cancel(faulty.bench.installation, run_id, who="alice")
    assert faulty.bench.steps(run_id)["report"] == "cancelled", "the second cancel is the second"


def test_hold_and_release_are_done_once(faulty: Faulty) -> None:
    run_id = faulty.bench.start("two")
    faulty.faults.lose_answer(having="hold")
    control.hold(faulty.bench.installation, run_id, who="alice")
    with pytest.raises(WrongState, match="on hold already"):
        control.hold(faulty.bench.installation, run_id, who="alice")
    faulty.faults.lose_answer(having="release")
    control.release(faulty.bench.installation, run_id, who="alice")
    assert faulty.rows(History, History.action.in_(["hold", "release"])) == 2


def test_a_schedule_fires_once(faulty: Faulty) -> None:
    installation = faulty.bench.installation
    now = datetime.now(UTC)
    fire_due(installation, now - timedelta(minutes=61))
    faulty.faults.lose_answer(having="schedule_fires")
    assert fire_due(installation, now) == []  # nobody knows whether it has
    assert fire_due(installation, now) == []
    assert faulty.rows(ScheduleFire) == 1
    assert faulty.rows(Run) == 1
    faulty.bench.tick()
    assert len(faulty.bench.sent) == 1


def test_a_message_starts_once(faulty: Faulty) -> None:
    message = faulty.bench.message("org.example.tag")
    faulty.faults.lose_answer(having="created")
    with pytest.raises(DatabaseUnavailable):
        faulty.bench.receive(message)
    [receipt] = faulty.bench.receive(message)  # the bus delivers it again
    assert receipt.disposition is Disposition.DUPLICATE
    assert faulty.rows(Run) == 1
    faulty.bench.tick()
    assert len(faulty.bench.sent) == 1


def test_an_announcement_that_was_sent_is_marked_and_not_sent_again(faulty: Faulty) -> None:
    faulty.bench.start("told")
    held = faulty.bench.claim()
    assert held is not None
    sent: list[int] = []
    announcer = Announcer(faulty.bench.installation.database, lambda row: sent.append(row.id))
    over = threading.Event()
    faulty.faults.lose_answer(having="UPDATE announcements")
    with pytest.raises(DatabaseUnavailable):
        announcer.round(over)
    announcer.round(over)
    assert len(sent) == len(set(sent)) == 1
    assert faulty.rows(Announcement, Announcement.sent_at.is_not(None)) == 1
    assert faulty.rows(Announcement, Announcement.tries == 1) == 1


def test_an_announcement_that_is_refused_is_told_once(faulty: Faulty) -> None:
    faulty.bench.start("told")
    faulty.bench.claim()

    def refuse(_: Announcement) -> None:
        raise MessageFault("it is too long")

    announcer = Announcer(faulty.bench.installation.database, refuse)
    faulty.faults.lose_answer(having="it is too long")
    with pytest.raises(DatabaseUnavailable):
        announcer.round(threading.Event())
    announcer.round(threading.Event())
    assert faulty.rows(History, History.action == "announcement failed") == 1
    with faulty.bench.installation.database.read() as session:
        assert backlog.unsent(session).refused == 1
