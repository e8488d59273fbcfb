# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server loads before a play is asked for, in parts: the first is needed, the others pay when there is time."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from . import openssl
from .plugins import HASHED, KINDS, Plugins, remember_routing
from .said import said
from .sources import Sources

_MODULES = (
    "ansible.executor.process.worker",
    "ansible.executor.task_executor",
    "ansible.module_utils.connection",
    "ansible.modules",
    "ansible.playbook.handler_task_include",
    "ansible.playbook.included_file",
    "ansible.playbook.role_include",
    "ansible.plugins.doc_fragments",
    "ansible._internal._errors._task_timeout",
    "ansible._internal._json._profiles._inventory_legacy",
    "ansible.cli.scripts.ansible_connection_cli_stub",
    "multiprocessing.popen_fork",
    "multiprocessing.synchronize",
    "multiprocessing.spawn",
    "zipfile",
)
"""What every play imports after the start, besides plugins."""
_REFUSAL = "Ansible prints something while it is loaded, as it would for each play"
_AT_THE_END = "Python is told to say or ask something at its end (by PYTHONWARNINGS, say)"


@dataclass
class Part:
    """One part that has been loaded."""

    name: str
    files: list[str] = field(default_factory=list)
    """What was read besides modules."""
    refusal: str | None = None
    """Why no play may start from what is loaded now."""


def stages(program: str) -> Iterator[Part]:
    """Load Ansible as the program does, and then what plays would load. Never raises."""
    _be(program)
    part = _core()
    yield part
    if part.refusal is not None:
        return
    for name, load in _more():
        try:
            load()
        except Exception as error:
            # It was not needed; but a half of it may be there.
            yield Part(name, refusal=f"{name} of Ansible cannot be loaded ahead: {type(error).__name__}: {error}")
            return
        yield Part(name, refusal=_REFUSAL if said() else None)


def _more() -> Iterator[tuple[str, Callable[[], None]]]:
    """The parts that plays would load."""
    yield "the redirections", remember_routing
    yield "the executor", lambda: _import(_MODULES)
    plugins = Plugins()
    for kind in (*KINDS, *HASHED):
        yield f"the {kind} plugins", partial(plugins.load, kind)
    for batch in Sources(os.path.dirname(sys.modules["ansible"].__file__ or "")).batches():
        yield "the sources of modules", batch


def _import(names: Iterable[str]) -> None:
    """Import what there is: not each version of Ansible and Python has all."""
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)


def _be(program: str) -> None:
    """Have the program's own directory first in the search path, as when Python runs it."""
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(program))
    sys.modules["__main__"].__file__ = program
    sys.argv[:] = [program]


def _core() -> Part:
    part = Part("core")
    try:
        importlib.import_module("ansible.cli.playbook")
    except BaseException as error:
        # Whatever it is, SystemExit above all: the plain command shows it as it should be shown.
        part.refusal = f"Ansible cannot be loaded: {type(error).__name__}: {error}"
        return part
    constants = importlib.import_module("ansible.constants")
    files = [constants.CONFIG_FILE, *_beside("ansible", "config/base.yml", "config/ansible_builtin_runtime.yml")]
    part.files += [*(each for each in files if each), *openssl.configuration()]
    if "ANSIBLE_CONFIG" not in os.environ:
        # Where Ansible looks for its configuration: one that comes to be may be the one that counts.
        part.files += ["ansible.cfg", os.path.expanduser("~/.ansible.cfg"), "/etc/ansible/ansible.cfg"]
    part.refusal = _REFUSAL if said() else _AT_THE_END if _asks_at_the_end() else None
    return part


def _asks_at_the_end() -> bool:
    """Whether Python would warn of files that nobody has closed, or not end: a play does not always end by Python."""
    return bool(sys.flags.inspect) or any(not each.startswith("ignore") for each in sys.warnoptions)


def _beside(package: str, *names: str) -> list[str]:
    """Paths of files in a package that has been imported."""
    file = sys.modules[package].__file__ or ""
    return [os.path.join(os.path.dirname(file), name) for name in names]
