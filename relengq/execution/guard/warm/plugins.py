# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugins that come with ansible-core, loaded ahead without a trace of it: no play finds another one for that.

Ansible finds a plugin by name among the site's and its own, then loads the file, unless a module of that name has been
loaded, then reads the options from its documentation. Only the last two are anticipated here: where a site has a plugin
of the same name, it takes the loaded one's place.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType
from typing import Protocol

from .said import said, unsay

KINDS = ("callback", "connection", "shell", "strategy", "vars", "inventory", "cache", "become", "action", "lookup")
"""Kinds whose module names are their files' names, in the order in which they pay."""
HASHED = ("filter", "test")
"""Kinds whose module names have a hash of the path in them."""
_DERIVED = {"strategy": frozenset({"debug", "host_pinned"})}
"""Plugins that are built on another of their kind: on a site's, where a play has loaded that before."""
_FRAGMENTS = "ansible.plugins.doc_fragments."
_BUILTIN = "ansible_collections.ansible.builtin"

Options = dict[str, dict[str, object]]


class Loader(Protocol):
    """What is used of ansible.plugins.loader.PluginLoader."""

    class_name: str
    package: str

    def _load_config_defs(self, name: str, module: ModuleType, path: str) -> None: ...

    def _load_module_source(self, *words: str, **named: str) -> ModuleType: ...

    def _clear_caches(self) -> None: ...


class Plugins:
    """What has been loaded ahead."""

    def __init__(self) -> None:
        self._loaders = importlib.import_module("ansible.plugins.loader")
        self._config = importlib.import_module("ansible.constants").config
        self._modules: dict[str, ModuleType] = {}
        self._options: dict[str, Options] = {}
        self._patch(self._loaders.PluginLoader)

    def load(self, kind: str) -> None:
        """Load all of a kind. One that cannot be loaded is left to the plays, whose affair that is."""
        loader: Loader = getattr(self._loaders, f"{kind}_loader")
        for base, path in self._files(kind):
            before = set(sys.modules)
            with suppress(Exception):
                name = f"{loader.package}.{base}" if kind in KINDS else self._hashed(loader, base, path)
                module = self._module(loader, name, path)
                if name not in before:  # else the plain command begins with it as well
                    self._modules[name] = module
                self._read_options(loader, kind, base, path, module)
            new = sys.modules.keys() - before
            if said():
                # Plays that use it are to print that themselves, or have the library print it that it uses.
                unsay()
                self._options.pop(path, None)
                _refuse_native(new)
            else:
                # A site may have a fragment of the same name.
                new = {each for each in new if each.startswith(_FRAGMENTS)}
            self._unload(new)
        self._forget()

    def _files(self, kind: str) -> Iterator[tuple[str, str]]:
        package = importlib.import_module(f"ansible.plugins.{kind}")
        directory = os.path.dirname(package.__file__ or "")
        for name in sorted(os.listdir(directory)):
            base, suffix = os.path.splitext(name)
            if suffix == ".py" and base != "__init__" and base not in _DERIVED.get(kind, ()):
                yield base, os.path.join(directory, name)

    def _hashed(self, loader: Loader, base: str, path: str) -> str:
        hashed = abs(hash(path))
        named = "python_module_name" in inspect.signature(self._load_source).parameters
        return f"{loader.package}.{base}_{hashed}" if named else f"{loader.package}.{hashed}_{base}"

    def _module(self, loader: Loader, name: str, path: str) -> ModuleType:
        if "python_module_name" in inspect.signature(self._load_source).parameters:
            return self._load_source(loader, python_module_name=name, path=path)
        return self._load_source(loader, name.removeprefix(f"{loader.package}."), path)

    def _read_options(self, loader: Loader, kind: str, name: str, path: str, module: ModuleType) -> None:
        """Have Ansible read them, and take them away from it: another plugin may have that name."""
        self._load_definitions(loader, name, module, path)
        options = self._config._plugins.get(kind, {}).pop(name, None)  # noqa: SLF001
        if options is not None:
            self._options[path] = options

    def _unload(self, names: Iterable[str]) -> None:
        """Have plays load these modules again."""
        for name in names:
            module = sys.modules.pop(name)
            self._modules.pop(name, None)
            package, _, last = name.rpartition(".")
            if vars(sys.modules.get(package, object)).get(last) is module:
                delattr(sys.modules[package], last)

    def _forget(self) -> None:
        """What loaders have found so far is not what they find with a site's directories."""
        for _, loader in self._loaders.get_all_plugin_loaders():
            loader._clear_caches()  # noqa: SLF001

    def _patch(self, kind: type[Loader]) -> None:
        self._load_source: Callable[..., ModuleType] = kind._load_module_source  # noqa: SLF001
        self._load_definitions = kind._load_config_defs  # noqa: SLF001
        kind._load_module_source = lambda loader, *words, **named: self._source(loader, words, named)  # type: ignore[method-assign]  # noqa: SLF001
        kind._load_config_defs = lambda loader, *words: self._definitions(loader, *words)  # type: ignore[method-assign]  # noqa: SLF001, PLW0108

    def _source(self, loader: Loader, words: tuple[str, ...], named: dict[str, str]) -> ModuleType:
        """In place of Ansible's: what was loaded ahead counts only for its own file."""
        path = named.get("path") or words[1]
        name = named.get("python_module_name") or self._full_name(loader, words[0])
        ahead = self._modules.get(name)
        if ahead is not None and sys.modules.get(name) is ahead and ahead.__file__ != path:
            self._unload([name])
        return self._load_source(loader, *words, **named)

    def _full_name(self, loader: Loader, name: str) -> str:
        return name if name.startswith("ansible_collections.") else f"{loader.package}.{name}"

    def _definitions(self, loader: Loader, name: str, module: ModuleType, path: str) -> None:
        """In place of Ansible's: what it would read from the same documentation once more."""
        kind = loader.package.rpartition(".")[2]
        options = self._options.get(path)
        if options is not None:
            with suppress(ImportError):
                importlib.import_module(_BUILTIN)  # which Ansible says, with enough -v, when it looks for fragments
        # Fragments of documentation are found by name as well, so a site or a user may have some.
        fragments = self._loaders.fragment_loader
        own_fragments = fragments._extra_dirs or any(map(os.path.isdir, fragments.config))  # noqa: SLF001
        if options is None or own_fragments or self._config.has_configuration_definition(kind, name):
            self._load_definitions(loader, name, module, path)
        else:
            self._config.initialize_plugin_configuration_definitions(kind, name, options)


def _refuse_native(names: Iterable[str]) -> None:
    """Raise RuntimeError for a library's module that is not written in Python: few can be loaded twice."""
    for name in names:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.endswith(tuple(EXTENSION_SUFFIXES)) and name.partition(".")[0] not in sys.stdlib_module_names:
            raise RuntimeError(f"{name} cannot be loaded twice")


def remember_routing() -> None:
    """Parse the table of ansible-core's own redirections, and have it found when it is to be parsed again."""
    finder = importlib.import_module("ansible.utils.collection_loader._collection_finder")
    directory = os.path.dirname(importlib.import_module("ansible").__file__ or "")
    with open(os.path.join(directory, "config", "ansible_builtin_runtime.yml"), "rb") as file:
        known = file.read()
    parse: Callable[[bytes, object], object] = vars(finder)["_meta_yml_to_dict"]
    table = parse(known, ("ansible.builtin", "runtime.yml"))

    def remembered(text: bytes, name: object) -> object:
        # Whoever changes the table does so in a process of its own.
        return table if text == known else parse(text, name)

    vars(finder)["_meta_yml_to_dict"] = remembered
