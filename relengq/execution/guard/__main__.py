# SPDX-License-Identifier: GPL-3.0-or-later
"""Run as a file: ``PARENT PRIVATE OPTION… -- COMMAND…``, or ``--probe`` to tell what this host permits."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # PEP 366, by hand: -I leaves out what would find the package that this file is in.
    sys.path.append(__file__.rpartition("/")[0].rpartition("/")[0])
    __package__ = "guard"
    if sys.argv[1:] == ["--probe"]:
        from .probe import tell

        tell()
    else:
        from .cold import main

        main(sys.argv[1:])
