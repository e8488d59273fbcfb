# SPDX-License-Identifier: GPL-3.0-or-later
"""Run as a file: ``LISTENER STATE OWNER DIRECTORY SCRATCH``, as ``servers`` does it.

A listening socket's descriptor; the file that says that the server runs; the process with which it ends; the directory
of ``ansible-playbook``; and a directory of its own.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # By hand, as in the guard's own __main__. What stands above these packages is no business of Ansible's imports.
    above = __file__.rpartition("/")[0].rpartition("/")[0].rpartition("/")[0]
    given = list(sys.path)
    sys.path.append(above)
    __package__ = "guard.warm"
    from .server import main

    sys.path[:] = given
    main(sys.argv[1:])
