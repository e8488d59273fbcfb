#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: begin a compose."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import productmd.composeinfo
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compose_layout import STARTED, Compose, ComposeName, composes, write
from ansible.module_utils.compose_module import run

DOCUMENTATION = r"""
module: compose_begin
short_description: Begin a compose, or find the one that a run began
description:
  - Makes the directory of a new compose with its COMPOSE_ID, the respin counted up, and STATUS STARTED, as Pungi does.
  - A run that begins twice (a retry) finds the compose that it began.
options:
  target_dir: {description: The directory of all composes., type: str, required: true}
  version: {description: "Release version, C(Rawhide) or a number.", type: str, required: true}
  kind: {description: Type of the compose., type: str, choices: [nightly, production, test], default: nightly}
  label: {description: "Label such as C(RC-1.2).", type: str, default: ''}
  date: {description: "Date as YYYYMMDD; empty is today in UTC.", type: str, default: ''}
  run: {description: Who makes the compose; the same run gets the same compose., type: str, default: ''}
  short: {description: Short name of the release., type: str, default: Fedora}
author: [The relengq authors]
"""
EXAMPLES = r"""
- compose_begin:
    target_dir: /srv/composes
    version: Rawhide
"""
RETURN = r"""
compose_id: {description: The id., type: str, returned: always, sample: Fedora-Rawhide-20261120.n.0}
path: {description: The directory of the compose., type: str, returned: always}
respin: {description: How many composes of that day came before., type: int, returned: always}
"""

OPTIONS = {
    "target_dir": {"type": "str", "required": True},
    "version": {"type": "str", "required": True},
    "kind": {"type": "str", "choices": ["nightly", "production", "test"], "default": "nightly"},
    "label": {"type": "str", "default": ""},
    "date": {"type": "str", "default": ""},
    "run": {"type": "str", "default": ""},
    "short": {"type": "str", "default": "Fedora"},
}


def compose_info(options: dict, date: str, respin: int) -> productmd.composeinfo.ComposeInfo:
    """The compose and its release; raises ValueError when a value is none that productmd takes."""
    info = productmd.composeinfo.ComposeInfo()
    info.release.name = info.release.short = options["short"]
    info.release.version = options["version"]
    info.release.type = "ga"
    info.compose.type = options["kind"]
    info.compose.date, info.compose.respin = date, respin
    if options["label"]:
        info.compose.label = productmd.composeinfo.verify_label(options["label"])
    info.compose.id = info.create_compose_id()
    info.compose.validate()
    info.release.validate()
    return info


def owner(compose: Compose) -> Path:
    """The file that names the run that began a compose."""
    return compose.work() / "run"


def begin(module: AnsibleModule) -> dict:
    """The new or found compose."""
    options, dry = module.params, module.check_mode
    target = Path(options["target_dir"])
    date = options["date"] or datetime.now(UTC).strftime("%Y%m%d")
    info = compose_info(options, date, 0)
    family = ComposeName.parse(info.compose.id).family
    earlier = composes(target, family)
    for compose in earlier if options["run"] else ():
        if owner(compose).is_file() and owner(compose).read_text(encoding="utf-8") == options["run"]:
            return result(compose.name, compose.path, changed=compose.open(dry=dry))
    respin = 1 + max((compose.name.respin for compose in earlier if compose.name.date == date), default=-1)
    if dry:
        info = compose_info(options, date, respin)
        return result(ComposeName.parse(info.compose.id), target / info.compose.id, changed=True)
    target.mkdir(parents=True, exist_ok=True)
    while True:
        info = compose_info(options, date, respin)
        path = target / info.compose.id
        try:
            path.mkdir()
        except FileExistsError:
            respin += 1
            continue
        return fill(path, info, options["run"])


def fill(path: Path, info: productmd.composeinfo.ComposeInfo, begun_by: str) -> dict:
    """COMPOSE_ID comes last: only with it a directory counts as a compose."""
    write(path / "work" / "global" / "composeinfo-base.json", info.dumps())
    write(path / "work" / "global" / "run", begun_by)
    write(path / "STATUS", STARTED + "\n")
    write(path / "COMPOSE_ID", info.compose.id)
    return result(ComposeName.parse(info.compose.id), path, changed=True)


def result(name: ComposeName, path: Path, *, changed: bool) -> dict:
    return {"changed": changed, "compose_id": str(name), "path": str(path), "respin": name.respin}


def main() -> None:
    run(OPTIONS, begin, "The compose cannot begin")


if __name__ == "__main__":
    main()
