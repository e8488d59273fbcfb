#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: close a compose whatever happened, and sum it up."""

from __future__ import annotations

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compose_layout import DOOMED, GOOD, TERMINATED, Compose, latest, write
from ansible.module_utils.compose_module import run

DOCUMENTATION = r"""
module: compose_report
short_description: Sum a compose up, and say that it is DOOMED when it was not published
description:
  - Meant to be played last, whatever happened. A compose that is still STARTED then was not published, so it becomes
    DOOMED, or TERMINATED when the run was cancelled.
options:
  path: {description: "The compose; empty when none was begun.", type: str, required: true}
  result: {description: How the run ended so far; only C(cancelled) matters., type: str, default: ''}
author: [The relengq authors]
"""
EXAMPLES = r"""
- compose_report:
    path: /srv/composes/Fedora-Rawhide-20261120.n.0
"""
RETURN = r"""
status: {description: The STATUS of the compose., type: str, returned: success}
summary: {description: Lines for a person., type: list, elements: str, returned: success}
"""

OPTIONS = {
    "path": {"type": "str", "required": True},
    "result": {"type": "str", "default": ""},
}


def closed(status: str, result: str) -> str:
    """The status that a compose has when nothing works on it any more; Pungi's DOOMED and TERMINATED stay."""
    if status in GOOD or status in (DOOMED, TERMINATED):
        return status
    return TERMINATED if result == "cancelled" else DOOMED


def summary(compose: Compose, status: str) -> list[str]:
    """What a release engineer wants to know first."""
    lines = [f"{compose.name}: {status}", f"path: {compose.path}"]
    named = latest(compose.path.parent, compose.name)
    lines.append(f"{compose.name.latest_link}: {named or 'not there yet'}")
    lines += [f"failed: {why}" for _arch, why in compose.failures()]
    changes = _load(compose.logs() / "changes.json")
    if changes:
        counts = ", ".join(f"{len(changes[kind])} {kind}" for kind in ("added", "dropped", "upgraded", "downgraded"))
        lines.append(f"changes since {changes['old'] or 'nothing (first compose)'}: {counts}")
    missing = sum(map(len, _load(compose.logs() / "closure.json").values()))
    if missing:
        lines.append(f"requirements without an answer: {missing} (logs/global/closure.json)")
    return lines


def _load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def report(module: AnsibleModule) -> dict:
    """The module's work."""
    if not module.params["path"]:
        return {"changed": False, "status": "", "summary": ["no compose was begun"]}
    compose = Compose(module.params["path"])
    status = closed(compose.status, module.params["result"])
    changed = compose.set_status(status, dry=module.check_mode)
    lines = summary(compose, status)
    changed |= write(compose.logs() / "report.txt", "\n".join(lines) + "\n", dry=module.check_mode)
    return {"changed": changed, "status": status, "summary": lines}


def main() -> None:
    run(OPTIONS, report, "The compose cannot be summed up")


if __name__ == "__main__":
    main()
