# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that forks while one of its threads has a database open makes no process that waits for ever."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from sqlalchemy import text

from relengq.database import Database
from relengq.forks import NoForks
from tests.support.waiting import wait_until


def forked(action: Callable[[], None]) -> int:
    """The wait status of a process that does it, and that is killed when it takes longer than half a minute."""
    pid = os.fork()
    if not pid:
        signal.alarm(30)
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def test_a_process_that_is_forked_while_a_thread_writes_can_write(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    writes, goes_on = threading.Event(), threading.Event()

    def write() -> None:
        with database.write() as session:
            session.execute(text("SELECT 1"))
            writes.set()
            goes_on.wait(30)

    def write_too() -> None:
        database.forget()
        with database.write() as session:
            session.execute(text("SELECT 1"))

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    assert writes.wait(30)
    timer = threading.Timer(0.3, goes_on.set)
    timer.start()
    assert forked(write_too) == 0
    thread.join()
    database.close()


def test_a_fork_waits_for_other_threads_only() -> None:
    gate = NoForks(patience=30)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with gate.held(), gate.held():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold, daemon=True)
    with gate.held():
        thread.start()
        assert entered.wait(30)
        statuses: list[int] = []
        forker = threading.Thread(target=lambda: statuses.append(forked(lambda: None)), daemon=True)
        forker.start()
        forker.join(0.2)
        assert statuses == []
    leave.set()
    wait_until(lambda: statuses == [0], 30)
    with gate.held():
        assert forked(lambda: None) == 0


def test_what_is_forked_within_holds_nothing() -> None:
    gate = NoForks(patience=30)

    def again() -> None:
        with gate.held():
            assert forked(lambda: None) == 0

    with gate.held():
        assert forked(again) == 0


def test_patience_ends() -> None:
    gate = NoForks(patience=0.1)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with gate.held():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert entered.wait(30)
    assert forked(lambda: None) == 0
    leave.set()
    thread.join()
