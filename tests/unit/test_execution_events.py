# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from relengq.execution import TaskOutcome
from relengq.execution.events import Events
from relengq.execution.masking import Mask


class Kept:
    def __init__(self) -> None:
        self.tasks: dict[int, TaskOutcome] = {}
        self.places: list[tuple[str | None, str | None, str | None]] = []

    def output(self, text: str) -> None:
        raise AssertionError(text)

    def task(self, outcome: TaskOutcome) -> None:
        self.tasks[outcome.number] = outcome

    def progress(self, play: str | None, task: str | None, host: str | None) -> None:
        self.places.append((play, task, host))


def feed(*events: tuple[str, dict[str, object]], hidden: tuple[str, ...] = ()) -> tuple[Events, Kept]:
    kept = Kept()
    made = Events(kept, Mask(hidden))
    for name, data in events:
        made.handle({"event": name, "event_data": data})
    return made, kept


def runner(host: str, task: str, **more: object) -> dict[str, object]:
    return {"host": host, "task": task, "task_uuid": task, "play": "p", "task_action": "command", **more}


FAILED: dict[str, object] = {"res": {"msg": "broken", "changed": True}}


def test_statuses() -> None:
    _, kept = feed(
        ("runner_on_ok", runner("h", "a", res={"changed": False}, duration=0.5, start="2026-01-01T00:00:00+00:00")),
        ("runner_on_ok", runner("h", "b", res={"changed": True}, role="r")),
        ("runner_on_failed", runner("h", "c", ignore_errors=True, **FAILED)),
        ("runner_on_failed", runner("h", "d", **FAILED)),
        ("runner_on_unreachable", runner("h", "e", res={"msg": "no route"})),
        ("runner_on_skipped", runner("h", "g")),
    )
    statuses = [outcome.status for outcome in kept.tasks.values()]
    assert statuses == ["ok", "changed", "ignored", "failed", "unreachable", "skipped"]
    assert kept.tasks[1].duration == 0.5
    assert kept.tasks[1].started is not None
    assert kept.tasks[2].task == "r : b"


def test_the_recap_tells_rescued_failures_from_real_ones() -> None:
    made, kept = feed(
        ("runner_on_failed", runner("h", "first", **FAILED)),
        ("runner_on_failed", runner("h", "second", **FAILED)),
        ("playbook_on_stats", {"rescued": {"h": 1}, "failures": {"h": 1}, "ok": {"h": 3}}),
    )
    assert [kept.tasks[n].status for n in (1, 2)] == ["rescued", "failed"]
    assert made.failure == "h: second: broken"
    assert made.stats["h"]["rescued"] == 1
    assert made.stats["h"]["failed"] == 1


def test_the_recap_tells_hosts_that_were_to_be_ignored_from_lost_ones() -> None:
    made, kept = feed(
        ("runner_on_unreachable", runner("h", "first", res={"msg": "no route"})),
        ("runner_on_unreachable", runner("h", "second", res={"msg": "no route"})),
        ("playbook_on_stats", {"dark": {"h": 1}, "ignored": {"h": 1}}),
    )
    assert [kept.tasks[n].status for n in (1, 2)] == ["ignored", "unreachable"]
    assert made.failure == "h: second: no route"


def test_a_failing_loop_names_its_first_failing_item() -> None:
    made, kept = feed(
        ("runner_item_on_failed", runner("h", "t", res={"msg": "one", "item": "x"})),
        ("runner_item_on_failed", runner("h", "t", res={"msg": "two", "item": "y"})),
        ("runner_on_failed", runner("h", "t", res={})),
        ("runner_on_failed", runner("i", "t", **FAILED)),
    )
    assert (kept.tasks[1].item, kept.tasks[1].message) == ("x", "one")
    assert made.failure == "h: t (item=x): one (and 1 more host)"


def test_outputs_per_host_add_up_as_in_ansible() -> None:
    def stats(host: str, **data: object) -> tuple[str, dict[str, object]]:
        res = {"ansible_stats": {"per_host": True, "aggregate": True, "data": data}}
        return "runner_on_ok", runner(host, "t", res=res)

    made, _ = feed(
        stats("a", n=1, m={"x": 1}, built=["p"]),
        stats("a", n=2, m={"y": 2}, built=["q"]),
        stats("b", n=5),
        ("playbook_on_stats", {"artifact_data": {"whole": 1, "bad": float("nan")}}),
    )
    assert made.outputs == {
        "n": {"a": 3, "b": 5},
        "m": {"a": {"x": 1, "y": 2}},
        "built": {"a": ["p", "q"]},
        "whole": 1,
    }


def test_outputs_have_nothing_that_a_database_refuses() -> None:
    made, _ = feed(("playbook_on_stats", {"artifact_data": {"a\0": ["\ud800", {"k": "s3cret"}]}}), hidden=("s3cret",))
    lost = "\N{REPLACEMENT CHARACTER}"
    assert made.outputs == {f"a{lost}": [lost, {"k": "********"}]}


def test_secrets_are_masked_everywhere() -> None:
    made, kept = feed(
        ("playbook_on_play_start", {"name": "p s3cret"}),
        ("playbook_on_task_start", {"name": "t s3cret"}),
        ("runner_on_start", {"host": "h-s3cret"}),
        ("runner_item_on_failed", runner("h-s3cret", "t s3cret", res={"msg": "m s3cret", "item": "s3cret"})),
        ("runner_on_failed", runner("h-s3cret", "t s3cret", play="s3cret", res={})),
        ("playbook_on_stats", {"failures": {"h-s3cret": 1}}),
        hidden=("s3cret",),
    )
    assert "s3cret" not in repr((kept.tasks, kept.places, made.failure, made.stats, made.place))


def test_a_secret_is_masked_before_a_sentence_leaves_out_its_end() -> None:
    secret = "correct horse battery staple."
    said: dict[str, object] = {"msg": f"login failed with passphrase {secret}", "stderr": "exit 1"}
    unsaid: dict[str, object] = {"msg": "Error executing command.", "exception": "E: nothing\nX: Error: 7", "cmd": "x"}
    made, kept = feed(
        ("runner_on_failed", runner("h", "a", res=said)),
        ("runner_on_unreachable", runner("h", "b", res=said)),
        ("runner_item_on_failed", runner("h", "c", res={**said, "item": 3})),
        ("runner_on_failed", runner("h", "c", res={"msg": "all items"})),
        ("runner_on_failed", runner("h", "d", res=unsaid)),
        hidden=(secret, "X: Error: 7"),
    )
    sentence = "login failed with passphrase ********: exit 1"
    assert [each.message for each in kept.tasks.values()][:3] == [sentence] * 3
    assert kept.tasks[4].message == "Error executing command: ******** (x)"
    assert made.failure == f"h: a: {sentence}"


def test_events_that_are_not_what_they_should_be_do_no_harm() -> None:
    made, kept = feed(
        ("runner_on_ok", {}),
        ("runner_on_failed", {"res": [1], "duration": "x", "start": 7}),
        ("playbook_on_stats", {"ok": 5, "artifact_data": []}),
        ("unheard_of", {"a": 1}),
    )
    made.handle({"uuid": "x"})
    assert len(kept.tasks) == 2
