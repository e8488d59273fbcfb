# SPDX-License-Identifier: GPL-3.0-or-later
"""fedora-messaging's own configuration file: where it is, what it states, and handing it to the library."""

from __future__ import annotations

import os
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedora_messaging import config, exceptions

from relengq.errors import SiteFault

VARIABLE = "FEDORA_MESSAGING_CONF"
DEFAULT = Path("/etc/fedora-messaging/config.toml")
EXCHANGE = "amq.topic"
PREFETCH = 100
"""How many messages the broker hands out ahead when the file does not say: one batch."""
_HINT = "See 'Listen to the bus' in the manual, and fedora-messaging's own on its configuration."


@dataclass(frozen=True)
class Binding:
    """What a file states in one ``[[bindings]]``."""

    queue: str
    exchange: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class BusFile:
    """What a configuration file states. What it leaves out is empty here, whatever the library's default is."""

    path: Path
    queues: Mapping[str, config.QueueConfig]
    bindings: tuple[Binding, ...]
    passive: bool
    """Whether nothing may be declared or bound (``passive_declares``)."""
    prefetch: int | None

    @property
    def exchange(self) -> str:
        """The exchange that messages come from."""
        return self.bindings[0].exchange if self.bindings else EXCHANGE

    def queues_or(self, name: str) -> Mapping[str, config.QueueConfig]:
        """Its queues, or when it states none a durable one: messages wait in it while nobody listens."""
        own: config.QueueConfig = {"durable": True, "auto_delete": False, "exclusive": False, "arguments": {}}
        return self.queues or {name: own}


def find(stated: Path | None) -> Path:
    """The file that is in force: the setting's, else ``$FEDORA_MESSAGING_CONF``'s, else the library's default."""
    return stated or Path(os.environ.get(VARIABLE) or DEFAULT)


def load(path: Path) -> BusFile:
    """Make a file the library's configuration, in this process. Raises SiteFault when it cannot be used."""
    stated = _parsed(path)
    try:
        config.conf.load_config(str(path))
        if isinstance(stated.get("bindings"), dict):
            raise exceptions.ConfigurationException("bindings must be a list: write [[bindings]]")
    except exceptions.ConfigurationException as error:
        raise SiteFault(f"{path}: {error.message}.", hint=_HINT) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise SiteFault(f"{path}: a key has a value of another type than it must have: {error}.", hint=_HINT) from None
    _check_tls(path)
    found = _stated(path, stated)
    prefetch_more(found)
    return found


def _check_tls(path: Path) -> None:
    """Raise SiteFault when the files of ``[tls]`` cannot be used.

    The library reads them when it connects, and what it raises then is meant for nobody who could put it right.
    """
    # The library looks for all three, and does without a certificate when one of its two files is not named.
    tls = config.conf["tls"] = {"ca_cert": None, "certfile": None, "keyfile": None, **config.conf["tls"]}
    if not str(config.conf["amqp_url"]).startswith("amqps"):
        return
    for key, name in tls.items():
        try:
            if name:
                Path(str(name)).read_bytes()
        except OSError as error:
            raise SiteFault(f"{path}: [tls] {key}: {name} cannot be read: {error.strerror}.", hint=_HINT) from None
    if bool(tls["certfile"]) != bool(tls["keyfile"]):
        raise SiteFault(f"{path}: [tls] needs both certfile and keyfile, or neither.", hint=_HINT)
    context = ssl.create_default_context()
    what = "ca_cert is no certificate in PEM"
    try:
        if tls["ca_cert"]:
            context.load_verify_locations(cafile=tls["ca_cert"])
        what = "certfile and keyfile are no PEM, or do not belong together"
        if tls["certfile"] and tls["keyfile"]:
            context.load_cert_chain(tls["certfile"], tls["keyfile"], password=_no_password)
    except ssl.SSLError as error:
        raise SiteFault(f"{path}: [tls] {what}: {error.reason or error}.", hint=_HINT) from None


def _no_password() -> str:
    """Nobody is there to be asked for one, and the library has no setting for it: an encrypted key cannot be used."""
    return ""


def prefetch_more(file: BusFile) -> None:
    """Have the broker hand out a whole batch ahead, unless the file states how many."""
    qos = {"prefetch_size": 0, "prefetch_count": PREFETCH, **config.conf["qos"]}
    config.conf["qos"] = {**qos, "prefetch_count": file.prefetch or PREFETCH}


def in_force(path: Path) -> BusFile:
    """What the library, which has been configured already, has; ``path`` is the file that it was told of."""
    try:
        stated = _parsed(path)
    except SiteFault:
        stated = {}  # the library goes on with its defaults
    stated["bindings"] = config.conf["bindings"]  # the consumer's command line may have changed them
    return _stated(path, stated)


def _parsed(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            return {key.lower(): value for key, value in tomllib.load(file).items()}
    except FileNotFoundError:
        raise SiteFault(
            f"There is no {path}, fedora-messaging's configuration.",
            hint=f"Name it with the setting bus_config, or with ${VARIABLE}.",
        ) from None
    except OSError as error:
        raise SiteFault(f"{path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SiteFault(f"{path}: this is not TOML: {error}.") from None


def _stated(path: Path, stated: Mapping[str, object]) -> BusFile:
    """The parts that matter here; the library has checked their shape."""
    qos, queues, bindings = stated.get("qos"), stated.get("queues"), stated.get("bindings")
    prefetch = qos.get("prefetch_count") if isinstance(qos, dict) else None
    return BusFile(
        path,
        queues if isinstance(queues, dict) else {},
        tuple(
            Binding(str(each.get("queue") or ""), str(each["exchange"]), tuple(map(str, each["routing_keys"])))
            for each in (bindings if isinstance(bindings, list) else [])
        ),
        stated.get("passive_declares") is True,
        prefetch if isinstance(prefetch, int) and prefetch > 0 else None,
    )
