# SPDX-License-Identifier: GPL-3.0-or-later
"""Pool files: ``workers/NAME.yml`` says which queues a worker on some host serves, and how."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from relengq import queues
from relengq.documents import Json

_NAME = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
_SIZE = r"^[0-9]{1,15}([KMGT]i?B?)?$"
_SECRET_NAME = re.compile(r"(?i)(^|_)(PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|PRIVATE_?KEY|CREDENTIALS?)$")
_SECRET_VALUE = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY|\$ANSIBLE_VAULT;|://[^/\s:@]*:[^/\s@]+@")
_OURS = re.compile(r"RELENGQ_|(AD_HOC_COMMAND_ID|AWX_LIB_DIRECTORY)$")
"""Variables that relengq keeps from a play, or sets itself: ansible-runner's callback reads them."""
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_WHOLE = (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("bytes", 0))
_SMALLEST = 16 * 1024 * 1024
_ALL_FORKS = 20
"""What the attempts of a worker share, where nobody says otherwise."""
_LEAST_FORKS = 5
"""Ansible's own default."""
SOURCES = ("file", "environment", "credential", "vault", "provider")
"""The keys that say what kind of source a secret has."""


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


def human_size(size: int) -> str:
    """A size as people write it, and no less exact: 4 GiB, 1536 MiB."""
    unit, shift = next((each, shift) for each, shift in _WHOLE if not size % (1 << shift))
    return f"{size >> shift} {unit}"


def _without_duplicates(values: list[str]) -> list[str]:
    if twice := next((value for at, value in enumerate(values) if value in values[:at]), None):
        raise ValueError(f"duplicate '{twice}'")
    return values


def _no_secret(name: str, value: str) -> str | None:
    """Why a variable may not stand in a pool's file, or None."""
    if _OURS.match(name):
        return f"{name} is not for pools to set: relengq sees to it"
    if "\0" in value:
        return f"the value of {name} has a NUL character, which no environment can have"
    if _SECRET_NAME.search(name) or _SECRET_VALUE.search(value):
        return f"{name} looks like a secret, and this file is no place for one: name it under 'secrets'"
    return None


_QueueName = Annotated[
    str, AfterValidator(queues.checked), WithJsonSchema({"type": "string", "pattern": queues.PATTERN})
]
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
        None,
        description="Memory of all processes of an attempt together. An attempt that uses more is killed, and counts "
        "as a failure.",
    )


class SecretSource(_Part):
    """Where a worker finds a secret. Exactly one of file, environment, credential, vault and provider."""

    file: str | None = Field(
        None,
        min_length=1,
        description="A file that has the secret and nothing else; relative to the site. One newline at its end is "
        "left out.",
    )
    environment: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$",
        description="A variable of the worker's environment. Plays do not inherit it, unless the pool's "
        "``environment`` sets it.",
    )
    credential: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.@:-]{1,255}$",
        description="A credential that systemd hands to the worker's unit (``LoadCredential=``).",
    )
    vault: str | None = Field(
        None,
        min_length=1,
        description="A file that ansible-vault has encrypted as a whole; relative to the site. Ansible's own settings "
        "say where the password is.",
    )
    key: str | None = Field(
        None,
        min_length=1,
        description="With ``vault``: the file is a mapping in YAML, and the secret is the text under this key. "
        "Without it, the secret is the whole file.",
    )
    provider: str | None = Field(
        None,
        min_length=1,
        description="An installed provider: the name of an entry point of the group ``relengq.secret_providers``.",
    )
    options: dict[str, Json] = Field({}, description="With ``provider``: what it is to be given.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set & set(SOURCES)) != 1:
            raise ValueError(f"a secret comes from exactly one of {', '.join(SOURCES)}")
        for key, source in (("key", self.vault), ("options", self.provider)):
            if key in self.model_fields_set and source is None:
                raise ValueError(f"'{key}' goes with '{'vault' if key == 'key' else 'provider'}' only")
        return self


class Ansible(_Part):
    """How Ansible is run in this pool."""

    config: str | None = Field(
        None,
        min_length=1,
        description="An ansible.cfg instead of the site's own: a path in the site, as the run's revision has it, or an "
        "absolute path on the worker's host.",
    )
    vault_password_file: str | None = Field(
        None,
        min_length=1,
        description="The file with ansible-vault's password, or a program that prints it, for plays and for secrets "
        "from ``vault``; relative to the site. Default: what Ansible's own variables and ansible.cfg say.",
    )
    forks: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="How many hosts Ansible works on at once. Default: what the environment or ansible.cfg says, else "
        "20 for all attempts of a worker together, and at least 5 for each.",
    )
    warm: Literal["auto", "off"] = Field(
        "auto",
        description="``auto``: plays start from a process that has Ansible loaded, or by the plain command where that "
        "would not be the same; ``off``: always by the plain command.",
    )

    @field_validator("config")
    @classmethod
    def _within_the_site(cls, config: str | None) -> str | None:
        if config and (".." in config.split("/") or config.startswith("~") or "\0" in config):
            raise ValueError("a path in the site has no '..' and no '~'; an absolute path is one on the worker's host")
        return config


class Pool(_Part):
    """A pool of workers: what they serve, how much at once, and with what."""

    name: Annotated[str, Field(pattern=_NAME)] = Field(
        description="The file's name without .yml; not a key of the file."
    )
    description: str = Field("", max_length=2000, description="What the pool is for, and where it runs.")
    queues: Annotated[
        list[_QueueName],
        Field(min_length=1, max_length=100),
        AfterValidator(_without_duplicates),
    ] = Field(description="Queues that its workers serve.")
    concurrency: int = Field(2, ge=1, le=1000, description="How many attempts a worker plays at once.")
    limits: Limits = Field(Limits(), description="Bounds on what an attempt may use.")
    secrets: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")], SecretSource] = Field(
        {}, description="Where its workers find the secrets that workflows name."
    )
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$")], str] = Field(
        {}, description="Variables of the environment in which Ansible runs. No secrets."
    )
    ansible: Ansible = Field(Ansible(), description="How Ansible is run.")

    @property
    def usual_forks(self) -> int:
        """On how many hosts an attempt works at once where nobody says so: the more, the fewer attempts there are."""
        return max(_LEAST_FORKS, _ALL_FORKS // self.concurrency)

    @field_validator("environment")
    @classmethod
    def _without_secrets(cls, variables: dict[str, str]) -> dict[str, str]:
        reasons = [reason for name, value in variables.items() if (reason := _no_secret(name, value))]
        if reasons:
            raise ValueError("; ".join(reasons))
        return variables

    @model_validator(mode="after")
    def _one_configuration(self) -> Self:
        given = {"config": "ANSIBLE_CONFIG", "forks": "ANSIBLE_FORKS"}
        for key, variable in given.items():
            if getattr(self.ansible, key) is not None and variable in self.environment:
                raise ValueError(f"ansible.{key} and {variable} in the environment say the same twice")
        return self
