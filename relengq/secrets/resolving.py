# SPDX-License-Identifier: GPL-3.0-or-later
"""From the names that a step wants to values, by what its worker's pool says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from relengq.errors import SecretFault
from relengq.pools import Pool, SecretSource
from relengq.secrets import finding
from relengq.secrets.finding import CREDENTIALS, Missing, Surroundings
from relengq.secrets.plugins import provided
from relengq.secrets.vault import Vault

_OWN = "RELENGQ_"


def resolve(names: Iterable[str], pool: Pool | None, around: Surroundings) -> dict[str, str]:
    """The values of these secrets. Raises SecretFault at the first that cannot be had."""
    wanted = list(names)
    if not wanted:
        return {}
    if pool is None:
        raise SecretFault(
            f"The secret '{wanted[0]}' cannot be had on this worker: it serves no pool, and pools have the secrets.",
            hint="Start it with 'relengq worker POOL'.",
        )
    finder = _Finder(pool, around)
    found = {}
    for name in wanted:
        try:
            found[name] = finder.find(name)
        except Missing as reason:
            raise SecretFault(
                f"The secret '{name}' of the pool '{pool.name}' cannot be had on this worker: {reason}."
            ) from None
    return found


def examine(pool: Pool, around: Surroundings) -> Iterator[tuple[str, str | None]]:
    """Each of the pool's secrets, and why it cannot be had here, or None when it can. Values stay here."""
    finder = _Finder(pool, around)
    for name in pool.secrets:
        try:
            finder.find(name)
        except Missing as reason:
            yield name, str(reason)
        else:
            yield name, None


def withheld(pools: Iterable[Pool]) -> frozenset[str]:
    """Variables of the worker's environment that are sources of secrets, which plays must not inherit.

    Those of all pools of the site: workers of several pools may have been started in one environment.
    """
    sources = [source for pool in pools for source in pool.secrets.values()]
    names = {source.environment for source in sources if source.environment is not None}
    return frozenset(names | {CREDENTIALS} if any(source.credential for source in sources) else names)


def password_file(pool: Pool, around: Surroundings) -> str | None:
    """Where the pool says that ansible-vault's password is."""
    name = pool.ansible.vault_password_file
    return None if name is None else str(around.path(name))


class _Finder:
    """Finds the secrets of one pool."""

    def __init__(self, pool: Pool, around: Surroundings) -> None:
        self._pool = pool
        self._around = around
        self._vault = Vault(_as_plays_have_it(pool, around), around.site / "playbooks")

    def find(self, name: str) -> str:
        """The secret of this name. Raises Missing."""
        source = self._pool.secrets.get(name)
        if source is None:
            raise Missing(f"workers/{self._pool.name}.yml does not say where it is")
        return self._value(name, source)

    def _value(self, name: str, source: SecretSource) -> str:
        if source.environment is not None:
            return finding.variable(source.environment, self._around.environment)
        if source.vault is not None:
            return self._vault.secret(self._around.path(source.vault), source.key)
        if source.provider is not None:
            return provided(name, source.provider, source.options)
        path = self._around.credential(source.credential) if source.credential else self._around.path(source.file or "")
        return finding.without_newline(finding.sound(finding.read(path)))


def _as_plays_have_it(pool: Pool, around: Surroundings) -> dict[str, str]:
    """The environment in which Ansible finds the settings that plays of the pool have."""
    hidden = around.withheld | withheld([pool])
    kept = {
        name: value for name, value in around.environment.items() if not name.startswith(_OWN) and name not in hidden
    } | pool.environment
    own = around.site / "playbooks" / "ansible.cfg"
    if pool.ansible.config is not None:
        kept["ANSIBLE_CONFIG"] = str(around.site / pool.ansible.config)
    elif "ANSIBLE_CONFIG" not in kept and own.is_file():
        # Ansible looks into the working directory by itself, unless that is writable for everybody.
        kept["ANSIBLE_CONFIG"] = str(own)
    if (password := password_file(pool, around)) is not None:
        kept["ANSIBLE_VAULT_PASSWORD_FILE"] = password
    return kept
