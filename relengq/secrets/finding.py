# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in files, in the worker's environment, and among the credentials that systemd hands to a unit."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SECRET_LIMIT = 64 * 1024
"""Bytes of one secret of a pool."""
CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""The variable in which systemd tells a unit where its credentials are."""
_OPEN_TO_OTHERS = 0o027
"""Who is neither the owner nor in the group may do nothing with a secret's file, and the group may not write it."""


class Missing(Exception):
    """Why a secret cannot be had: the end of a sentence, without the value."""


@dataclass(frozen=True)
class Surroundings:
    """Where a worker looks for secrets. Its ``repr`` shows no values."""

    site: Path
    """What relative paths are relative to."""
    environment: Mapping[str, str] = field(repr=False)
    """The environment that the worker was started in."""
    withheld: frozenset[str] = frozenset()
    """Variables of it that are sources of other pools' secrets."""

    def path(self, name: str) -> Path:
        """A path of a pool's file."""
        return self.site / Path(name).expanduser()

    def credential(self, name: str) -> Path:
        """Where systemd has put a credential. Raises Missing when it has handed none to this worker."""
        directory = self.environment.get(CREDENTIALS)
        if not directory:
            raise Missing(f"systemd has handed no credentials to this worker: {CREDENTIALS} is not set")
        return Path(directory) / name


def variable(name: str, environment: Mapping[str, str]) -> str:
    """A secret in a variable. Raises Missing."""
    if name not in environment:
        raise Missing(f"the variable {name} is not in the worker's environment")
    return sound(os.fsencode(environment[name]))


def read(path: Path, limit: int = SECRET_LIMIT) -> bytes:
    """What is in a file, which is a regular one: a pipe would keep a worker waiting. Raises Missing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Missing(f"{path} is no regular file")
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise Missing(f"the file {path} does not exist") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name has a NUL"
        raise Missing(f"the file {path} cannot be read: {reason}") from None
    if len(data) > limit:
        raise Missing(f"it is larger than {limit} bytes")
    return data


def without_newline(text: str) -> str:
    """The text without the one newline that editors and ``echo`` put at the end of a file."""
    return text[:-1].removesuffix("\r") if text.endswith("\n") else text


def sound(data: bytes) -> str:
    """The text of a secret. Raises Missing when it is none that a playbook could use."""
    if len(data) > SECRET_LIMIT:
        raise Missing(f"it is larger than {SECRET_LIMIT} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Missing("it is not UTF-8; encode it in base64, and decode it in the playbook") from None
    if not text.strip():
        raise Missing("it is empty")
    if "\0" in text:
        raise Missing("it has a NUL in it; encode it in base64, and decode it in the playbook")
    return text


def exposed(path: Path) -> bool:
    """Whether others than the file's owner and group may do something with it, or the group may write it."""
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & _OPEN_TO_OTHERS)
    except OSError:
        return False
