# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever workers, people and the clock do in whatever order: the promises about runs hold."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import update

from relengq.engine import control
from relengq.errors import StaleAttempt, WrongState
from relengq.models import Attempt
from relengq.runs.attempts import Claim
from relengq.states import AttemptState, RunState, StepState
from relengq.testing import Bench

FILES = {
    "playbooks/hello.yml": "- {hosts: localhost, tasks: []}\n",
    "workers/default.yml": "queues: [default]\n",
    "playbooks/workflows/mixed.yml": """
concurrency: {group: all}
steps:
  - {name: first, playbook: hello.yml, retry: {attempts: 2}}
  - {name: fan, playbook: hello.yml, matrix: {arch: [x86_64, aarch64]}, allow_failure: matrix.arch == 'aarch64'}
  - {name: go, approval: {groups: [leads]}}
  - {name: sign, playbook: hello.yml, on_lost: hold}
finally:
  - {name: report, playbook: hello.yml}
""",
}


class Runs(RuleBasedStateMachine):
    """Two runs that share a group, and everything that can happen to them."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        site = Path(self.directory.name)
        for name, text in FILES.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text)
        self.bench = Bench(site, site / ".relengq")
        self.runs = [self.bench.start("mixed"), self.bench.start("mixed")]
        self.held: list[Claim] = []
        self.succeeded: set[int] = set()
        self.ended: dict[str, RunState] = {}

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.bench.close()
            self.directory.cleanup()

    @precondition(lambda self: self.bench.sent)
    @rule(twice=st.booleans())
    def worker_takes(self, twice: bool) -> None:
        if twice:
            self.bench.sent.append(self.bench.sent[0])
        claim = self.bench.claim()
        if claim is not None:
            assert claim.step_id not in self.succeeded, "a step that succeeded is never played again"
            self.held.append(claim)

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        state=st.sampled_from(["succeeded", "failed", "timed_out", "interrupted", "cancelled"]),
    )
    def worker_ends(self, data: st.DataObject, state: str) -> None:
        claim = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        try:
            self.bench.finish(claim, state=state, message=state, outputs={"x": 1})
        except StaleAttempt:
            return
        if state == "succeeded":
            self.succeeded.add(claim.step_id)

    @rule()
    def hosts_die(self) -> None:
        with self.bench.installation.database.write() as session:
            session.execute(update(Attempt).values(lease_until=Attempt.created_at, due_at=Attempt.created_at))
        self.bench.tick()

    @rule(
        which=st.integers(0, 1),
        what=st.sampled_from(["cancel", "hold", "release", "fail", "approve", "reject"]),
    )
    def person(self, which: int, what: str) -> None:
        run, bench = self.runs[which], self.bench
        try:
            match what:
                case "cancel":
                    control.cancel(bench.installation, run, who="alice")
                case "hold":
                    control.hold(bench.installation, run, who="alice")
                case "release" | "fail":
                    control.release(bench.installation, run, who="alice", fail=what == "fail")
                case _:
                    control.approve(bench.installation, run, None, who="alice", note=None, accepted=what == "approve")
        except WrongState:
            pass

    @rule()
    def clock(self) -> None:
        self.bench.tick()

    @invariant()
    def promises(self) -> None:
        active = 0
        for run_id in getattr(self, "runs", []):
            run = self.bench.run(run_id)
            if run_id in self.ended:
                assert run.state is self.ended[run_id], "what has ended stays as it ended"
            if run.state.final:
                self.ended[run_id] = run.state
                assert all(step.state.final for step in run.steps)
            elif run.started_at is not None:
                active += 1
            for step in run.steps:
                running = [attempt for attempt in step.attempts if attempt.state is AttemptState.RUNNING]
                assert len(running) <= 1, "one live attempt of a step"
                assert bool(running) == (step.state is StepState.RUNNING)
                if step.state is StepState.QUEUED:
                    assert [each.state for each in step.attempts].count(AttemptState.QUEUED) == 1
            in_order = [step.position for step in run.steps if step.state is not StepState.PENDING]
            assert not in_order or sorted(set(in_order))[0] == 0
        assert active <= 1, "a concurrency group lets one run through"


TestRuns = Runs.TestCase
TestRuns.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
