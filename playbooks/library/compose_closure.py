#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: check that each package of a compose can be installed from the compose alone."""

from __future__ import annotations

import json
from pathlib import Path

import createrepo_c as cr
import productmd.compose
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compose_layout import Compose, ComposeFault, write
from ansible.module_utils.compose_module import run
from ansible.module_utils.rpm_dependencies import Universe
from ansible.module_utils.rpm_files import nevra, repository

DOCUMENTATION = r"""
module: compose_closure
short_description: Check that every requirement is answered inside the compose
description:
  - For each architecture in composeinfo.json, all packages of its repositories are one universe. Every requirement
    (versions, files, rich dependencies) has to be provided in it; C(rpmlib()) features are rpm's own.
  - What is not is written to C(logs/ARCH/repoclosure.txt) and C(logs/global/closure.json).
  - Works on Pungi's composes too.
options:
  path: {description: The compose., type: str, required: true}
  policy: {description: What a missing dependency does., type: str, choices: [fail, warn, report], default: fail}
author: [The relengq authors]
"""
EXAMPLES = r"""
- compose_closure:
    path: /srv/composes/Fedora-Rawhide-20261120.n.0
    policy: warn
"""
RETURN = r"""
missing: {description: "Requirements that nothing answers, by architecture.", type: dict, returned: success}
count: {description: How many there are., type: int, returned: success}
"""

OPTIONS = {
    "path": {"type": "str", "required": True},
    "policy": {"type": "str", "choices": ["fail", "warn", "report"], "default": "fail"},
}
SHOWN = 10


def universe(compose: Compose, info: productmd.composeinfo.ComposeInfo, arch: str) -> Universe:
    """All packages that a system of an architecture can install."""
    found: list[cr.Package] = []
    for variant in info.get_variants(arch=arch):
        place = variant.paths.repository.get(arch) or variant.paths.os_tree.get(arch)
        if place:
            found += repository(compose.top / place, files=True)
    return Universe(found)


def unresolved(compose: Compose) -> dict[str, list[dict[str, str]]]:
    """For each architecture the packages with what they lack."""
    info = productmd.compose.Compose(str(compose.path)).info
    arches = sorted({arch for variant in info.get_variants() for arch in variant.arches})
    return {arch: lacks(universe(compose, info, arch)) for arch in arches}


def lacks(packages: Universe) -> list[dict[str, str]]:
    """What nothing answers, in an order that does not depend on the repodata's."""
    found = sorted((nevra(package), text) for package, text in packages.unresolved())
    return [{"package": package, "requires": text} for package, text in found]


def as_text(arch: str, entries: list[dict[str, str]]) -> str:
    if not entries:
        return f"{arch}: every requirement is answered inside the compose\n"
    lines = [f"{arch}: {len(entries)} requirements are not answered inside the compose"]
    return "\n".join([*lines, *(f"  {entry['package']} requires {entry['requires']}" for entry in entries)]) + "\n"


def closure(module: AnsibleModule) -> dict:
    """Check, write the logs, and do what the policy says."""
    try:
        compose = Compose(module.params["path"])
        missing = unresolved(compose)
    except RuntimeError as fault:  # productmd's, for metadata that is not there
        raise ComposeFault(str(fault)) from fault
    changed = False
    for arch, entries in missing.items():
        changed |= write(compose.logs(arch) / "repoclosure.txt", as_text(arch, entries), dry=module.check_mode)
    text = json.dumps(missing, indent=2, sort_keys=True) + "\n"
    changed |= write(compose.logs() / "closure.json", text, dry=module.check_mode)
    report(module, compose.logs(), missing)
    return {"changed": changed, "missing": missing, "count": sum(map(len, missing.values()))}


def report(module: AnsibleModule, logs: Path, missing: dict[str, list[dict[str, str]]]) -> None:
    """Fail or warn, with the first few named."""
    named = [f"{entry['package']} requires {entry['requires']}" for entries in missing.values() for entry in entries]
    if not named or module.params["policy"] == "report":
        return
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    sentence = f"{len(named)} requirements have no answer: {'; '.join(named[:SHOWN])}{more} (all: {logs}/closure.json)"
    if module.params["policy"] == "fail":
        raise ComposeFault(sentence)
    module.warn(sentence)


def main() -> None:
    run(OPTIONS, closure, "The compose is not closed")


if __name__ == "__main__":
    main()
