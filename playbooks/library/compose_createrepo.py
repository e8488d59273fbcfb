#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: make the repodata of one architecture of a compose with createrepo_c."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compose_layout import Compose, ComposeFault
from ansible.module_utils.compose_module import run
from ansible.module_utils.rpm_files import repository

DOCUMENTATION = r"""
module: compose_createrepo
short_description: Make the repodata of an architecture
description:
  - Runs C(createrepo_c) over each repository of the architecture whose repodata does not list exactly the packages
    that are there, by name, size and time.
options:
  path: {description: The compose., type: str, required: true}
  arch: {description: An architecture or C(source)., type: str, required: true}
  workers: {description: Threads that read packages; 0 is one a core., type: int, default: 0}
author: [The relengq authors]
"""
EXAMPLES = r"""
- compose_createrepo:
    path: /srv/composes/Fedora-Rawhide-20261120.n.0
    arch: x86_64
"""
RETURN = r"""
repositories: {description: The repositories of the architecture., type: list, elements: str, returned: success}
made: {description: Those whose repodata was made., type: list, elements: str, returned: success}
"""

OPTIONS = {
    "path": {"type": "str", "required": True},
    "arch": {"type": "str", "required": True},
    "workers": {"type": "int", "default": 0},
}


def listed(tree: Path) -> set[tuple[str, int, int]] | None:
    """What the repodata lists; None when there is none that can be read."""
    try:
        return {(package.location_href, package.size_package, package.time_file) for package in repository(tree)}
    except (OSError, ValueError, RuntimeError, KeyError):
        return None


def present(tree: Path) -> set[tuple[str, int, int]]:
    """What is in the directory."""
    found = ((path, path.stat()) for path in (tree / "Packages").glob("*/*.rpm"))
    return {(str(path.relative_to(tree)), stat.st_size, int(stat.st_mtime)) for path, stat in found}


def make(module: AnsibleModule, tree: Path) -> None:
    """Run createrepo_c, the one beside this Python before any other."""
    program = module.get_bin_path("createrepo_c", required=True, opt_dirs=[str(Path(sys.executable).parent)])
    workers = module.params["workers"] or os.cpu_count() or 1
    command = [program, "--quiet", "--no-database", "--unique-md-filenames", "--checksum=sha256", "--retain-old-md=0"]
    command += ["--general-compress-type=gz", f"--workers={workers}", str(tree)]
    code, output, errors = module.run_command(command)
    if code:
        raise ComposeFault(f"createrepo_c ended with {code}: {(errors or output).strip()[-2000:]}")


def createrepo(module: AnsibleModule) -> dict:
    """Each repository of the architecture that has packages."""
    compose = Compose(module.params["path"])
    trees = [compose.top / tree.relative for tree in compose.trees(module.params["arch"])]
    trees = [tree for tree in trees if present(tree)]
    if not trees:
        raise ComposeFault("it has no packages: gather them first")
    stale = [tree for tree in trees if listed(tree) != present(tree)]
    if stale:
        compose.refuse_change_when_finished()
    reopened = compose.open(dry=module.check_mode)
    for tree in [] if module.check_mode else stale:
        make(module, tree)
    names = [str(tree.relative_to(compose.top)) for tree in trees]
    made = [str(tree.relative_to(compose.top)) for tree in stale]
    return {"changed": bool(made or reopened), "repositories": names, "made": made}


def main() -> None:
    run(OPTIONS, createrepo, "{arch} has no repodata", note="createrepo")


if __name__ == "__main__":
    main()
