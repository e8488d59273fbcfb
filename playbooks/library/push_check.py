#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: check that the repositories of a push are whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import createrepo_c as cr
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: push_check
short_description: Check that the repositories of a push are whole
description:
  - Finds each repository below a directory and compares what its repomd.xml names with what is there, by size and
    checksum; and each package that its metadata lists must be there with its size. Nothing is written.
options:
  path: {description: The directory of the push., type: str, required: true}
author: [The relengq authors]
"""
EXAMPLES = r"""
- push_check:
    path: /mnt/koji/compose/updates/f43-updates-testing
"""
RETURN = r"""
repositories: {description: The repositories, relative to the directory., type: list, returned: success}
packages: {description: How many packages they have., type: int, returned: success}
"""

OPTIONS = {"path": {"type": "str", "required": True}}
ALGORITHMS = frozenset({"sha256", "sha384", "sha512", "sha"})
PIECE = 1 << 20
SHOWN = 20


class Fault(Exception):
    """What is wrong with the push; the message says what."""


def digest(path: Path, algorithm: str) -> str:
    found = hashlib.new("sha1" if algorithm == "sha" else algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.hexdigest()


def inside(top: Path, name: str) -> Path | None:
    """The file that a repository names, or None when it is none of the repository's."""
    path = (top / name).resolve()
    return path if path.is_relative_to(top.resolve()) and path.is_file() else None


def metadata_faults(top: Path) -> list[str]:
    """What is wrong with the repodata of the repository."""
    faults = []
    for record in cr.Repomd(str(top / "repodata" / "repomd.xml")).records:
        path = inside(top, record.location_href)
        if path is None:
            faults.append(f"{record.location_href} is not there")
        elif record.checksum_type not in ALGORITHMS or digest(path, record.checksum_type) != record.checksum:
            faults.append(f"{record.location_href} is not what repomd.xml says")
    return faults


def package_faults(top: Path) -> tuple[list[str], int]:
    """What is wrong with the packages of the repository, and how many there are."""
    faults, count = [], 0
    for package in cr.RepositoryReader.from_path(str(top)).iter_packages():
        count += 1
        path = inside(top, package.location_href)
        if path is None:
            faults.append(f"{package.location_href} is not there")
        elif path.stat().st_size != package.size_package:
            faults.append(f"{package.location_href} has {path.stat().st_size} bytes, not {package.size_package}")
    return faults, count


def check(path: Path) -> dict:
    """The module's work."""
    tops = sorted(file.parent.parent for file in path.rglob("repodata/repomd.xml"))
    if not tops:
        raise Fault(f"{path} has no repository")
    faults, packages = [], 0
    for top in tops:
        name = str(top.relative_to(path))
        found = metadata_faults(top)
        if not found:
            found, count = package_faults(top)
            packages += count
        faults += [f"{name}: {fault}" for fault in found]
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise Fault(f"{'; '.join(faults[:SHOWN])}{more}")
    return {"repositories": [str(top.relative_to(path)) for top in tops], "packages": packages}


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    try:
        result = check(Path(module.params["path"]))
    except (Fault, OSError, ValueError, cr.CreaterepoCError) as fault:
        module.fail_json(msg=f"The push is not whole: {fault}")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
