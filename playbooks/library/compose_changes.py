#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: report what changed since the compose before."""

from __future__ import annotations

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compose_changes import KINDS, as_text, compare
from ansible.module_utils.compose_layout import GOOD, Compose, ComposeFault, composes, write
from ansible.module_utils.compose_module import run

DOCUMENTATION = r"""
module: compose_changes
short_description: Report added, dropped, upgraded and downgraded packages
description:
  - Compares rpms.json with that of an older compose, by source package, and writes C(logs/global/changes.txt) and
    C(logs/global/changes.json).
options:
  path: {description: The compose., type: str, required: true}
  old_composes: {description: Directory with older composes; empty is the compose's own., type: str, default: ''}
  previous:
    description: The compose to compare with; empty is the newest good one of the same release before this.
    type: str
    default: ''
author: [The relengq authors]
"""
EXAMPLES = r"""
- compose_changes:
    path: /srv/composes/Fedora-Rawhide-20261120.n.0
"""
RETURN = r"""
previous: {description: The compose that was compared with; empty for a first one., type: str, returned: success}
counts: {description: "How many packages were added, dropped, upgraded, downgraded.", type: dict, returned: success}
report: {description: The file with the report as text., type: str, returned: success}
"""

OPTIONS = {
    "path": {"type": "str", "required": True},
    "old_composes": {"type": "str", "default": ""},
    "previous": {"type": "str", "default": ""},
}


def before(compose: Compose, directory: Path, named: str) -> Path | None:
    """The compose to compare with."""
    if named:
        return Compose(directory / named).path
    older = [
        other.path
        for other in composes(directory, compose.name.family)
        if other.name.order < compose.name.order and other.status in GOOD
    ]
    return older[-1] if older else None


def changes(module: AnsibleModule) -> dict:
    """Compare and write the report."""
    try:
        compose = Compose(module.params["path"])
        directory = Path(module.params["old_composes"] or compose.path.parent)
        old = before(compose, directory, module.params["previous"])
        found = compare(old, compose.path)
    except RuntimeError as fault:  # productmd's, for metadata that is not there
        raise ComposeFault(str(fault)) from fault
    report = compose.logs() / "changes.txt"
    changed = write(report, as_text(found), dry=module.check_mode)
    text = json.dumps(found, indent=2, sort_keys=True) + "\n"
    changed |= write(compose.logs() / "changes.json", text, dry=module.check_mode)
    counts = {kind: len(found[kind]) for kind in KINDS}
    return {"changed": changed, "previous": found["old"], "counts": counts, "report": str(report)}


def main() -> None:
    run(OPTIONS, changes, "The change report cannot be written")


if __name__ == "__main__":
    main()
