# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes through the pipe of events, and in which order with the output."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relengq.errors import AttemptFault
from relengq.execution import pipe
from relengq.execution.events import Events
from relengq.execution.masking import Mask
from relengq.execution.pipe import EventPipe, decoded
from relengq.execution.reading import Reading
from tests.support.plays import Collected
from tests.support.waiting import wait_until


def happened(task: str, host: str = "h", **more: object) -> bytes:
    data = {"host": host, "task": task, "res": {"changed": False}, **more}
    return json.dumps({"event": "runner_on_ok", "event_data": data}).encode() + b"\n"


class Writer:
    """The play's ends of the two pipes, and a reading of them into ``sink``."""

    def __init__(self, directory: Path, sink: Collected) -> None:
        self.pipe = EventPipe(directory)
        reader, self.output = os.pipe()
        pipe.widen(self.output)
        self.events = os.open(pipe.name(directory), os.O_WRONLY | os.O_NONBLOCK)
        self.ended = threading.Event()
        mask = Mask(())
        self.reading = Reading(reader, self.pipe, self.ended, Events(sink, mask), sink, mask)

    def end(self) -> None:
        os.close(self.events)
        os.close(self.output)
        self.ended.set()


@contextmanager
def written(directory: Path, sink: Collected) -> Iterator[Writer]:
    writer = Writer(directory, sink)
    with writer.pipe:
        yield writer
        writer.reading.join()


class Ordered(Collected):
    """Notes what had been said when a task's result came."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, str] = {}

    def task(self, outcome: object) -> None:
        super().task(outcome)  # type: ignore[arg-type]
        last = self.tasks[max(self.tasks)]
        self.said[last.task] = self.text


def test_what_was_said_before_an_event_is_handed_on_before_it(tmp_path: Path) -> None:
    sink = Ordered()
    with written(tmp_path, sink) as play:
        for number in range(200):
            os.write(play.output, f"before {number}\n".encode())
            os.write(play.events, happened(f"task {number}"))
            if number == 100:
                play.reading.start()
        play.end()
    assert len(sink.tasks) == 200
    assert all(f"before {number}\n" in sink.said[f"task {number}"] for number in range(200))


def test_an_event_may_be_cut_anywhere(tmp_path: Path) -> None:
    data = happened("one") + happened("zwei €") + happened("x" * 5000)
    with EventPipe(tmp_path) as events:
        play = os.open(pipe.name(tmp_path), os.O_WRONLY | os.O_NONBLOCK)
        found: list[bytes] = []
        for at in range(0, len(data), 7):
            os.write(play, data[at : at + 7])
            found += events.read()
        os.close(play)
    tasks = [event["event_data"]["task"] for event in decoded(found)]  # type: ignore[index]
    assert tasks == ["one", "zwei €", "x" * 5000]


def test_what_a_killed_play_left_unfinished_is_dropped(tmp_path: Path) -> None:
    sink = Collected()
    with written(tmp_path, sink) as play:
        play.reading.start()
        os.write(play.events, happened("whole") + happened("cut off")[:-20])
        os.write(play.output, b"said \xe2\x82")
        play.end()
    assert [each.task for each in sink.tasks.values()] == ["whole"]
    assert sink.text == "said \N{REPLACEMENT CHARACTER}"
    assert play.reading.fault is None


def test_lines_that_are_no_events_do_no_harm(tmp_path: Path) -> None:
    sink = Collected()
    with written(tmp_path, sink) as play:
        play.reading.start()
        os.write(play.events, b"\n{\n[]\n" + b"[" * 50_000 + b"\n\xff\n" + happened("real"))
        play.end()
    assert [each.task for each in sink.tasks.values()] == ["real"]


def test_a_huge_event_comes_through(tmp_path: Path) -> None:
    sink = Collected()
    with written(tmp_path, sink) as play:
        play.reading.start()
        os.set_blocking(play.events, True)
        line = memoryview(happened("huge", filling="x" * 10_000_000))
        while line:
            line = line[os.write(play.events, line) :]
        play.end()
    assert [each.task for each in sink.tasks.values()] == ["huge"]


def test_an_event_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "EVENT_BYTES", 1 << 20)
    sink = Collected()
    with written(tmp_path, sink) as play:
        play.reading.start()
        os.set_blocking(play.events, True)
        for _ in range(40):
            os.write(play.events, b"x" * 30_000)
        play.end()
    assert isinstance(play.reading.fault, AttemptFault)
    assert "more than 1 MB at once" in str(play.reading.fault)


def test_a_play_waits_for_a_reader_that_is_slow(tmp_path: Path) -> None:
    go_on = threading.Event()

    class Slow(Collected):
        def task(self, outcome: object) -> None:
            go_on.wait()
            super().task(outcome)  # type: ignore[arg-type]

    sink = Slow()
    with written(tmp_path, sink) as play:
        play.reading.start()
        line = happened("x" * 60_000)

        def full() -> bool:
            try:
                return os.write(play.events, line) < len(line)
            except BlockingIOError:
                return True

        wait_until(full)
        go_on.set()
        play.end()
    assert len(sink.tasks) > 10


def test_survivors_that_hold_the_pipes_are_not_waited_for(tmp_path: Path) -> None:
    sink = Collected()
    with written(tmp_path, sink) as play:
        play.reading.start()
        os.write(play.output, b"said")
        os.write(play.events, happened("done"))
        play.ended.set()
        play.reading.join()
        play.end()
    assert sink.text == "said"
    assert len(sink.tasks) == 1
