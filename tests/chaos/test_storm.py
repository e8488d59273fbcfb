# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever dies, stands still, is cut off or forgets: nothing is lost, nothing plays twice at once, all is announced.

``make chaos`` blows for longer. ``CHAOS_SEED``, ``CHAOS_RUNS``, ``CHAOS_STEPS`` and ``CHAOS_NETWORK=loopback`` say
how; the seed of a storm is printed, and gives the same faults in the same order again (not at the same moments).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.chaos import network, storm
from tests.chaos.checker import violations
from tests.chaos.records import Accepted, Heard, Line, Records, append
from tests.chaos.storm import Storm
from tests.chaos.world import PATIENCE, PERIOD, World, chain, world

_RUNS = int(os.environ.get("CHAOS_RUNS") or 0)
"""How many runs a long storm has; 0: a short one."""

pytestmark = [
    pytest.mark.rabbitmq, pytest.mark.postgresql, pytest.mark.slow, pytest.mark.timeout(0 if _RUNS else 3600)
]  # fmt: skip

_WORKFLOWS = ("by-person", "by-message", "by-clock", "fragile")


@dataclass(frozen=True)
class Size:
    """How much is asked of the installation, and how many faults it suffers meanwhile."""

    runs: int
    steps: int
    scheduled: int
    faults: int
    """0: as long as runs are under way."""
    pause: float
    """Seconds between two starts."""


_SHORT = Size(runs=8, steps=3, scheduled=2, faults=16, pause=2.0)


def test_a_storm_over_redis(tmp_path: Path) -> None:
    kinds = (*storm.ON_WORKERS, *storm.ON_OTHERS, *storm.ON_NETWORK, *storm.ON_REDIS, *storm.ON_DATABASE)
    _weather(tmp_path, _SHORT, kinds, on_redis=True)


@pytest.mark.long
def test_a_storm_over_rabbitmq(tmp_path: Path) -> None:
    kinds = ("kill_worker", "kill_child", "drop", "lose_answers", *storm.ON_BUS)
    _weather(tmp_path, replace(_SHORT, runs=4, faults=len(kinds)), kinds, on_redis=False)


class Experiment:
    """One storm over one installation."""

    def __init__(self, place: World, blowing: Storm, size: Size) -> None:
        self.place, self.blowing, self.size = place, blowing, size
        self.asked: set[str] = set()
        self._schedule_is_on = True
        self._ask_at = 0.0
        self._began = time.monotonic()
        self._progress, self._progress_at = 0, time.monotonic()
        self._waits_for = {"starts"}

    def run(self) -> None:
        """Ask, and let the storm blow until all that was asked for has ended."""
        while self._waits_for or self._stormy:
            self.place.supervise()
            if self._stormy:
                self.blowing.blow(self._progress)
            else:
                self.blowing.calm()
            self._ask()
            self._look()
            time.sleep(0.3)

    @property
    def _stormy(self) -> bool:
        return self.blowing.done < self.size.faults if self.size.faults else bool(self._waits_for)

    def _look(self) -> None:
        """See what has ended; fail when nothing has happened for a long time."""
        faults = self.place.audience.faults + self.place.publisher.faults
        assert not faults, faults
        heard, signs = self.place.heard.read(), self.place.ledger.read()
        progress = len(heard) + sum(sign.what == "end" for sign in signs)
        if progress > self._progress:
            self._progress, self._progress_at = progress, time.monotonic()
        self._look_at_schedule(heard)
        ended = {line[key] for line in heard if line["kind"] == "run.finished" for key in ("token", "run")}
        known = {line["run"] for line in heard} | {sign.run for sign in signs}
        starting = len(self.asked) < self.size.runs or self._schedule_is_on
        promised = {line["token"] for book in (self.place.promised, self.place.published) for line in book.read()}
        self._waits_for = {"starts"} if starting else ((self.asked | known) - ended) | (self.asked - promised)
        assert time.monotonic() < self._progress_at + PATIENCE, f"For {PATIENCE:g} s nothing of {self._waits_for}"

    def _ask(self) -> None:
        """One more run, by a person or by a message."""
        size = self.size
        # A short storm is as long as its faults: the starts are spread over them.
        so_far = size.runs if not size.faults else 2 + size.runs * self.blowing.done // size.faults
        if len(self.asked) >= min(size.runs, so_far) or time.monotonic() < self._ask_at:
            return
        self._ask_at = time.monotonic() + self.size.pause
        number = len(self.asked)
        tenths = self.blowing.random.choice((3, 8, 20, 60))
        token = f"start-{number}"
        if number % 3 == 1:
            self.place.publisher.queue.put({"token": token, "tenths": tenths})
        else:
            name = "fragile" if number % 12 == 6 else "by-person"
            append(self.place.wishes, {"token": token, "tenths": tenths, "workflow": name})
        self.asked.add(token)

    def _look_at_schedule(self, heard: list[Line]) -> None:
        """Switch it off when it has led to runs enough."""
        time_is_up = time.monotonic() > self._began + self.size.scheduled * PERIOD
        if self._schedule_is_on and time_is_up and any("@" in line["token"] for line in heard):
            self.place.end_schedule()
            self._schedule_is_on = False

    def records(self) -> Records:
        """What is known from outside."""
        promised = [*self.place.promised.read(), *self.place.published.read()]
        return Records(
            chains={name: chain(self.size.steps) for name in _WORKFLOWS},
            accepted=[Accepted(line["token"], line["workflow"]) for line in promised],
            signs=self.place.ledger.read(),
            heard=[Heard(**line) for line in self.place.heard.read()],  # type: ignore[arg-type]
            asked=frozenset(self.asked),
            periods={"tick": PERIOD},
            may_fail=frozenset({"fragile"}),
        )


def _weather(directory: Path, size: Size, kinds: Sequence[str], *, on_redis: bool) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
    print(f"CHAOS_SEED={seed}")
    if _RUNS:
        steps = int(os.environ.get("CHAOS_STEPS") or 5)
        size = Size(_RUNS, steps, scheduled=_RUNS // 20, faults=0, pause=storm.EVERY)
    own_network = os.environ.get("CHAOS_NETWORK") != "loopback" and network.possible()
    if not own_network:
        kinds = [kind for kind in kinds if kind not in storm.ON_NETWORK]
    light = os.environ.get("CHAOS_PLAYS", "" if _RUNS else "light") == "light"
    # Steps of a long storm end as fast as runs start, although some host always suffers something.
    parts = {"steps": size.steps, "seed": seed, "concurrency": 10 if _RUNS else 3}
    with world(directory, on_redis=on_redis, own_network=own_network, light=light, **parts) as place:
        place.ready()
        blowing = Storm(place, seed, kinds)
        experiment = Experiment(place, blowing, size)
        try:
            experiment.run()
            left = place.stop()
        except BaseException as error:
            raise AssertionError(f"{error}\n{_story(seed, experiment)}\n{place.logs()}") from error
        records = experiment.records()
        broken = violations(records)
        assert not broken, "\n".join([*broken, _story(seed, experiment), place.logs()])
        assert not left, f"{left}\n{_story(seed, experiment)}"
        assert {accepted.token for accepted in records.accepted} == experiment.asked


def _story(seed: int, experiment: Experiment) -> str:
    return "\n".join([f"CHAOS_SEED={seed}, in {experiment.place.directory}", *experiment.blowing.told])
