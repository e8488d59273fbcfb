#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: gather the packages of one architecture, or the source packages, into a compose."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import createrepo_c as cr
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compose_layout import SOURCE, Compose, ComposeFault
from ansible.module_utils.compose_module import run
from ansible.module_utils.rpm_files import BrokenRpm, check_payload, newest, read_rpm, repository

DOCUMENTATION = r"""
module: compose_gather
short_description: Gather the newest packages of an architecture into a compose
description:
  - Looks through a directory of RPMs, takes the newest build of each name, checks that each file is whole, and links
    (or copies, on another file system) them to C(compose/Everything/ARCH/os/Packages/INITIAL/).
  - For C(source) takes the source packages of all packages that were gathered for I(arches).
options:
  path: {description: The compose., type: str, required: true}
  source: {description: Directory with RPMs at any depth., type: str, required: true}
  arch: {description: An architecture or C(source)., type: str, required: true}
  arches:
    description: For C(source), the architectures whose packages count.
    type: list
    elements: str
    default: []
author: [The relengq authors]
"""
EXAMPLES = r"""
- compose_gather:
    path: /srv/composes/Fedora-Rawhide-20261120.n.0
    source: /srv/rpms
    arch: x86_64
"""
RETURN = r"""
packages: {description: How many packages the architecture has., type: int, returned: success}
added: {description: Names of files that were put in., type: list, elements: str, returned: success}
removed: {description: Names of files that were taken out., type: list, elements: str, returned: success}
size: {description: Bytes of all packages., type: int, returned: success}
missing: {description: "For C(source), those that the directory lacks.", type: list, elements: str, returned: success}
"""

OPTIONS = {
    "path": {"type": "str", "required": True},
    "source": {"type": "str", "required": True},
    "arch": {"type": "str", "required": True},
    "arches": {"type": "list", "elements": "str", "default": []},
}
# Where a package is, and the package: by its name, and by its place in the compose.
Found = dict[str, tuple[Path, cr.Package]]
Chosen = dict[Path, tuple[Path, cr.Package]]
DEBUG = ("-debuginfo", "-debugsource", "-debuginfo-common")


def candidates(source: Path, arches: set[str]) -> Iterator[tuple[Path, cr.Package]]:
    """The RPMs of some architectures by the ends of their names; raises ComposeFault that names all broken ones."""
    broken = []
    for directory, _directories, files in os.walk(source, followlinks=True, onerror=_raise):
        for name in sorted(files):
            stem, _, ending = name.rpartition(".")
            if ending != "rpm" or stem.rpartition(".")[2] not in arches:
                continue
            try:
                yield Path(directory, name), read_for(Path(directory, name), arches)
            except BrokenRpm as fault:
                broken.append(f"{Path(directory, name)}: {fault}")
    if broken:
        raise ComposeFault(f"{len(broken)} of the RPMs are broken: {'; '.join(broken)}")


def read_for(path: Path, arches: set[str]) -> cr.Package:
    """Read an RPM whose file name says that it is for one of some architectures; raises BrokenRpm."""
    package = read_rpm(path)
    if package.arch not in arches:
        raise BrokenRpm(f"its header says that it is for {package.arch}")
    return package


def _raise(fault: OSError) -> None:
    raise fault


def binaries(source: Path, arch: str) -> Found:
    """The newest build of each package of an architecture; raises ComposeFault when there is none."""
    found = newest(candidates(source, {arch, "noarch"}))
    if not any(package.arch == arch for _path, package in found.values()):
        raise ComposeFault(f"{source} has no package for {arch}")
    return found


def sources(compose: Compose, source: Path, arches: list[str]) -> tuple[Found, list[str]]:
    """The source packages of what was gathered, by file name, and the names of those that are missing."""
    ready = [arch for arch in arches if compose.ready(arch)]
    if not ready:
        raise ComposeFault(f"none of {', '.join(arches)} is ready")
    trees = [compose.top / tree.relative for arch in ready for tree in compose.trees(arch)]
    wanted = {package.rpm_sourcerpm for tree in trees if (tree / "repodata").is_dir() for package in repository(tree)}
    found = {path.name: (path, package) for path, package in candidates(source, {"src"}) if path.name in wanted}
    return found, sorted(wanted - set(found))


def destination(compose: Compose, arch: str, path: Path, package: cr.Package) -> Path:
    """Debug packages have a tree of their own."""
    trees = compose.trees(arch)
    tree = trees[-1] if package.name.endswith(DEBUG) and arch != SOURCE else trees[0]
    return compose.top / tree.relative / "Packages" / package.name[0].lower() / path.name


def same(origin: Path, placed: Path) -> bool:
    """Whether a file is in place: linked, or copied with its time."""
    try:
        old, new = origin.stat(), placed.lstat()
    except FileNotFoundError:
        return False
    return (old.st_ino, old.st_dev) == (new.st_ino, new.st_dev) or (old.st_size, old.st_mtime_ns) == (
        new.st_size,
        new.st_mtime_ns,
    )


def place(origin: Path, target: Path) -> None:
    """Link or copy; a reader never sees half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(origin, temporary)
    except OSError:
        shutil.copy2(origin, temporary)
    temporary.replace(target)


def synchronise(compose: Compose, arch: str, wanted: Chosen, dry: bool) -> tuple[list[str], list[str]]:
    """Make the trees of an architecture hold exactly what is wanted, a chosen package for each place.

    Returns the names of the files that were added and removed; raises ComposeFault when a new one is broken.
    """
    trees = [compose.top / tree.relative for tree in compose.trees(arch)]
    removed = sorted({path for tree in trees for path in (tree / "Packages").glob("*/*.rpm")} - set(wanted))
    added = sorted(target for target, (origin, _package) in wanted.items() if not same(origin, target))
    broken = [fault for target in added if (fault := _broken(*wanted[target]))]
    if broken:
        raise ComposeFault(f"{len(broken)} of the RPMs are broken: {'; '.join(broken)}")
    if (added or removed) and not dry:
        compose.refuse_change_when_finished()
        # Repodata of other packages must not pass for this one's when the rest never comes.
        for tree in trees:
            (tree / "repodata" / "repomd.xml").unlink(missing_ok=True)
        for target in added:
            place(wanted[target][0], target)
        for path in removed:
            path.unlink()
    return [path.name for path in added], [path.name for path in removed]


def _broken(path: Path, package: cr.Package) -> str | None:
    try:
        check_payload(path, package)
    except BrokenRpm as fault:
        return f"{path}: {fault}"
    return None


def gather(module: AnsibleModule) -> dict:
    """Everything for one architecture."""
    options, dry = module.params, module.check_mode
    compose, source, arch = Compose(options["path"]), Path(options["source"]), options["arch"]
    missing: list[str] = []
    if arch == SOURCE:
        chosen, missing = sources(compose, source, options["arches"])
        for name in missing:
            module.warn(f"The source package {name} is not in {source}")
    else:
        chosen = binaries(source, arch)
    wanted = {destination(compose, arch, path, package): (path, package) for path, package in chosen.values()}
    added, removed = synchronise(compose, arch, wanted, dry)
    reopened = compose.open(dry=dry)
    size = sum(package.size_package for _path, package in chosen.values())
    return {
        "changed": bool(added or removed or reopened),
        "packages": len(wanted),
        "added": added,
        "removed": removed,
        "size": size,
        "missing": missing,
    }


def main() -> None:
    run(OPTIONS, gather, "{arch} cannot be gathered", note="gather")


if __name__ == "__main__":
    main()
