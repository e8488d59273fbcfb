# SPDX-License-Identifier: GPL-3.0-or-later
"""Extra variables as Ansible reads them without ever taking a value for a template, and without a file.

Ansible templates plain values of ``-e @file``: a lookup in a message would run a command. A string wrapped as
``{"__ansible_unsafe": "…"}`` in JSON stays literal on ansible-core 2.18 to 2.21; tagging a whole mapping does
not work on 2.18, so every leaf is wrapped.

The variables may have secrets in them. So Ansible reads them from a named pipe: what goes through it is never on a
disk, so nothing of it is left when worker and play are killed. Ansible reads its extra variables once, before the first
play, and keeps what it has read; the pipe's name is gone by then.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
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
FILE = "variables.json"
"""Name of the pipe in a play's private directory."""
_PAUSE = 0.01


class Handed:
    """Gives the variables to the first process that opens the pipe, and to no other. Raises OSError at first."""

    def __init__(self, private: Path, data: bytes) -> None:
        self._path = private / FILE
        self._data = data
        os.mkfifo(self._path, 0o600)
        self._thread = threading.Thread(target=self._give, name="play-variables", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give up on a reader that has not come, and forget the variables."""
        while self._thread.is_alive():
            with suppress(OSError):
                # Opening a pipe waits for its other end: here it is, so that the thread waits no longer.
                os.close(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK))
            self._thread.join(_PAUSE)

    def _give(self) -> None:
        with suppress(OSError), self._path.open("wb") as pipe:  # a reader may end before it has read all
            self._path.unlink()
            pipe.write(self._data)
        self._data = b""


def encoded(variables: Mapping[str, Json]) -> bytes:
    """The extra variables as Ansible is to read them.

    Raises AttemptFault for names and keys that Ansible reserves.
    """
    for name in variables:
        if not name.isidentifier() or name.startswith(_RESERVED_NAMES):
            raise AttemptFault(
                f"The variable '{name}' cannot be given to Ansible: no identifier, or reserved by Ansible.",
                hint="Rename it in the step's vars.",
            )
    wrapped = {name: marked(value, name) for name, value in variables.items()}
    return json.dumps(wrapped).encode("ascii")


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
