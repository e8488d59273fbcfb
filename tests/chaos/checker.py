# SPDX-License-Identifier: GPL-3.0-or-later
"""What may not have happened, by the records alone. Nothing here knows anything of relengq's database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby, pairwise

from tests.chaos.records import Heard, Records, Sign

Violations = Iterator[str]


def violations(records: Records) -> list[str]:
    """Every broken promise, in a sentence that begins with its kind."""
    return [sentence for check in CHECKS for sentence in check(records)]


def lost_starts(records: Records) -> Violations:
    """Every start that was promised has led to a run that has ended."""
    ended = {heard.token for heard in records.heard if heard.kind == "run.finished"}
    for accepted in records.accepted:
        if accepted.token not in ended:
            yield f"lost: {accepted.token} of {accepted.workflow} was accepted, and no end of it was announced"


def doubled_starts(records: Records) -> Violations:
    """No start has led to two runs."""
    for token, runs in sorted(_runs_by_token(records).items()):
        if len(runs) > 1:
            yield f"doubled: {token} has led to the runs {', '.join(sorted(runs))}"


def unasked_starts(records: Records) -> Violations:
    """No run has come from nowhere."""
    known = records.asked | {accepted.token for accepted in records.accepted}
    for token, runs in sorted(_runs_by_token(records).items()):
        if token not in known and token.partition("@")[0] not in records.periods:
            yield f"unasked: nobody has asked for {token} of {', '.join(sorted(runs))}"


def missed_due_times(records: Records) -> Violations:
    """Between the first and the last due time of a schedule that led to a run, none is left out."""
    due: dict[str, set[float]] = defaultdict(set)
    for heard in records.heard:
        schedule, at, moment = heard.token.partition("@")
        if at and schedule in records.periods:
            due[schedule].add(datetime.fromisoformat(moment).timestamp())
    for schedule, period in records.periods.items():
        for before, after in pairwise(sorted(due[schedule])):
            if after - before > period:
                yield f"missed: {schedule} was due {round((after - before) / period) - 1} times after {before:.0f}"


def failed_runs(records: Records) -> Violations:
    """Every run has succeeded, unless its own policy says otherwise."""
    for heard in _once(records.heard):
        if heard.kind == "run.finished" and heard.result != "succeeded" and heard.workflow not in records.may_fail:
            yield f"failed: run {heard.run} of {heard.workflow} ended {heard.result}"


def overlapping_attempts(records: Records) -> Violations:
    """No two processes of one step were alive at once."""
    for (run, step), signs in _by_step(records).items():
        lives = sorted(_lives(signs), key=lambda life: life[0].at)
        for (_, last), (first, _) in pairwise(lives):
            if last.at > first.at:
                yield (
                    f"overlap: {step} of run {run} was alive as attempt {last.attempt} on {last.host} until "
                    f"{last.at:.2f}, and began as attempt {first.attempt} on {first.host} at {first.at:.2f}"
                )


def replayed_steps(records: Records) -> Violations:
    """No step was played again that had succeeded, or whose run was over."""
    done: dict[tuple[str, str], float] = {}
    over: dict[str, float] = {}
    for heard in _once(records.heard):
        if heard.kind == "step.finished" and heard.result == "succeeded":
            done[heard.run, heard.step] = heard.at
        if heard.kind == "run.finished":
            over[heard.run] = heard.at
    for sign in _starts(records):
        known = min(done.get((sign.run, sign.step), float("inf")), over.get(sign.run, float("inf")))
        if sign.at > known:
            yield (
                f"replayed: {sign.step} of run {sign.run} began on {sign.host} at {sign.at:.2f}, "
                f"and its end had been announced at {known:.2f}"
            )


def disordered_steps(records: Records) -> Violations:
    """A step begins when the one before it has ended; and none begins when a later one has."""
    workflows = {heard.run: heard.workflow for heard in records.heard}
    by_step = _by_step(records)
    for run, workflow in sorted(workflows.items()):
        for before, after in pairwise(records.chains[workflow]):
            ends = [sign.at for sign in by_step.get((run, before), ()) if sign.what == "end"]
            starts = [sign.at for sign in by_step.get((run, after), ()) if sign.what == "start"]
            again = [sign.at for sign in by_step.get((run, before), ()) if sign.what == "start"]
            if starts and (not ends or min(ends) > min(starts)):
                yield f"disorder: {after} of run {run} began at {min(starts):.2f}, before {before} had ended"
            if starts and again and max(again) > min(starts):
                yield f"disorder: {before} of run {run} began again at {max(again):.2f}, after {after} had begun"


def attempts_out_of_turn(records: Records) -> Violations:
    """Each attempt is played by one process, under one fence, and attempts come in the order of their numbers."""
    for (run, step), signs in _by_step(records).items():
        starts = sorted((sign for sign in signs if sign.what == "start"), key=lambda sign: sign.at)
        for before, after in pairwise(starts):
            if after.attempt <= before.attempt:
                yield (
                    f"out of turn: attempt {after.attempt} (fence {after.fence}) of {step} of run {run} began on "
                    f"{after.host} after attempt {before.attempt} (fence {before.fence}) on {before.host}"
                )


def unplayed_steps(records: Records) -> Violations:
    """A run that succeeded has played all of its steps to their ends."""
    ended = {(sign.run, sign.step) for sign in records.signs if sign.what == "end"}
    for heard in _once(records.heard):
        if heard.kind == "run.finished" and heard.result == "succeeded":
            for step in records.chains[heard.workflow]:
                if (heard.run, step) not in ended:
                    yield f"unplayed: run {heard.run} succeeded, and its step {step} has not been played to its end"


def missing_announcements(records: Records) -> Violations:
    """Of every run its start and its end have been announced, and of a run that succeeded each step."""
    told: dict[str, set[str]] = {sign.run: set() for sign in records.signs}
    results = {heard.run: heard for heard in records.heard if heard.kind == "run.finished"}
    for heard in records.heard:
        told.setdefault(heard.run, set()).add(f"{heard.kind} {heard.step}".strip())
    for run, kinds in sorted(told.items()):
        wanted = {"run.started", "run.finished"}
        if run in results and results[run].result == "succeeded":
            wanted |= {f"step.finished {step}" for step in records.chains[results[run].workflow]}
        for kind in sorted(wanted - kinds):
            yield f"unannounced: {kind} of run {run}"


def announcements_with_two_ids(records: Records) -> Violations:
    """Whatever is announced again comes with the id that it had."""
    ids: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for heard in records.heard:
        ids[heard.run, heard.kind, heard.step].add(heard.id)
    for (run, kind, step), known in sorted(ids.items()):
        if len(known) > 1:
            yield f"two ids: {kind} {step} of run {run} came as {', '.join(sorted(known))}"


def announcements_out_of_order(records: Records) -> Violations:
    """Without repeats, the announcements of a run come in the order of what they announce."""
    of_runs: dict[str, list[Heard]] = defaultdict(list)
    for heard in _once(records.heard):
        of_runs[heard.run].append(heard)
    for run, told in sorted(of_runs.items()):
        places = [_place(records.chains, heard) for heard in told]
        if places != sorted(places):
            yield f"announced in disorder: run {run}: {', '.join(f'{heard.kind} {heard.step}' for heard in told)}"


def _place(chains: Mapping[str, Sequence[str]], heard: Heard) -> int:
    chain = chains[heard.workflow]
    if heard.kind == "step.finished":
        return 1 + chain.index(heard.step)
    return 0 if heard.kind == "run.started" else len(chain) + 1


def _once(heard: Sequence[Heard]) -> list[Heard]:
    """Without repeats, in the order in which they came."""
    first: dict[str, Heard] = {}
    for each in sorted(heard, key=lambda each: each.at):
        first.setdefault(each.id, each)
    return list(first.values())


def _starts(records: Records) -> list[Sign]:
    return [sign for sign in records.signs if sign.what == "start"]


def _runs_by_token(records: Records) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for heard in records.heard:
        found[heard.token].add(heard.run)
    for sign in records.signs:
        if sign.token != "-":  # of a schedule's run, which only its announcements can tell from the others
            found[sign.token].add(sign.run)
    return found


def _by_step(records: Records) -> dict[tuple[str, str], list[Sign]]:
    found: dict[tuple[str, str], list[Sign]] = defaultdict(list)
    for sign in records.signs:
        found[sign.run, sign.step].append(sign)
    return found


def _lives(signs: list[Sign]) -> Iterator[tuple[Sign, Sign]]:
    """The first and the last sign of each process: in between it was certainly alive."""

    def process(sign: Sign) -> tuple[int, str, str]:
        return sign.attempt, sign.host, sign.process

    for _, group in groupby(sorted(signs, key=process), key=process):
        own = sorted(group, key=lambda sign: sign.at)
        yield own[0], own[-1]


CHECKS: tuple[Callable[[Records], Violations], ...] = (
    lost_starts,
    doubled_starts,
    unasked_starts,
    missed_due_times,
    failed_runs,
    overlapping_attempts,
    replayed_steps,
    disordered_steps,
    attempts_out_of_turn,
    unplayed_steps,
    missing_announcements,
    announcements_with_two_ids,
    announcements_out_of_order,
)
