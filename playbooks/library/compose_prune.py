#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: remove old composes."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compose_layout import GOOD, STARTED, Compose, composes, latest
from ansible.module_utils.compose_module import run

DOCUMENTATION = r"""
module: compose_prune
short_description: Remove old composes of a release by count
description:
  - Keeps the newest good composes of the same release and type. A compose that failed goes when a newer good one is
    there. The one that the latest link names, one that is STARTED and the given one always stay.
options:
  path: {description: "A compose; those beside it of its release and type are looked at.", type: str, required: true}
  keep: {description: How many good composes to keep., type: int, required: true}
author: [The relengq authors]
"""
EXAMPLES = r"""
- compose_prune:
    path: /srv/composes/Fedora-Rawhide-20261120.n.0
    keep: 14
"""
RETURN = r"""
removed: {description: The ids of the composes that were removed., type: list, elements: str, returned: success}
"""

OPTIONS = {
    "path": {"type": "str", "required": True},
    "keep": {"type": "int", "required": True},
}


def superfluous(compose: Compose, keep: int) -> list[Compose]:
    """What may go."""
    family = composes(compose.path.parent, compose.name.family)
    good = [other for other in family if other.status in GOOD]
    kept = {other.name for other in good[-keep:]} | {compose.name}
    newest = good[-1].name.order if good else ("", 0)
    linked = latest(compose.path.parent, compose.name)
    return [
        other
        for other in family
        if other.name not in kept
        and str(other.name) != linked
        and other.status != STARTED
        and (other.status in GOOD or other.name.order < newest)
    ]


def remove(path: Path) -> None:
    """Take it out of sight first: nobody reads half a compose."""
    hidden = path.with_name(f".pruned-{path.name}")
    path.rename(hidden)
    shutil.rmtree(hidden)


def prune(module: AnsibleModule) -> dict:
    """The module's work."""
    if module.params["keep"] < 1:
        raise ValueError("keep must be at least 1")
    compose = Compose(module.params["path"])
    left = compose.path.parent.glob(f".pruned-{compose.name.short}-{compose.name.version}-*")
    for half in [] if module.check_mode else left:
        shutil.rmtree(half)
    gone = superfluous(compose, module.params["keep"])
    for other in [] if module.check_mode else gone:
        remove(other.path)
    return {"changed": bool(gone), "removed": [str(other.name) for other in gone]}


def main() -> None:
    run(OPTIONS, prune, "Old composes cannot be removed")


if __name__ == "__main__":
    main()
