# SPDX-License-Identifier: GPL-3.0-or-later
"""Run as a file: ``LISTENER STATE OWNER DIRECTORY SCRATCH GIVEN…``, as ``servers`` does it.

A listening socket's descriptor; the file that says that the server runs; the process with which it ends; the directory
of ``ansible-playbook``; a directory of its own; and what it takes over from who starts it, as ``inherited`` says it.
"""

from __future__ import annotations

import importlib.util
import sys

if __name__ == "__main__":
    # By hand, and under a name that nothing else has: plays are to find neither what stands above this package, nor
    # this package where they look for another one of its name.
    place = __file__.rpartition("/")[0].rpartition("/")[0]
    spec = importlib.util.spec_from_file_location(
        "_relengq_guard", f"{place}/__init__.py", submodule_search_locations=[place]
    )
    if spec is None or spec.loader is None:
        raise SystemExit(f"{place} cannot be loaded")
    package = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    __package__ = "_relengq_guard.warm"
    from .server import main

    main(sys.argv[1:])
