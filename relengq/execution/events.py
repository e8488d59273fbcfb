# SPDX-License-Identifier: GPL-3.0-or-later
"""From a play's events to task results, per-host statistics and outputs.

Event names and fields are those of ansible_runner's ``awx_display`` callback; ``callback/awx_display.py`` sends those
that are read here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TypeAlias

from relengq.documents import Json
from relengq.execution.masking import Mask
from relengq.execution.messages import failure_message, item_label, shortened
from relengq.execution.order import Sink
from relengq.execution.stats import HostValues, is_json, recap
from relengq.logs import TaskOutcome
from relengq.storable import storable, storable_json

Event: TypeAlias = Mapping[str, object]

_FAILED = ("failed", "unreachable")


class Events:
    """Takes the events of one play, in order, and keeps what its outcome needs."""

    def __init__(self, sink: Sink, mask: Mask) -> None:
        self._sink = sink
        self._mask = mask
        self._play = ""
        self._task: str | None = None
        self._number = 0
        self._items: dict[tuple[str, str], tuple[str | None, str]] = {}
        self._failures: list[TaskOutcome] = []
        self._host_values = HostValues()
        self._matched = False
        self._missed = False
        self._unmasked_outputs: dict[str, Json] = {}
        self.stats: dict[str, dict[str, int]] = {}
        self._handlers: dict[str, Callable[[Event], None]] = {
            "playbook_on_play_start": self._on_play,
            "playbook_on_task_start": self._on_task,
            "playbook_on_no_hosts_matched": self._on_no_hosts,
            "playbook_on_stats": self._on_stats,
            "runner_on_start": self._on_host,
            "runner_item_on_failed": self._on_item_failed,
            "runner_item_on_ok": self._on_values,
            "runner_on_ok": self._on_ok,
            "runner_on_failed": self._on_failed,
            "runner_on_unreachable": self._on_unreachable,
            "runner_on_skipped": self._on_skipped,
        }

    def handle(self, event: Event) -> None:
        """Take an event."""
        handler = self._handlers.get(_text(event.get("event")))
        data = event.get("event_data")
        if handler is not None and isinstance(data, dict):
            handler(data)

    @property
    def outputs(self) -> dict[str, Json]:
        """What the play handed on with ``set_stats``, masked."""
        merged: dict[str, Json] = {**self._host_values.outputs(), **self._unmasked_outputs}
        return {
            storable(self._mask.text(name)): storable_json(self._mask.json(value)) for name, value in merged.items()
        }

    @property
    def failure(self) -> str | None:
        """``HOST: TASK: message`` of the first failure that nothing rescued."""
        if not self._failures:
            return None
        first = self._failures[0]
        item = f" (item={first.item})" if first.item else ""
        others = len({each.host for each in self._failures} - {first.host})
        more = f" (and {others} more {'host' if others == 1 else 'hosts'})" if others else ""
        return shortened(f"{first.host}: {first.task}{item}: {first.message or first.status}{more}")

    @property
    def place(self) -> str:
        """Where the play is, to be added to a sentence: `` in task 'NAME' of play 'NAME'``."""
        if self._task is None:
            return ""
        return f" in task '{self._task}'" + (f" of play '{self._play}'" if self._play else "")

    @property
    def nothing_matched(self) -> bool:
        """Whether the hosts of no play were in the inventory, so that nothing was done."""
        return self._missed and not self._matched

    def _on_play(self, data: Event) -> None:
        self._play, self._task = self._mask.text(_text(data.get("name"))), None
        self._sink.progress(self._play, None, None)

    def _on_task(self, data: Event) -> None:
        self._task = self._mask.text(_text(data.get("name")))
        self._sink.progress(self._play, self._task, None)

    def _on_host(self, data: Event) -> None:
        self._sink.progress(self._play, self._task, self._mask.text(_text(data.get("host"))))

    def _on_no_hosts(self, _data: Event) -> None:
        self._missed = True

    def _on_item_failed(self, data: Event) -> None:
        result = self._masked_result(data)
        found = item_label(result) or None, failure_message(result)
        self._items.setdefault(_task_key(data), found)

    def _on_values(self, data: Event) -> None:
        self._host_values.take(_text(data.get("host")), _mapping(data.get("res")))

    def _on_ok(self, data: Event) -> None:
        result = _mapping(data.get("res"))
        self._on_values(data)
        changed = bool(result.get("changed"))
        self._put(data, "changed" if changed else "ok", changed=changed)

    def _on_failed(self, data: Event) -> None:
        status = "ignored" if data.get("ignore_errors") else "failed"
        item, message = self._items.get(_task_key(data)) or (None, failure_message(self._masked_result(data)))
        self._put(data, status, changed=bool(_mapping(data.get("res")).get("changed")), message=message, item=item)

    def _on_unreachable(self, data: Event) -> None:
        self._put(data, "unreachable", changed=False, message=failure_message(self._masked_result(data)))

    def _on_skipped(self, data: Event) -> None:
        self._put(data, "skipped", changed=False)

    def _masked_result(self, data: Event) -> dict[str, Json]:
        """The result of a task, masked before a sentence is made of it that leaves out some of its characters."""
        return {name: self._mask.json(value) for name, value in _mapping(data.get("res")).items()}

    def _put(
        self, data: Event, status: str, *, changed: bool, message: str | None = None, item: str | None = None
    ) -> None:
        self._matched = True
        self._items.pop(_task_key(data), None)
        self._number += 1
        role, task = _text(data.get("role")), _text(data.get("task"))
        duration = data.get("duration")
        masked = self._mask.text
        outcome = TaskOutcome(
            number=self._number,
            host=masked(_text(data.get("host"))),
            play=masked(_text(data.get("play"))),
            task=masked(f"{role} : {task}" if role else task),
            action=masked(_text(data.get("task_action"))),
            status=status,
            changed=changed,
            duration=float(duration) if isinstance(duration, int | float) else 0.0,
            started=_moment(data.get("start")),
            message=None if message is None else shortened(masked(message)),
            item=None if item is None else shortened(masked(item), 1000),
        )
        if status in _FAILED:
            self._failures.append(outcome)
        self._sink.task(outcome)

    def _on_stats(self, data: Event) -> None:
        self.stats = {storable(self._mask.text(host)): counts for host, counts in recap(data).items()}
        outputs = data.get("artifact_data")
        if isinstance(outputs, dict):
            self._unmasked_outputs = {str(name): value for name, value in outputs.items() if is_json(value)}
        self._settle()

    def _settle(self) -> None:
        """Tell failures that were rescued, or unreachable hosts that were to be ignored, from real ones.

        Only the recap knows, by its counts; a host takes no further part after a real failure, so those that
        were not come first.
        """
        excused: dict[tuple[str, str], int] = {}
        for host, counts in self.stats.items():
            unreachable = sum(each.host == host and each.status == "unreachable" for each in self._failures)
            excused[host, "failed"] = counts["rescued"]
            excused[host, "unreachable"] = unreachable - counts["unreachable"]
        real = []
        for outcome in self._failures:
            kind = outcome.host, outcome.status
            if excused.get(kind, 0) > 0:
                excused[kind] -= 1
                status = "rescued" if outcome.status == "failed" else "ignored"
                self._sink.task(replace(outcome, status=status))
            else:
                real.append(outcome)
        self._failures = real


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _mapping(value: object) -> Mapping[str, Json]:
    """What was read from JSON, if it is a mapping."""
    return value if isinstance(value, dict) else {}


def _task_key(data: Event) -> tuple[str, str]:
    return _text(data.get("host")), _text(data.get("task_uuid"))


def _moment(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
