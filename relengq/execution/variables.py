# SPDX-License-Identifier: GPL-3.0-or-later
"""Extra variables as a file that Ansible reads without ever taking a value for a template.

Ansible templates plain values of ``-e @file``: a lookup in a message would run a command. A string wrapped as
``{"__ansible_unsafe": "…"}`` in JSON stays literal on ansible-core 2.18 to 2.21; tagging a whole mapping does
not work on 2.18, so every leaf is wrapped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from relengq.documents import Json
from relengq.errors import AttemptFault

_UNSAFE = "__ansible_unsafe"
_RESERVED_KEYS = "__ansible"
"""Ansible's JSON reader turns mappings with such keys (``__ansible_vault``, ``__ansible_type``) into its own
objects.
"""
_RESERVED_NAMES = "ansible_"
"""Extra variables with such names steer Ansible: ``ansible_ssh_common_args`` runs commands on the controller.
"""
_DEPTH = 100


def write(path: Path, variables: Mapping[str, Json]) -> None:
    """Write the extra variables to a new file that only this user reads.

    Raises AttemptFault for names and keys that Ansible reserves, and OSError.
    """
    for name in variables:
        if not name.isidentifier() or name.startswith(_RESERVED_NAMES):
            raise AttemptFault(
                f"The variable '{name}' cannot be given to Ansible: no identifier, or reserved by Ansible.",
                hint="Rename it in the step's vars.",
            )
    wrapped = {name: marked(value, name) for name, value in variables.items()}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump(wrapped, file)


def marked(value: Json, where: str, depth: int = 0) -> Json:
    """The value with every string in it marked unsafe. ``where`` names the place in a fault."""
    if depth > _DEPTH:
        raise AttemptFault(f"The variable '{where[:100]}' is nested deeper than {_DEPTH} levels.")
    if isinstance(value, str):
        # Half a surrogate pair is no text: Ansible could not write it anywhere.
        return {_UNSAFE: value.encode("utf-8", "replace").decode("utf-8")}
    if isinstance(value, dict):
        for key in value:
            if key.startswith(_RESERVED_KEYS):
                raise AttemptFault(
                    f"The variable '{where[:100]}' has the key '{key[:100]}', which is Ansible's own.",
                    hint="Hand on the values that the playbook needs instead of the whole mapping.",
                )
        return {key: marked(each, f"{where}.{key}", depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [marked(each, f"{where}[{index}]", depth + 1) for index, each in enumerate(value)]
    return value
