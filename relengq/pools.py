# SPDX-License-Identifier: GPL-3.0-or-later
"""Pool files: ``workers/NAME.yml`` says which queues a worker on some host serves, and how."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

_NAME = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
_QUEUE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
_SIZE = r"^[0-9]{1,15}([KMGT]i?B?)?$"
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SMALLEST = 16 * 1024 * 1024


def _bytes(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and re.match(_SIZE, value):
        number, unit = re.match(r"([0-9]+)(.?)", value).groups()  # type: ignore[union-attr]  # _SIZE has matched
        size = int(number) << _SHIFTS[unit]
    else:
        raise ValueError("a size is written like 512MiB, 4G, or as a number of bytes")
    if size < _SMALLEST:
        raise ValueError(f"{size} bytes are less than Ansible needs to start; write at least 16MiB")
    return size


def _without_duplicates(values: list[str]) -> list[str]:
    if twice := next((value for at, value in enumerate(values) if value in values[:at]), None):
        raise ValueError(f"duplicate '{twice}'")
    return values


Size = Annotated[
    int,
    BeforeValidator(_bytes),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": _SIZE}, {"type": "integer", "minimum": _SMALLEST}],
            "examples": ["4GiB"],
        }
    ),
]
"""A size in bytes."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Limits(_Part):
    """What an attempt may use at most."""

    memory: Size | None = Field(
        None, description="Memory of all processes of an attempt together. Checked, and not enforced yet."
    )


class SecretSource(_Part):
    """Where a worker finds a secret. Exactly one of the keys."""

    file: str | None = Field(None, min_length=1, description="A file that has the secret and nothing else.")
    environment: str | None = Field(None, min_length=1, description="A variable of the worker's environment.")
    credential: str | None = Field(None, min_length=1, description="A credential that systemd hands to the worker.")
    vault: str | None = Field(None, min_length=1, description="A file that ansible-vault has encrypted.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("a secret comes from exactly one of file, environment, credential, vault")
        return self


class Ansible(_Part):
    """How Ansible is run in this pool."""

    config: str | None = Field(None, description="An ansible.cfg instead of the site's own; relative to the site.")
    forks: int | None = Field(None, ge=1, le=1000, description="How many hosts Ansible works on at once.")
    warm: Literal["auto", "off"] = Field(
        "auto",
        description="Whether plays may start from a process that has Ansible loaded. Checked; no effect yet.",
    )


class Pool(_Part):
    """A pool of workers: what they serve, how much at once, and with what."""

    name: Annotated[str, Field(pattern=_NAME)] = Field(
        description="The file's name without .yml; not a key of the file."
    )
    description: str = Field("", max_length=2000, description="What the pool is for, and where it runs.")
    queues: Annotated[
        list[Annotated[str, Field(pattern=_QUEUE)]],
        Field(min_length=1, max_length=100),
        AfterValidator(_without_duplicates),
    ] = Field(description="Queues that its workers serve.")
    concurrency: int = Field(2, ge=1, le=1000, description="How many attempts a worker plays at once.")
    limits: Limits = Field(Limits(), description="Bounds on what an attempt may use.")
    secrets: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")], SecretSource] = Field(
        {}, description="Where to find the secrets that workflows name. Checked, and not handed to plays yet."
    )
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$")], str] = Field(
        {}, description="Variables of the environment in which Ansible runs."
    )
    ansible: Ansible = Field(Ansible(), description="How Ansible is run.")
