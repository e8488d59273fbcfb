# SPDX-License-Identifier: GPL-3.0-or-later
"""Every setting, declared once with its default and its meaning.

Settings come from ``relengq.toml`` in the site's directory and from the environment (``RELENGQ_`` and the name in
capitals, which wins). The site is the directory that ``RELENGQ_SITE`` names, else the working directory.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from relengq.errors import Fault, SiteFault, did_you_mean

FILE = "relengq.toml"
POOL_VARIABLE = "RELENGQ_POOL"
"""Environment variable with the name of the pool that a worker serves; ``relengq worker`` sets it."""
_BROKERS = ("redis", "rediss", "redis+socket", "sentinel", "amqp", "amqps", "pyamqp")
_SOCKET_PATH_LIMIT = 100
"""A unix socket's path may have 107 bytes on Linux (unix(7)); a temporary name beside it must fit as well."""


class Settings(BaseSettings):
    """The settings of one installation."""

    model_config = SettingsConfigDict(env_prefix="RELENGQ_", extra="forbid", frozen=True)

    site: Path = Field(Path(), description="The site's directory.")
    state_dir: Path = Field(
        Path(".relengq"),
        description="Where this machine keeps its own files: the embedded database and broker, checked-out content "
        "revisions, private data of running attempts. Relative to the site.",
    )
    database_url: str = Field(
        "",
        description="SQLAlchemy URL of the database, for instance postgresql+psycopg://relengq@db/relengq. "
        "Empty: SQLite in the state directory.",
    )
    broker_url: str = Field(
        "",
        description="Celery's broker, for instance redis://host:6379/0 or amqp://user@host/vhost. "
        "Empty: the embedded server that 'relengq up' starts, on a unix socket in the state directory.",
    )
    secret_key_file: Path = Field(
        Path("secret.key"),
        description="File with the key that encrypts secret inputs in the database; made when missing. "
        "All hosts need the same one. Relative to the state directory.",
    )
    time_zone: str = Field("", description="Time zone in which the command line shows times. Empty: the machine's own.")
    admins: list[str] = Field(["root"], description="Persons and groups who may do everything on every workflow.")
    groups: dict[str, list[str]] = Field(
        {},
        description="Groups and their members, beside the groups of the operating system: "
        '[groups] releng = ["alice", "bob"].',
    )
    lease_seconds: float = Field(
        30.0,
        ge=2,
        description="For how long a worker owns an attempt without renewing it. A dead worker's attempts are found "
        "after this time.",
    )
    resend_seconds: float = Field(
        30.0,
        ge=1,
        description="After how long an attempt that was sent to a broker and that nobody took is sent again, "
        "when its queue in the broker is empty.",
    )
    schedule_grace: float = Field(
        60.0,
        ge=0,
        description="A due time that is late by more than these seconds counts as missed (catch_up).",
    )
    stop_seconds: float = Field(
        30.0,
        ge=0,
        description="For how long a stopping worker lets its steps end before it hands them back as interrupted.",
    )
    max_runs_active: int = Field(
        10_000, ge=1, description="How many runs may be unfinished at once; a start beyond it is refused."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="How workers, beat and 'relengq up' write their own log records on standard error."
    )
    flower_port: int = Field(5555, ge=0, le=65535, description="Port of Flower under 'relengq up'; 0: no Flower.")
    flower_address: str = Field("127.0.0.1", description="Address on which Flower listens under 'relengq up'.")
    celery: dict[str, str | int | float | bool] = Field(
        {},
        description="Further settings that are handed to Celery as they are: [celery] worker_max_tasks_per_child = 50.",
    )

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, url: str) -> str:
        if url and url.partition("://")[0] not in _BROKERS:
            raise ValueError(f"it begins with one of {', '.join(f'{each}://' for each in _BROKERS)}")
        return url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose values come in as the initial ones."""
        return (env_settings, init_settings)

    @classmethod
    def load(cls, site: Path | None = None) -> Settings:
        """The settings of the site in ``site``, else ``$RELENGQ_SITE``, else the working directory.

        Raises SiteFault when the file cannot be read or has something that is not a setting.
        """
        root = (site or Path(os.environ.get("RELENGQ_SITE") or ".")).resolve()
        values = _read(root / FILE)
        try:
            loaded = cls(**values)
        except SettingsError as error:
            raise SiteFault(
                f"A setting in the environment cannot be read: {error}.",
                hint="Lists and tables are written as JSON there: RELENGQ_ADMINS='[\"alice\"]'.",
            ) from None
        except ValidationError as error:
            raise SiteFault(_explain(error), hint=f"See {FILE} in the manual, or 'relengq schema settings'.") from None
        state_dir = root / loaded.state_dir
        return loaded.model_copy(
            update={
                "site": root,
                "state_dir": state_dir,
                "secret_key_file": state_dir / loaded.secret_key_file,
                "database_url": loaded.database_url or f"sqlite:///{state_dir / 'relengq.db'}",
            }
        )

    @property
    def embedded_broker(self) -> bool:
        """Whether the broker is the private server of ``relengq up``."""
        return not self.broker_url

    @property
    def broker_socket(self) -> Path:
        """The unix socket of the embedded broker."""
        path = self.state_dir / "broker.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT:
            return path
        base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")  # noqa: S108 -- the directory made there is private
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return base / f"relengq-{os.getuid()}-{name}" / "broker.sock"

    @property
    def celery_broker_url(self) -> str:
        """The broker's URL as Celery takes it."""
        return self.broker_url or f"redis+socket://{self.broker_socket}"


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SiteFault(f"{path} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise SiteFault(f"{path} is not TOML: {error}.") from None
    known = set(Settings.model_fields) - {"site"}
    faults = [
        Fault(FILE, _line(path, key), 1, f"unknown setting '{key}'", did_you_mean(key, known))
        for key in values
        if key not in known
    ]
    if faults:
        raise SiteFault("; ".join(map(str, faults)), faults)
    return values


def _line(path: Path, key: str) -> int:
    """The line on which a top-level key or table of a TOML file stands (tomllib keeps no marks)."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip("[ \t\"'").startswith(key):
            return number
    return 1


def _explain(error: ValidationError) -> str:
    """One sentence for what pydantic found, with the name that a person would look for."""
    parts = []
    for item in error.errors():
        name = ".".join(map(str, item["loc"]))
        said = item["msg"].removeprefix("Value error, ")
        parts.append(f"setting '{name}' ({FILE}, or RELENGQ_{name.upper()}): {said}")
    return "; ".join(parts) + "."
