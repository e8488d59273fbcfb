#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: copy a finished compose to the stage directory that mirrors and testers get."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import productmd.compose
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compose_layout import GOOD, Compose, ComposeFault
from ansible.module_utils.compose_module import run

DOCUMENTATION = r"""
module: compose_stage
short_description: Put a finished, labelled compose into a stage directory
description:
  - Links (or copies) C(compose/) of a finished compose to C(STAGE/VERSION_LABEL), such as C(44_RC-1.2), in one rename.
  - A stage of that name that holds another compose is an error, since testers may have used it.
options:
  path: {description: The compose., type: str, required: true}
  stage_dir: {description: The stage directory., type: str, required: true}
author: [The relengq authors]
"""
EXAMPLES = r"""
- compose_stage:
    path: /srv/composes/Fedora-44-20261120.0
    stage_dir: /srv/stage
"""
RETURN = r"""
stage: {description: The staged directory., type: str, returned: success}
"""

OPTIONS = {
    "path": {"type": "str", "required": True},
    "stage_dir": {"type": "str", "required": True},
}


def link_or_copy(origin: str, target: str) -> None:
    """For shutil.copytree: a link costs nothing where both are on one file system."""
    try:
        os.link(origin, target)
    except OSError:
        shutil.copy2(origin, target)


def stage(module: AnsibleModule) -> dict:
    """The module's work."""
    compose = Compose(module.params["path"])
    if compose.status not in GOOD:
        raise ComposeFault(f"{compose.name} is {compose.status or 'without STATUS'}: only a finished compose is staged")
    info = productmd.compose.Compose(str(compose.path)).info
    if not info.compose.label:
        raise ComposeFault(f"{compose.name} has no label, so its stage has no name")
    target = Path(module.params["stage_dir"]) / f"{info.release.version}_{info.compose.label}"
    if target.exists():
        held = productmd.compose.Compose(str(target)).info.compose.id
        if held != str(compose.name):
            raise ComposeFault(f"{target} holds {held}: take a new label")
        return {"changed": False, "stage": str(target)}
    if not module.check_mode:
        hidden = target.with_name(f".{target.name}.{compose.name}")
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(compose.top, hidden, copy_function=link_or_copy)
        hidden.rename(target)
    return {"changed": True, "stage": str(target)}


def main() -> None:
    run(OPTIONS, stage, "The compose cannot be staged")


if __name__ == "__main__":
    main()
