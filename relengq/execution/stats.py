# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's recap by host, and the values of ``set_stats`` with ``per_host``, which ansible-runner leaves
out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from relengq.documents import Json

_RECAP = {
    "ok": "ok",
    "changed": "changed",
    "dark": "unreachable",
    "failures": "failed",
    "skipped": "skipped",
    "rescued": "rescued",
    "ignored": "ignored",
}
"""ansible-runner's names of the counters, and those of the recap that people know."""


def recap(event_data: Mapping[str, object]) -> dict[str, dict[str, int]]:
    """Each host's counters, from the data of ``playbook_on_stats``."""
    hosts: dict[str, dict[str, int]] = {}
    for source, name in _RECAP.items():
        counted = event_data.get(source)
        for host, count in counted.items() if isinstance(counted, dict) else ():
            counters = hosts.setdefault(str(host), dict.fromkeys(_RECAP.values(), 0))
            counters[name] = int(count) if isinstance(count, int) else 0
    return hosts


def is_json(value: object) -> TypeGuard[Json]:
    """Whether a value read from JSON is what it seems: finite numbers only, which databases insist on."""
    if isinstance(value, dict):
        return all(is_json(each) for each in value.values())
    if isinstance(value, list):
        return all(is_json(each) for each in value)
    # NaN and the infinities, which Python's reader lets pass, differ from themselves or have no end.
    return not isinstance(value, float) or value - value == 0.0


class HostValues:
    """What ``set_stats`` with ``per_host: true`` gave, gathered from the tasks' own results.

    Values add up as Ansible's AggregateStats does it: mappings are merged, other values of one type are
    added.
    """

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Json]] = {}

    def take(self, host: str, result: Mapping[str, object]) -> None:
        """Look at a task's result on a host."""
        stats = result.get("ansible_stats")
        if not isinstance(stats, dict) or not stats.get("per_host"):
            return
        data = stats.get("data")
        for name, value in data.items() if isinstance(data, dict) else ():
            if is_json(value):
                hosts = self._values.setdefault(str(name), {})
                hosts[host] = _added(hosts.get(host), value) if stats.get("aggregate") else value

    def outputs(self) -> dict[str, Json]:
        """For each name, the hosts and their values."""
        return {name: dict(hosts) for name, hosts in self._values.items()}


def _added(before: Json, value: Json) -> Json:
    if before is None or type(before) is not type(value):
        return value if before is None else before
    if isinstance(before, dict) and isinstance(value, dict):
        return before | value
    if isinstance(before, list) and isinstance(value, list):
        return before + value
    if isinstance(before, str) and isinstance(value, str):
        return before + value
    if isinstance(before, int | float) and isinstance(value, int | float):
        return before + value
    return value
