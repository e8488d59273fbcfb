# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of transitions, and that nothing is written that it does not have."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, StaticPool, create_engine
from sqlalchemy.orm import Session

from relengq.errors import IllegalTransition
from relengq.models import Attempt, Base, Run, Step
from relengq.runs.moves import move_attempt, move_run, move_step
from relengq.states import TRANSITIONS, AttemptState, RunState, State, StepState, allowed

KINDS = (RunState, StepState, AttemptState)
NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_is_in_the_table_and_leads_to_states_of_its_kind(kind: type[State]) -> None:
    table = TRANSITIONS[kind]
    assert set(table) == set(kind)
    assert all(isinstance(after, kind) for afters in table.values() for after in afters)
    assert all(before not in afters for before, afters in table.items())


@pytest.mark.parametrize("kind", KINDS)
def test_from_every_state_an_end_can_be_reached(kind: type[State]) -> None:
    ends = {state for state in kind if state.final}
    assert ends
    for state in kind:
        reached, found = set(), {state}
        while found - reached:
            reached |= found
            found = set().union(*(TRANSITIONS[kind][each] for each in reached))
        assert (reached | found) & ends


@cache
def _tables() -> Engine:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    return engine


@given(st.data())
def test_only_what_the_table_has_is_written(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    before, after = data.draw(st.sampled_from(list(kind))), data.draw(st.sampled_from(list(kind)))
    run = Run(id="r", state=before if kind is RunState else RunState.RUNNING, workflow="w")
    step = Step(run=run, name="s", instance="", state=before if kind is StepState else StepState.RUNNING)
    attempt = Attempt(step=step, run_id="r", label="w: s #1", state=before)
    session = Session(_tables())
    row, move = {
        RunState: (run, lambda: move_run(session, run, after, now=NOW)),
        StepState: (step, lambda: move_step(session, step, after, now=NOW)),
        AttemptState: (attempt, lambda: move_attempt(session, attempt, after, now=NOW)),
    }[kind]
    if allowed(before, after):
        move()
        assert row.state is after
        assert (row.finished_at == NOW) is after.final
    elif before is after and kind is not AttemptState:
        move()
        assert not session.new, "nothing happened, so nothing is recorded"
    else:
        with pytest.raises(IllegalTransition):
            move()
        assert row.state is before


def test_states_of_different_kinds_never_follow_each_other() -> None:
    assert not allowed(RunState.QUEUED, StepState.RUNNING)
