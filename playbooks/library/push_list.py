#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: write the list of all files of a directory, for mirrors to compare."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compose_layout import write

DOCUMENTATION = r"""
module: push_list
short_description: Write the list of all files of a directory
description:
  - One line for each file, directory and link, sorted by its name, with its time, kind (f, d or l), size and name,
    with tabs between. A name that has control characters is written with escapes.
  - The list is replaced at once. It is left alone when nothing has changed.
options:
  path: {description: The directory., type: str, required: true}
  list: {description: The list; outside of the directory., type: str, required: true}
author: [The relengq authors]
"""
EXAMPLES = r"""
- push_list:
    path: /mnt/koji/compose/updates/f43-updates-testing
    list: /mnt/koji/compose/updates/fullfilelist-f43-updates-testing
"""
RETURN = r"""
files: {description: How many files there are., type: int, returned: success}
bytes: {description: Their size., type: int, returned: success}
"""

OPTIONS = {"path": {"type": "str", "required": True}, "list": {"type": "str", "required": True}}
KINDS = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}


def entries(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below the directory; links are not followed."""
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted([*folders, *files]):
            entry = Path(folder, name)
            yield str(entry.relative_to(path)), entry.lstat()


def plain(name: str) -> str:
    """The name on one line."""
    if name.isprintable():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").encode("unicode_escape").decode()


def listing(path: Path) -> tuple[str, int, int]:
    """The list, how many files there are, and their size."""
    lines, files, size = [], 0, 0
    for name, found in entries(path):
        kind = KINDS.get(stat.S_IFMT(found.st_mode))
        if kind == "f":
            files, size = files + 1, size + found.st_size
        if kind:
            lines.append(f"{int(found.st_mtime)}\t{kind}\t{found.st_size if kind == 'f' else 0}\t{plain(name)}\n")
    return "".join(sorted(lines, key=lambda line: line.split("\t")[3])), files, size


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    # The newest push of each repository is a link to its directory.
    path, target = Path(module.params["path"]).resolve(), Path(module.params["list"])
    try:
        if not path.is_dir():
            module.fail_json(msg=f"The list cannot be written: {path} is no directory")
        if target.resolve().is_relative_to(path):
            module.fail_json(msg=f"The list cannot be written: {target} is in the directory that it lists")
        text, files, size = listing(path)
        changed = write(target, text, dry=module.check_mode)
    except (OSError, ValueError) as fault:
        module.fail_json(msg=f"The list cannot be written: {fault}")
    module.exit_json(changed=changed, files=files, bytes=size)


if __name__ == "__main__":
    main()
