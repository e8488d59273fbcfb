# SPDX-License-Identifier: GPL-3.0-or-later
"""What changed between two composes, by source package, and how Fedora's mail about it reads."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import createrepo_c as cr
import productmd.common
import productmd.compose
from ansible.module_utils.rpm_files import BrokenRpm, read_rpm
from ansible.module_utils.rpm_versions import Evr

KINDS = ("added", "dropped", "upgraded", "downgraded")


class Build(TypedDict):
    """A source package in a compose: its versions, the names and the size in bytes of what is built from it."""

    name: str
    evr: str
    rpms: list[str]
    size: int
    source: str


class Change(TypedDict, total=False):
    """One entry of the report."""

    name: str
    version: str
    old_version: str
    summary: str
    rpms: list[str]
    size: int
    size_change: int
    changelog: list[str]


class Changes(TypedDict):
    """The report; ``old`` is empty for a first compose."""

    old: str
    new: str
    added: list[Change]
    dropped: list[Change]
    upgraded: list[Change]
    downgraded: list[Change]


def builds(path: Path) -> dict[str, Build]:
    """The source packages of a compose by name, the newest where there are several."""
    manifest = productmd.compose.Compose(str(path)).rpms
    found: dict[str, Build] = {}
    for arches in manifest.rpms.values():
        for sources in arches.values():
            for source, packages in sources.items():
                _add(found, path / "compose", source, packages)
    return found


def _add(found: dict[str, Build], top: Path, source: str, packages: dict[str, dict]) -> None:
    parts = productmd.common.parse_nvra(source)
    build = found.setdefault(parts["name"], Build(name=parts["name"], evr=_evr(parts), rpms=[], size=0, source=""))
    if Evr.parse(build["evr"]).key < Evr.parse(_evr(parts)).key:
        build.update(evr=_evr(parts), rpms=[], size=0, source="")
    elif build["evr"] != _evr(parts):
        return
    for nevra, package in packages.items():
        if package["category"] == "source":
            build["source"] = str(top / package["path"])
        else:
            build["rpms"] = sorted({*build["rpms"], productmd.common.parse_nvra(nevra)["name"]})
            build["size"] += _size(top / package["path"])


def _evr(parts: dict) -> str:
    return str(Evr(str(parts["epoch"] or 0), parts["version"], parts["release"]))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def compare(old_path: Path | None, new_path: Path) -> Changes:
    """The report about two composes."""
    old, new = builds(old_path) if old_path else {}, builds(new_path)
    changes = Changes(
        old=old_path.name if old_path else "", new=new_path.name, added=[], dropped=[], upgraded=[], downgraded=[]
    )
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            changes["added"].append(_change(new[name]))
        elif name not in new:
            changes["dropped"].append(_change(old[name]))
        elif (before := Evr.parse(old[name]["evr"]).key) != (after := Evr.parse(new[name]["evr"]).key):
            changes["upgraded" if before < after else "downgraded"].append(_change(new[name], old[name]))
    return changes


def _change(build: Build, old: Build | None = None) -> Change:
    package = _read(build["source"])
    change = Change(
        name=build["name"],
        version=build["evr"],
        summary=package.summary if package else "",
        rpms=build["rpms"],
        size=build["size"],
    )
    if old:
        change["old_version"] = old["evr"]
        change["size_change"] = build["size"] - old["size"]
        change["changelog"] = _news(package, _read(old["source"]))
    return change


def _read(source: str) -> cr.Package | None:
    try:
        return read_rpm(Path(source)) if source else None
    except BrokenRpm:
        return None


def _news(package: cr.Package | None, old: cr.Package | None) -> list[str]:
    """The changelog entries that the older package lacks, newest first."""
    known = {(date, text) for _who, date, text in old.changelogs} if old else set()
    entries = package.changelogs if package else []
    return [f"{who}\n{text}" for who, date, text in reversed(entries) if (date, text) not in known]


def as_text(changes: Changes) -> str:
    """The report as Fedora mails it."""
    lines = [f"OLD: {changes['old'] or '(none)'}", f"NEW: {changes['new']}", "", "===== SUMMARY ====="]
    lines += [f"{kind.capitalize() + ' packages:':<21}{len(changes[kind])}" for kind in KINDS] + [""]
    for kind in KINDS:
        lines.append(f"{f'Size of {kind} packages:':<30}{human(sum(change['size'] for change in changes[kind]))}")
    lines.append("")
    for kind in KINDS[2:]:
        total = sum(change["size_change"] for change in changes[kind])
        lines.append(f"{f'Size change of {kind} packages:':<36}{human(total)}")
    for kind in KINDS:
        lines += ["", f"===== {kind.upper()} PACKAGES ====="]
        lines += "\n\n".join("\n".join(_entry(change)) for change in changes[kind]).splitlines()
    return "\n".join(lines) + "\n"


def _entry(change: Change) -> list[str]:
    lines = [f"Package:      {change['name']}-{change['version']}"]
    if "old_version" in change:
        lines.append(f"Old package:  {change['name']}-{change['old_version']}")
    lines += [f"Summary:      {change['summary']}", f"RPMs:         {' '.join(change['rpms'])}"]
    lines.append(f"Size:         {human(change['size'])}")
    if "old_version" in change:
        lines.append(f"Size change:  {human(change['size_change'])}")
        lines.append("Changelog:")
        lines += [f"  {line}" for entry in change["changelog"] for line in f"* {entry}".splitlines()]
    return lines


def human(size: int) -> str:
    """Bytes in the unit that a person reads."""
    amount, units = float(abs(size)), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    sign = "-" if size < 0 else ""
    return f"{sign}{amount:.0f} {units[0]}" if units[0] == "B" else f"{sign}{amount:.2f} {units[0]}"
