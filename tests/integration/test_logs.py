# SPDX-License-Identifier: GPL-3.0-or-later
"""Output and task results in real databases: while they work, and while they do not."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import event, func, select, text, update
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from relengq.database import Database
from relengq.errors import AttemptFault, DatabaseUnavailable
from relengq.logs import Reader, Recorder, TaskOutcome, follow, read, spool, store
from relengq.logs import buffer as buffer_module
from relengq.models import Attempt, OutputChunk, Progress, TaskResult
from relengq.states import AttemptState
from tests.support.attempts import running_attempt
from tests.support.waiting import wait_until


def outcome(number: int, **changes: object) -> TaskOutcome:
    given: dict[str, object] = {
        "number": number, "host": "h", "play": "p", "task": f"t{number}", "action": "command", "status": "ok",
        "changed": False, "duration": 0.5, "started": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    return TaskOutcome(**{**given, **changes})  # type: ignore[arg-type]


def whole(database: Database, attempt: int) -> str:
    return "".join(read(database, attempt))


def chunks(database: Database, attempt: int) -> list[int]:
    """The sizes of the attempt's chunks."""
    with database.read() as session:
        query = select(OutputChunk.size).where(OutputChunk.attempt_id == attempt).order_by(OutputChunk.seq)
        return list(session.scalars(query))


def test_what_was_said_is_kept(database: Database) -> None:
    attempt = running_attempt(database)
    with Recorder(database, attempt, 1) as recorder:
        recorder.output("naïve ✓ \0 \x1b[31m\n")
        recorder.progress("p", "t1", None)
        recorder.task(outcome(1, message="a\0b\ud800", host="h\0", item="i\0"))
        recorder.task(outcome(2, status="failed"))
        recorder.progress("p", "t2", "h")
        recorder.task(outcome(2, status="rescued"))
        recorder.output("end")
    assert whole(database, attempt) == "naïve ✓ \0 \x1b[31m\nend"
    with database.read() as session:
        rows = session.scalars(select(TaskResult).order_by(TaskResult.seq)).all()
        assert [(row.task, row.status) for row in rows] == [("t1", "ok"), ("t2", "rescued")]
        assert rows[0].message == "a�b�"
        assert rows[0].started_at == datetime(2026, 1, 1, tzinfo=UTC)
        progress = session.get_one(Progress, attempt)
        assert (progress.play, progress.task, progress.host, progress.tasks_done) == ("p", "t2", "h", 2)


def test_small_chunks_become_large_ones(database: Database) -> None:
    attempt = running_attempt(database)
    recorder = Recorder(database, attempt, 1)
    for number in range(30):
        recorder.output(f"line {number}\n")
        wait_until(lambda number=number: f"line {number}\n" in whole(database, attempt))  # type: ignore[misc]
    assert len(chunks(database, attempt)) > 10
    recorder.close()
    assert len(chunks(database, attempt)) == 1
    assert whole(database, attempt) == "".join(f"line {number}\n" for number in range(30))


def put_chunks(database: Database, attempt: int, *pieces: bytes) -> None:
    with database.write() as session:
        rows = [store.chunk(attempt, seq, data) for seq, data in enumerate(pieces, 1)]
        store.write(session, store.Batch(rows))


def merge_all(database: Database, attempt: int) -> None:
    after: int | None = 0
    while after is not None:
        with database.write() as session:
            after = store.merge(session, attempt, after)


def test_merging_keeps_the_order_and_the_limit(sqlite_database: Database) -> None:
    attempt = running_attempt(sqlite_database)
    big, half, small = b"B" * store.CHUNK_BYTES, b"h" * (store.CHUNK_BYTES // 2 - 1), b"s" * 10
    pieces = [small, small, big, half, half, half, small, big, big, small, small, b"\xc3", b"\xa9"]
    put_chunks(sqlite_database, attempt, *pieces)
    merge_all(sqlite_database, attempt)
    merge_all(sqlite_database, attempt)
    assert chunks(sqlite_database, attempt) == [20, len(big), 2 * len(half), len(half) + 10, len(big), len(big), 22]
    assert whole(sqlite_database, attempt) == b"".join(pieces).decode()


@pytest.mark.parametrize("seen", range(7))
def test_a_reader_goes_on_where_it_was_when_chunks_are_merged_behind_it(database: Database, seen: int) -> None:
    attempt = running_attempt(database)
    pieces = [b"a", b"bb\xc3", b"\xa9cc", b"", b"e" * store.CHUNK_BYTES, b"f"]
    put_chunks(database, attempt, *pieces[:seen])
    reader = Reader(database, attempt)
    before = "".join(reader.take())
    put_chunks(database, attempt, *pieces)
    merge_all(database, attempt)
    assert before + "".join(reader.take()) == b"".join(pieces).decode()
    assert "".join(reader.take()) == ""


def test_output_is_followed_from_another_process_within_half_a_second(database: Database) -> None:
    attempt = running_attempt(database)
    code = (
        "import sys; from relengq.database import Database; from relengq.logs import follow\n"
        f"for text in follow(Database(sys.argv[1]), {attempt}, lambda: False): print(text, end='', flush=True)"
    )
    url = database.url.render_as_string(hide_password=False)
    follower = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    try:
        with Recorder(database, attempt, 1) as recorder:
            recorder.output("warm up\n")
            assert follower.stdout.readline() == "warm up\n"
            delays = []
            for number in range(10):
                said = time.monotonic()
                recorder.output(f"line {number}\n")
                assert follower.stdout.readline() == f"line {number}\n"
                delays.append(time.monotonic() - said)
        # Most of them: now and then, a machine that is busy with other tests takes longer for whatever it does.
        assert sorted(delays)[6] < 0.5
    finally:
        follower.kill()
        follower.communicate()


def test_following_ends_with_the_attempt_and_misses_nothing(database: Database) -> None:
    attempt = running_attempt(database)
    ended = threading.Event()
    said = [f"line {number}\n" for number in range(500)]

    def speak() -> None:
        with Recorder(database, attempt, 1) as recorder:
            for line in said:
                recorder.output(line)
                time.sleep(0.001)
        ended.set()

    speaker = threading.Thread(target=speak)
    speaker.start()
    assert "".join(follow(database, attempt, ended.is_set)) == "".join(said)
    speaker.join()


def test_a_chunk_that_cannot_be_read_is_named_in_its_place(database: Database) -> None:
    attempt = running_attempt(database)
    put_chunks(database, attempt, b"first\n", b"second\n", b"third\n", b"x")
    with database.write() as session:
        broken = (OutputChunk.attempt_id == attempt, OutputChunk.seq == 2)
        session.execute(update(OutputChunk).where(*broken).values(data=b"rubbish"))
        session.execute(update(OutputChunk).where(OutputChunk.seq == 4).values(size=7))
    with capture_logs() as logs:
        lines = whole(database, attempt).splitlines()
    assert lines[0] == "first"
    assert lines[1].startswith("[output chunk 2 unreadable: ")
    assert lines[2] == "third"
    assert lines[3] == "[output chunk 4 unreadable: it has 1 bytes instead of 7]"
    assert [log["event"] for log in logs] == ["output.unreadable"] * 2
    merge_all(database, attempt)
    assert len(chunks(database, attempt)) == 4


def test_an_attempt_that_another_worker_has_claimed_is_not_written(database: Database) -> None:
    attempt = running_attempt(database)
    with capture_logs() as logs, Recorder(database, attempt, 1) as recorder:
        recorder.output("mine\n")
        wait_until(lambda: whole(database, attempt))
        with database.write() as session:
            session.execute(update(Attempt).values(fence=2))
        recorder.output("not mine any more\n")
        wait_until(lambda: recorder.refused)
        for _ in range(100):
            recorder.output("x" * 1_000_000)
    assert whole(database, attempt) == "mine\n"
    assert [log["event"] for log in logs] == ["output.refused"]
    assert logs[0]["run_id"] == "r0"


def test_an_attempt_that_was_deleted_is_not_written(database: Database) -> None:
    with Recorder(database, 4711, 1) as recorder:
        recorder.output("x")
    assert recorder.refused


def test_a_second_claim_of_an_attempt_writes_behind_the_first(database: Database) -> None:
    attempt = running_attempt(database)
    for number in range(2):
        with Recorder(database, attempt, 1) as recorder:
            recorder.output(f"claim {number}\n")
            recorder.task(outcome(1, task=f"claim {number}"))
    assert whole(database, attempt) == "claim 0\nclaim 1\n"
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(TaskResult)) == 2


class Flaky(Database):
    """A database whose writes fail, before the commit or after it, when it is told to."""

    fail: str | None = None
    failed = 0

    @contextmanager
    def write(self) -> Iterator[Session]:
        if self.fail == "before":
            self.failed += 1
            raise DatabaseUnavailable("The database is away.")
        with super().write() as session:
            yield session
        if self.fail == "after":
            self.failed += 1
            raise DatabaseUnavailable("The connection broke after the commit.")


@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_is_lost_and_nothing_is_twice_while_the_database_is_away(database_url: str, when: str) -> None:
    database = Flaky(database_url)
    attempt = running_attempt(database)
    said = [f"line {number}\n" for number in range(300)]
    with capture_logs() as logs, Recorder(database, attempt, 1) as recorder:
        for number, line in enumerate(said):
            if number in (100, 200):
                failed, database.fail = database.failed, when
                recorder.output("")
                recorder.progress("p", "t", str(number))
                wait_until(lambda failed=failed: database.failed > failed + 2)  # type: ignore[misc]
                database.fail = None
                wait_until(lambda n=number // 100: [log["event"] for log in logs].count("output.delivered") == n)  # type: ignore[misc]
            recorder.output(line)
            recorder.task(outcome(number + 1))
    assert whole(database, attempt) == "".join(said)
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(TaskResult)) == 300
    events = [log["event"] for log in logs]
    assert events == ["output.waiting", "output.delivered"] * 2
    database.close()


class Speaker:
    """Says pieces in a thread of its own, and knows how far it has come."""

    def __init__(self, recorder: Recorder, pieces: list[str], allowed: int | None = None) -> None:
        self.recorder = recorder
        self.pieces = pieces
        self.said = 0
        self.allowed = threading.Semaphore(len(pieces) if allowed is None else allowed)
        self.thread = threading.Thread(target=self._speak, daemon=True)
        self.thread.start()

    def _speak(self) -> None:
        for piece in self.pieces:
            self.allowed.acquire()
            self.recorder.output(piece)
            self.said += 1

    def stands_at(self, count: int) -> None:
        """Wait until it has said about so many, and see that it says no more."""
        wait_until(lambda: self.said >= count)
        before = -1
        while before != self.said:
            before = self.said
            time.sleep(0.1)

    def done(self) -> None:
        self.thread.join()
        self.recorder.close()


def spooled(directory: Path) -> int:
    """How many files without a name this process has open in a directory."""
    links = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return len([link for link in links if link.startswith(f"{directory}/") and link.endswith("(deleted)")])


PIECES = [f"{number:09}\n" * 10_000 for number in range(300)]
"""Thirty megabytes, each line of ten bytes."""


def test_memory_is_bounded_while_the_database_is_away(sqlite_url: str) -> None:
    database = Flaky(sqlite_url)
    attempt = running_attempt(database)
    database.fail = "before"
    speaker = Speaker(Recorder(database, attempt, 1), PIECES)
    limit = buffer_module.BUFFER_BYTES + buffer_module.BATCH_BYTES + len(PIECES[0])
    speaker.stands_at((buffer_module.BUFFER_BYTES - len(PIECES[0])) // len(PIECES[0]))
    assert speaker.said * len(PIECES[0]) <= limit
    database.fail = None
    speaker.done()
    assert whole(database, attempt) == "".join(PIECES)
    database.close()


@pytest.mark.parametrize("fail", ["before", "after"])
def test_output_waits_on_the_disk_in_order_and_the_ring_goes_round(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: str
) -> None:
    monkeypatch.setattr(spool, "SPOOL_BYTES", 5_000_003)
    database = Flaky(sqlite_url)
    attempt = running_attempt(database)
    directory = tmp_path / "attempts"
    directory.mkdir()
    speaker = Speaker(Recorder(database, attempt, 1, directory), PIECES, allowed=0)
    half = len(PIECES) // 2
    for allowed in (half, 2 * half):
        database.fail = fail
        failed = database.failed
        speaker.allowed.release(half)
        wait_until(lambda failed=failed: database.failed > failed)  # type: ignore[misc]
        wait_until(lambda: spooled(directory) == 1)
        speaker.stands_at(allowed - half + 1)
        assert speaker.said < allowed
        assert list(directory.iterdir()) == [], "the file has no name that anybody could find, or leave behind"
        database.fail = None
        wait_until(lambda allowed=allowed: speaker.said == allowed)  # type: ignore[misc]
    speaker.done()
    assert spooled(directory) == 0, "the disk has its space back"
    assert whole(database, attempt) == "".join(PIECES)
    database.close()


def test_a_disk_that_takes_nothing_makes_the_play_wait(sqlite_url: str, tmp_path: Path) -> None:
    database = Flaky(sqlite_url)
    attempt = running_attempt(database)
    database.fail = "before"
    speaker = Speaker(Recorder(database, attempt, 1, tmp_path / "there is none"), PIECES)
    speaker.stands_at((buffer_module.BUFFER_BYTES - len(PIECES[0])) // len(PIECES[0]))
    assert speaker.said < len(PIECES) / 4
    database.fail = None
    speaker.done()
    assert whole(database, attempt) == "".join(PIECES)
    database.close()


def test_tasks_are_taken_while_output_waits_on_the_disk(sqlite_url: str, tmp_path: Path) -> None:
    database = Flaky(sqlite_url)
    attempt = running_attempt(database)
    database.fail = "before"
    with Recorder(database, attempt, 1, tmp_path) as recorder:
        for number, piece in enumerate(PIECES):
            recorder.output(piece)
            recorder.task(outcome(number + 1))
        database.fail = None
    assert whole(database, attempt) == "".join(PIECES)
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(TaskResult)) == len(PIECES)
    database.close()


def test_what_waits_is_forgotten_when_the_attempt_is_anothers(sqlite_url: str, tmp_path: Path) -> None:
    database = Flaky(sqlite_url)
    attempt = running_attempt(database)
    database.fail = "before"
    recorder = Recorder(database, attempt, 1, tmp_path)
    for piece in PIECES:
        recorder.output(piece)
    assert spooled(tmp_path) == 1
    with Database(sqlite_url).write() as session:
        session.execute(update(Attempt).values(state=AttemptState.LOST))
    database.fail = None
    recorder.close()
    assert recorder.refused
    assert whole(database, attempt) == ""
    assert spooled(tmp_path) == 0, "the disk has its space back"
    database.close()


def test_an_sqlite_database_that_is_locked_is_waited_for(sqlite_database: Database) -> None:
    attempt = running_attempt(sqlite_database)
    with Recorder(sqlite_database, attempt, 1) as recorder:
        other = Database(str(sqlite_database.url))
        with other.write() as session:
            session.execute(text("UPDATE attempts SET sends = 7"))
            for number in range(100):
                recorder.output(f"{number}\n")
        other.close()
    assert whole(sqlite_database, attempt) == "".join(f"{number}\n" for number in range(100))


def test_a_full_disk_is_waited_for(sqlite_database: Database) -> None:
    attempt = running_attempt(sqlite_database)
    sqlite_database.close()
    engine = sqlite_database.engine
    full = True

    @event.listens_for(engine, "begin")
    def limit(connection: object) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar() + 1 if full else 1 << 30  # type: ignore[attr-defined]
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")  # type: ignore[attr-defined]

    noise = "".join(chr(0x4E00 + (number * 7919) % 20000) for number in range(100_000))
    with capture_logs() as logs, Recorder(sqlite_database, attempt, 1) as recorder:
        recorder.output(noise)
        wait_until(lambda: any(log["event"] == "output.waiting" for log in logs))
        full = False
    assert "disk is full" in logs[0]["error"]
    assert whole(sqlite_database, attempt) == noise


@pytest.mark.postgresql
def test_connections_that_are_cut_lose_nothing(postgresql_url: str) -> None:
    database, killer = Database(postgresql_url), Database(postgresql_url)
    attempt = running_attempt(database)
    cut = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    said = [f"line {number}\n" for number in range(600)]
    with Recorder(database, attempt, 1) as recorder:
        for number, line in enumerate(said):
            recorder.output(line)
            if number % 50 == 0:
                with killer.read() as session:
                    session.execute(cut)
            time.sleep(0.001)
    assert whole(database, attempt) == "".join(said)
    killer.close()
    database.close()


def test_output_that_cannot_be_stored_stops_the_play(sqlite_database: Database) -> None:
    attempt = running_attempt(sqlite_database)
    recorder = Recorder(sqlite_database, attempt, 1)
    recorder.task(outcome(1, duration="not a number"))
    wait_until(lambda: recorder._fault)
    with pytest.raises(AttemptFault, match="output could not be stored"):
        recorder.output("x")
    with pytest.raises(AttemptFault, match="output could not be stored"):
        recorder.close()


def test_the_database_stays_small(sqlite_database: Database, tmp_path: Path) -> None:
    attempt = running_attempt(sqlite_database)
    line = "ok: [host-%d] => (item=package-%d)\n"
    with Recorder(sqlite_database, attempt, 1) as recorder:
        for number in range(100_000):
            recorder.output(line % (number % 20, number))
    with sqlite_database.read() as session:
        plain, stored = session.execute(
            select(func.sum(OutputChunk.size), func.sum(func.length(OutputChunk.data)))
        ).one()
    assert stored < plain / 5
