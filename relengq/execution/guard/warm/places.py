# SPDX-License-Identifier: GPL-3.0-or-later
"""Where modules come from: Python's own places, those where libraries are installed, and others."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Mapping


def installed() -> frozenset[str]:
    """The directories of Python's own modules and of those that are installed, each under all its names."""
    version = "python{}.{}".format(*sys.version_info)
    places = [os.path.dirname(os.__file__), os.path.join(sys.base_exec_prefix, sys.platlibdir, version)]
    places += site.getsitepackages()
    return frozenset(place for each in places for place in (each, os.path.realpath(each)))


def variables_of(module: object) -> Mapping[str, object]:
    """A module's globals. Never asks the module, as for some that would be the moment to load what they stand for."""
    try:
        return vars(module)
    except Exception:  # what stands in sys.modules may be anything
        return {}


def file_of(module: object) -> str | None:
    """The file that a module was loaded from."""
    file = variables_of(module).get("__file__")
    return file if isinstance(file, str) else None


def search_files() -> list[str]:
    """The files, besides modules, that tell a Python that starts where modules are; some of them may not exist."""
    directory = os.path.dirname(sys.executable)
    found = [os.path.join(each, "pyvenv.cfg") for each in (directory, os.path.dirname(directory))]
    found += site.getsitepackages()
    if site.ENABLE_USER_SITE:
        found.append(site.getusersitepackages())
    for place in {*sys.path, *found}:
        if os.path.isdir(place):
            found += [os.path.join(place, name) for name in os.listdir(place) if name.endswith(".pth")]
    return found
