# SPDX-License-Identifier: GPL-3.0-or-later
"""What the site's ansible.cfg says, where ansible-runner's own environment variables would hide it.

ansible-runner sets ``ANSIBLE_STDOUT_CALLBACK`` and ``ANSIBLE_CALLBACK_PLUGINS`` for its own callback;
environment variables win over ansible.cfg, so what stands there is carried over into the environment first. The
directory of relengq's callback comes before all others.
Ansible itself takes a missing inventory for an empty one and succeeds; here it is a fault.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from relengq.errors import AttemptFault
from relengq.execution.pipe import CALLBACKS

_HOME_DEFAULT = "~/.ansible"
"""Ansible's ANSIBLE_HOME."""
_PLUGIN_DEFAULT = "{home}/plugins/callback:/usr/share/ansible/plugins/callback"
"""Ansible's DEFAULT_CALLBACK_PLUGIN_PATH."""
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)
_UNPARSED_FAILED = "ANSIBLE_INVENTORY_UNPARSED_FAILED"
_LOCALHOST = 'localhost ansible_connection=local ansible_python_interpreter="{{ ansible_playbook_python }}"\n'


@dataclass(frozen=True)
class AnsibleConfiguration:
    """The ansible.cfg that holds for plays in a project, and the values that relengq needs of it."""

    path: Path | None
    defaults: Mapping[str, str] = field(default_factory=dict)
    inventory: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def find(cls, playbooks: Path, environment: Mapping[str, str]) -> AnsibleConfiguration:
        """Look where Ansible looks: what the environment names wins over the project's own file.

        Raises AttemptFault when a file is named that is not there, or that is not in INI format.
        """
        named = environment.get("ANSIBLE_CONFIG")
        if named:
            path = _resolved(named, playbooks, environment)
            if _is(path.is_dir):
                path /= "ansible.cfg"
            if not _is(path.is_file):
                raise AttemptFault(f"The Ansible configuration {path} does not exist on this worker.")
            return cls._read(path)
        home = Path(environment.get("HOME") or Path.home(), ".ansible.cfg")
        for path in (playbooks / "ansible.cfg", home, Path("/etc/ansible/ansible.cfg")):
            if _is(path.is_file):
                return cls._read(path)
        return cls(None)

    @classmethod
    def _read(cls, path: Path) -> AnsibleConfiguration:
        parser = configparser.RawConfigParser(inline_comment_prefixes=(";",), strict=False)
        try:
            parser.read_string(path.read_text("utf-8"), source=str(path))
        except (configparser.Error, ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            raise AttemptFault(f"The Ansible configuration {path} cannot be read: {reason}.") from None
        defaults, inventory = (
            dict(parser[name]) if parser.has_section(name) else {} for name in ("defaults", "inventory")
        )
        return cls(path, defaults, inventory)

    def callbacks(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment variables that keep the site's callbacks working under ansible-runner."""
        kept = {}
        plugins = environment.get("ANSIBLE_CALLBACK_PLUGINS")
        if plugins is None:
            listed = self.defaults.get("callback_plugins") or _PLUGIN_DEFAULT.format(home=self._home(environment))
            base = self.path.parent if self.path else Path.cwd()
            plugins = ":".join(str(_resolved(each, base, environment)) for each in listed.split(":") if each.strip())
        kept["ANSIBLE_CALLBACK_PLUGINS"] = f"{CALLBACKS}:{plugins}" if plugins else str(CALLBACKS)
        if "ANSIBLE_STDOUT_CALLBACK" not in environment and self.defaults.get("stdout_callback"):
            kept["ANSIBLE_STDOUT_CALLBACK"] = _unquoted(self.defaults["stdout_callback"])
        if "unparsed_is_failed" not in self.inventory:
            # An inventory that cannot be read is no empty inventory.
            kept[_UNPARSED_FAILED] = environment.get(_UNPARSED_FAILED, "True")
        return kept

    def _home(self, environment: Mapping[str, str]) -> str:
        """Where Ansible keeps things, and looks for plugins first."""
        return environment.get("ANSIBLE_HOME") or _unquoted(self.defaults.get("home", "")) or _HOME_DEFAULT

    def forks(self, environment: Mapping[str, str], wanted: int | None) -> dict[str, str]:
        """The environment variable that sets the forks, where nobody else does."""
        if wanted is None or "ANSIBLE_FORKS" in environment or "forks" in self.defaults:
            return {}
        return {"ANSIBLE_FORKS": str(wanted)}

    def inventory_arguments(
        self, wanted: str | None, playbooks: Path, private: Path, environment: Mapping[str, str]
    ) -> list[str]:
        """The ``-i`` that the play needs: none when Ansible finds the inventory of its configuration by
        itself.

        Raises AttemptFault when an inventory is named that does not exist.
        """
        if wanted is not None:
            _check_inventory(wanted, playbooks, environment)
            return [f"--inventory={wanted}"]
        if "ANSIBLE_INVENTORY" in environment:
            _check_inventories(environment["ANSIBLE_INVENTORY"], playbooks, environment)
            return []
        if self.path is not None and self.defaults.get("inventory"):
            _check_inventories(self.defaults["inventory"], self.path.parent, environment)
            return []
        if (playbooks / "inventory").exists():
            return ["--inventory=inventory"]
        local = private / "inventory"
        local.write_text(_LOCALHOST, "utf-8")
        return [f"--inventory={local}"]


def _check_inventories(listed: str, base: Path, environment: Mapping[str, str]) -> None:
    """Check a list of paths as ansible.cfg has it: with commas, unless the commas make it a list of hosts."""
    names = [each.strip() for each in listed.split(",") if each.strip()]
    paths = [_resolved(each, base, environment) for each in names]
    if listed.rstrip().endswith(",") or (len(names) > 1 and not any(_is(path.exists) for path in paths)):
        return
    for name in names:
        _check_inventory(name, base, environment)


def _check_inventory(name: str, base: Path, environment: Mapping[str, str]) -> None:
    if "," not in name and not _is(_resolved(name, base, environment).exists):
        raise AttemptFault(f"The inventory '{name}' does not exist in {base} on this worker.")


def _is(question: Callable[[], bool]) -> bool:
    """The answer, which is no for what may not be looked into (below a hidden /home, say), as it is for Ansible."""
    try:
        return question()
    except OSError:
        return False


def _resolved(name: str, base: Path, environment: Mapping[str, str]) -> Path:
    """A path as Ansible reads it in the play's environment: relative to the file that names it."""
    text = name.strip().replace("{{CWD}}", str(base)).replace("{{ CWD }}", str(base))
    text = _VARIABLE.sub(lambda found: environment.get(found[1] or found[2], found[0]), text)
    if "HOME" in environment and (text == "~" or text.startswith("~/")):
        text = environment["HOME"] + text[1:]
    return base / Path(text).expanduser()


def _unquoted(value: str) -> str:
    """A word of ansible.cfg without the quotes that Ansible takes away there, and not in the environment."""
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value
