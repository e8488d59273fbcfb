#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: publish a compose."""

from __future__ import annotations

import productmd.compose
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compose_layout import (
    FINISHED,
    FINISHED_INCOMPLETE,
    GOOD,
    Compose,
    ComposeFault,
    ComposeName,
    latest,
    point,
)
from ansible.module_utils.compose_module import run

DOCUMENTATION = r"""
module: compose_publish
short_description: Finish a compose and make the latest link name it
description:
  - Sets STATUS to FINISHED, or FINISHED_INCOMPLETE when an architecture that was asked for is not in composeinfo.json,
    and then points C(latest-SHORT-VERSION) to the compose in one rename.
  - A link that names a newer compose is left alone.
options:
  path: {description: The compose., type: str, required: true}
  arches: {description: The architectures that were asked for., type: list, elements: str, default: []}
  link:
    description: Whether to move the link. Without it, only those who know the compose's name get it.
    type: bool
    default: true
author: [The relengq authors]
"""
EXAMPLES = r"""
- compose_publish:
    path: /srv/composes/Fedora-Rawhide-20261120.n.0
    arches: [x86_64, aarch64]
"""
RETURN = r"""
status: {description: The STATUS of the compose., type: str, returned: success}
latest: {description: The link., type: str, returned: success}
"""

OPTIONS = {
    "path": {"type": "str", "required": True},
    "arches": {"type": "list", "elements": "str", "default": []},
    "link": {"type": "bool", "default": True},
}


def earned(compose: Compose, arches: list[str]) -> str:
    """The status that the compose has by what its metadata holds."""
    try:
        info = productmd.compose.Compose(str(compose.path)).info
    except RuntimeError as fault:
        raise ComposeFault(f"it has no metadata ({fault})") from fault
    held = {arch for variant in info.get_variants() for arch in variant.arches}
    return FINISHED if held >= set(arches) else FINISHED_INCOMPLETE


def publish(module: AnsibleModule) -> dict:
    """STATUS first: who follows the link finds a finished compose."""
    compose = Compose(module.params["path"])
    before = compose.status
    status = before if before in GOOD else earned(compose, module.params["arches"])
    link = compose.path.with_name(compose.name.latest_link)
    named = latest(link.parent, compose.name)
    other = ComposeName.parse(named)
    newer = other is not None and other.family == compose.name.family and other.order > compose.name.order
    move = module.params["link"] and named != str(compose.name)
    if move and newer and (link.parent / named).is_dir():
        module.warn(f"{link.name} names {named}, which is newer than {compose.name}: it is left alone")
        move = False
    if not module.check_mode:
        compose.set_status(status)
        try:
            if move:
                point(link, str(compose.name))
        except OSError:
            compose.set_status(before)
            raise
    return {"changed": move or status != before, "status": status, "latest": str(link)}


def main() -> None:
    run(OPTIONS, publish, "The compose cannot be published")


if __name__ == "__main__":
    main()
