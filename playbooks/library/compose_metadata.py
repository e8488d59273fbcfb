#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: write the metadata of a compose, as Pungi does, and its checksums."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import createrepo_c as cr
import productmd.composeinfo
import productmd.images
import productmd.rpms
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compose_layout import SOURCE, VARIANT, Compose, ComposeFault, write
from ansible.module_utils.compose_module import run
from ansible.module_utils.rpm_files import nevra, repository

DOCUMENTATION = r"""
module: compose_metadata
short_description: Write composeinfo.json, rpms.json, images.json and the checksums of a compose
description:
  - The metadata says what the architectures hold that are ready. One that failed and may fail is left out, and its
    trees are removed; one that failed and may not is an error.
  - Each repository gets a C(CHECKSUM) file (SHA-256, for C(sha256sum -c)), and C(compose/metadata) one.
options:
  path: {description: The compose., type: str, required: true}
  arches: {description: The architectures that were asked for., type: list, elements: str, required: true}
  failable_arches: {description: Those that may fail., type: list, elements: str, default: []}
author: [The relengq authors]
"""
EXAMPLES = r"""
- compose_metadata:
    path: /srv/composes/Fedora-Rawhide-20261120.n.0
    arches: [x86_64, aarch64]
"""
RETURN = r"""
arches: {description: The architectures in the metadata., type: list, elements: str, returned: success}
failed_arches: {description: Those left out., type: list, elements: str, returned: success}
packages: {description: How many packages the compose has., type: int, returned: success}
"""

OPTIONS = {
    "path": {"type": "str", "required": True},
    "arches": {"type": "list", "elements": "str", "required": True},
    "failable_arches": {"type": "list", "elements": "str", "default": []},
}
PATHS = {
    "binary": ("os_tree", "packages", "repository"),
    "debug": ("debug_tree", "debug_packages", "debug_repository"),
    "source": ("source_tree", "source_packages", "source_repository"),
}


def split(compose: Compose, arches: list[str], failable: list[str]) -> tuple[list[str], list[str]]:
    """The architectures that are ready and those that are not; raises ComposeFault when one was needed."""
    ready = [arch for arch in arches if compose.ready(arch)]
    failed = [arch for arch in arches if arch not in ready]
    needed = [arch for arch in failed if arch not in failable]
    if needed:
        reasons = "; ".join(f"{arch}: {reason(compose, arch)}" for arch in needed)
        raise ComposeFault(f"architectures that must not fail did: {reasons}")
    if not ready:
        raise ComposeFault("no architecture is left")
    return ready, failed


def reason(compose: Compose, arch: str) -> str:
    """Why an architecture failed."""
    return "; ".join(why for _arch, why in compose.failures(arch)) or "it has no repodata"


def composeinfo(compose: Compose, ready: list[str]) -> productmd.composeinfo.ComposeInfo:
    """What was begun, with the variant and where its trees are."""
    info = productmd.composeinfo.ComposeInfo()
    info.load(str(compose.work() / "composeinfo-base.json"))
    variant = productmd.composeinfo.Variant(info)
    variant.id = variant.uid = variant.name = VARIANT
    variant.type = "variant"
    variant.arches = set(ready)
    for arch in ready:
        for tree in [*compose.trees(arch), *compose.trees(SOURCE)]:
            if (compose.top / tree.relative / "repodata").is_dir():
                root, packages, repodata = PATHS[tree.category]
                getattr(variant.paths, root)[arch] = str(tree.relative)
                getattr(variant.paths, packages)[arch] = str(tree.relative / "Packages")
                getattr(variant.paths, repodata)[arch] = str(tree.relative)
    info.variants.add(variant)
    return info


def rpms(compose: Compose, info: productmd.composeinfo.ComposeInfo, ready: list[str]) -> productmd.rpms.Rpms:
    """Every package below its source package, for each architecture."""
    manifest = productmd.rpms.Rpms()
    fill_compose(manifest, info)
    sources = {Path(href).name: (package, place) for package, place, href in packages(compose, SOURCE, "source")}
    for arch in ready:
        for tree in compose.trees(arch):
            for package, place, _href in packages(compose, arch, tree.category):
                source = sources.get(package.rpm_sourcerpm)
                parent = nevra(source[0]) if source else assumed_source(package)
                manifest.add(VARIANT, arch, nevra(package), place, None, tree.category, parent)
                if source:
                    manifest.add(VARIANT, arch, parent, source[1], None, "source")
    return manifest


def assumed_source(package: cr.Package) -> str:
    """A source package that is not there: its name without an epoch, so the package's own is taken."""
    name, version, release = package.rpm_sourcerpm.removesuffix(".src.rpm").rsplit("-", 2)
    return f"{name}-{package.epoch or 0}:{version}-{release}.src"


def packages(compose: Compose, arch: str, category: str) -> list[tuple[cr.Package, str, str]]:
    """Each package of a tree with its place below ``compose/`` and within the tree."""
    found = []
    for tree in compose.trees(arch):
        if tree.category == category and (compose.top / tree.relative / "repodata").is_dir():
            for package in repository(compose.top / tree.relative):
                found.append((package, str(tree.relative / package.location_href), package.location_href))
    return found


def fill_compose(
    metadata: productmd.rpms.Rpms | productmd.images.Images, info: productmd.composeinfo.ComposeInfo
) -> None:
    for name in ("id", "type", "date", "respin"):
        setattr(metadata.compose, name, getattr(info.compose, name))


def images(info: productmd.composeinfo.ComposeInfo) -> productmd.images.Images:
    """A native compose has no images, and says so."""
    manifest = productmd.images.Images()
    fill_compose(manifest, info)
    return manifest


def checksums(tree: Path, known: dict[str, str]) -> str:
    """A CHECKSUM file as Fedora writes it; packages have their digest in the repodata already."""
    lines = []
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if path.is_file() and path.name != "CHECKSUM":
            digest = known.get(name) or hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"# {name}: {path.stat().st_size} bytes\nSHA256 ({name}) = {digest}\n")
    return "".join(lines)


def write_metadata(compose: Compose, ready: list[str], save: Callable[[Path, str], None]) -> int:
    """Write all files; returns how many packages there are."""
    info = composeinfo(compose, ready)
    manifest = rpms(compose, info, ready)
    for name, metadata in (("composeinfo", info), ("rpms", manifest), ("images", images(info))):
        save(compose.metadata / f"{name}.json", metadata.dumps())
    for arch in [*ready, SOURCE]:
        for tree in compose.trees(arch):
            place = compose.top / tree.relative
            if (place / "repodata").is_dir():
                known = {package.location_href: package.pkgId for package in repository(place)}
                save(place / "CHECKSUM", checksums(place, known))
    save(compose.metadata / "CHECKSUM", checksums(compose.metadata, {}))
    return sum(len(packages) for arch in manifest.rpms[VARIANT].values() for packages in arch.values())


def metadata(module: AnsibleModule) -> dict:
    """The module's work."""
    options, dry = module.params, module.check_mode
    compose, changes = Compose(options["path"]), []

    def save(path: Path, text: str) -> None:
        if write(path, text, dry=True):
            compose.refuse_change_when_finished()
            write(path, text, dry=dry)
            changes.append(path)

    ready, failed = split(compose, options["arches"], options["failable_arches"])
    for arch in failed:
        leftovers = compose.top / VARIANT / arch
        if leftovers.is_dir():
            changes.append(leftovers)
            if not dry:
                shutil.rmtree(leftovers)
    count = write_metadata(compose, ready, save)
    return {"changed": bool(changes), "arches": ready, "failed_arches": failed, "packages": count}


def main() -> None:
    run(OPTIONS, metadata, "The metadata cannot be written")


if __name__ == "__main__":
    main()
