# SPDX-License-Identifier: GPL-3.0-or-later
"""Every setting, declared once with its default and its meaning.

Settings come from ``relengq.toml`` in the site's directory and from the environment (``RELENGQ_`` and the name in
capitals, which wins). The site is the directory that ``RELENGQ_SITE`` names, else the working directory.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from relengq.durations import Kept
from relengq.errors import Fault, SiteFault, did_you_mean

FILE = "relengq.toml"
POOL_VARIABLE = "RELENGQ_POOL"
"""Environment variable with the name of the pool that a worker serves; ``relengq worker`` sets it."""
_BROKERS = ("redis", "rediss", "redis+socket", "sentinel", "amqp", "amqps", "pyamqp")
_DATABASES = ("sqlite", "postgresql")
_DAY = 86400.0
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
    bus_config: Path | None = Field(
        None,
        description="fedora-messaging's own configuration file: where the message bus is. With it, starts and "
        "ends of runs are announced, and 'relengq up' has a listener. Relative to the site. Empty: no bus.",
    )
    bus_queue: str = Field(
        "relengq",
        min_length=1,
        max_length=255,
        description="Name of the queue that 'relengq listen' makes on the bus when bus_config names none.",
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
    content_remote: str = Field(
        "origin",
        description="Where a worker fetches the commit of a run that its site has not got: a git URL, a path relative "
        "to the site, or the name of a remote of the site's clone.",
    )
    content_path: Path = Field(
        Path(),
        description="Directory of the site in its git repository, for hosts whose site is no clone of it. "
        "Empty: what the clone says, else the top.",
    )
    content_seconds: float = Field(
        300.0, ge=1, description="For how long a worker waits for a commit before the attempt fails."
    )
    content_days: float = Field(
        14.0,
        gt=0,
        description="After how many days without a play a worker removes its copy of a commit, and the cache into "
        "which commits are fetched.",
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
        "when its queue in the broker is empty; ten times later when the queue has fewer tasks than attempts wait.",
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
    process_guard: Literal["namespace", "cgroup", "process"] = Field(
        "namespace",
        description="The strongest means by which a worker may hold the processes of a play together. Each falls back "
        "to the next where the host does not permit it, and 'relengq doctor' says which is in use: a PID namespace, "
        "a control group, or the guard processes alone.",
    )
    max_runs_active: int = Field(
        10_000, ge=1, description="How many runs may be unfinished at once; a start beyond it is refused."
    )
    retention_logs: Kept = Field(
        30 * _DAY,
        description="For how long the output of a run's steps is kept after the run's end. Here and below, "
        "a workflow's own 'retention' goes first, and 0 or empty is for ever.",
    )
    retention_events: Kept = Field(
        90 * _DAY,
        description="For how long it is kept what each Ansible task of a run did on each host, after the run's end.",
    )
    retention_runs: Kept = Field(
        730 * _DAY,
        description="For how long runs are kept after their end, with their inputs, steps, outputs and history.",
    )
    retention_keep: int = Field(
        0,
        ge=0,
        description="How many finished runs of each workflow are kept, however young the others are; those that were "
        "skipped do not count. 0: all.",
    )
    retention_keys: Kept = Field(
        90 * _DAY,
        description="For how long it stays known what has been dealt with: the trigger keys of runs that were pruned, "
        "so that a message that comes again does not start again; the due times of schedules; parked messages that "
        "were replayed or dropped.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="How workers, beat and 'relengq up' write their own log records on standard error."
    )
    health_file: Path | None = Field(
        None,
        description="A file that a worker, a clock or a listener touches every few seconds while its loop runs; one "
        "for each process. When it is older than a minute, the process stands still. Relative to the state directory.",
    )
    flower_port: int = Field(5555, ge=0, le=65535, description="Port of Flower under 'relengq up'; 0: no Flower.")
    flower_address: str = Field("127.0.0.1", description="Address on which Flower listens under 'relengq up'.")
    celery: dict[str, str | int | float | bool] = Field(
        {},
        description="Further settings that are handed to Celery as they are: [celery] worker_max_tasks_per_child = 50.",
    )

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        if name:
            try:
                ZoneInfo(name)
            except (KeyError, ValueError, OSError):
                hint = did_you_mean(name, available_timezones()) or "zones are named like 'Europe/Prague'"
                raise ValueError(f"there is no time zone '{name}' ({hint})") from None
        return name

    @field_validator("content_remote")
    @classmethod
    def _known_remote(cls, remote: str) -> str:
        if not remote or remote.startswith("-") or "::" in remote or not remote.isprintable():
            raise ValueError("it is a URL (https, ssh, git, file), a path, or the name of a git remote")
        return remote

    @field_validator("content_path")
    @classmethod
    def _within_the_repository(cls, path: Path) -> Path:
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("it is a path from the top of the repository")
        return path

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if url and "://" not in url:
            raise ValueError(f"{url!r} is no URL of a database (write postgresql+psycopg://user@host/name)")
        backend = url.partition(":")[0].partition("+")[0]
        if url and backend not in _DATABASES:
            raise ValueError(f"relengq knows {' and '.join(_DATABASES)}, not {backend}")
        return url

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

        Raises SiteFault when the file cannot be read or has something that is not a setting, with all faults.
        """
        root = (site or Path(os.environ.get("RELENGQ_SITE") or ".")).resolve()
        text = _text(root / FILE)
        values = _parsed(text)
        known = set(cls.model_fields) - {"site"}
        faults = [
            Fault(FILE, _line(text, (key,)), 1, f"unknown setting '{key}'", did_you_mean(key, known))
            for key in values
            if key not in known
        ]
        try:
            loaded = cls(**{key: value for key, value in values.items() if key in known})
        except SettingsError as error:
            raise SiteFault(
                f"A setting in the environment cannot be read: {error}.",
                faults,
                hint="Lists and tables are written as JSON there: RELENGQ_ADMINS='[\"alice\"]'.",
            ) from None
        except ValidationError as error:
            faults += _explained(error, text)
        if faults:
            raise SiteFault(
                "; ".join(map(str, faults)), faults, hint=f"See {FILE} in the manual, or 'relengq schema settings'."
            )
        state_dir = root / loaded.state_dir
        return loaded.model_copy(
            update={
                "site": root,
                "state_dir": state_dir,
                "secret_key_file": state_dir / loaded.secret_key_file,
                "health_file": state_dir / loaded.health_file if loaded.health_file else None,
                "bus_config": root / loaded.bus_config if loaded.bus_config and loaded.bus_config.parts else None,
                "database_url": loaded.database_url or f"sqlite:///{state_dir / 'relengq.db'}",
            }
        )

    @property
    def attempts_dir(self) -> Path:
        """Where the plays that run on this host have their private directories."""
        return self.state_dir / "attempts"

    @property
    def content_anywhere(self) -> bool:
        """Whether content can be had without a clone of the site: the remote is named by its address."""
        return "/" in self.content_remote or ":" in self.content_remote

    @property
    def content_dir(self) -> Path:
        """Where this host keeps copies of commits and what it has fetched."""
        return self.state_dir / "content"

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


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        fault = Fault(FILE, line, 1, "the file is not text in UTF-8")
    except OSError as error:
        fault = Fault(FILE, 1, 1, f"the file cannot be read: {error.strerror}")
    raise SiteFault(str(fault), [fault])


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
    # tomllib has had the place in its message alone until Python 3.14.
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", said, re.DOTALL)
    message, line, column = found.groups() if found else (said, "1", "1")
    lines = text.splitlines() or [""]
    place = (int(line), int(column)) if line else (len(lines), len(lines[-1]) + 1)
    fault = Fault(FILE, *place, f"this is not TOML: {message[:1].lower()}{message[1:]}")
    raise SiteFault(str(fault), [fault])


def _line(text: str, place: Sequence[int | str]) -> int:
    """The line on which a key, or a key of a table, stands in a TOML file (tomllib keeps no marks)."""
    name, *below = (part for part in place if isinstance(part, str))
    table, found = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*[\"']?([\w-]+)", line):
            table = header[1]
            found = number if table == name else found
        elif (not table and _begins(line, name)) or (table == name and below and _begins(line, below[0])):
            return number
    return found


def _begins(line: str, key: str) -> bool:
    return bool(re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line))


_WANTED = {
    "string": "a text in quotes",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list in brackets",
    "dict": "a table",
    "path": "a path in quotes",
}
_BOUNDS = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}


def _explained(error: ValidationError, text: str) -> Iterator[Fault]:
    """A fault for each setting that cannot be used; values of several types are told once."""
    told: set[tuple[int | str, ...]] = set()
    for item in error.errors():
        name = str(item["loc"][0])
        place = item["loc"] if name != "celery" else item["loc"][:2]
        if place in told:
            continue
        told.add(place)
        shown = ".".join(str(part) for part in place if isinstance(part, str))
        in_file = name in _parsed(text) and f"RELENGQ_{name.upper()}" not in os.environ
        several = name == "celery" and len(place) > 1
        said = "must be a text, a number, true or false" if several else _sentence(item)
        where = f"setting '{shown}'" if in_file else f"setting '{shown}' (RELENGQ_{name.upper()})"
        yield Fault(FILE, _line(text, place) if in_file else 1, 1, f"{where}: {said}")


def _sentence(item: ErrorDetails) -> str:
    kind, given, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"must be {words} {context[key]:g}, not {given}"
    if kind == "literal_error":
        return f"must be {context['expected']}, not {given!r}"
    wanted = _WANTED.get(kind.partition("_")[0])
    return f"must be {wanted}, not {given!r}" if wanted else item["msg"]
