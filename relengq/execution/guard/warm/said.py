# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether something has been printed: a server's standard output and error are one file, which is to stay empty."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def said() -> bool:
    """Whether something has been printed."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    return os.fstat(1).st_size > 0 or os.fstat(2).st_size > 0


def unsay() -> None:
    """Forget what was printed."""
    os.truncate(1, 0)
