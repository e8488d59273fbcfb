# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that says that a process is alive, for whoever supervises it: as old as the last time that its loop came by.

The loops come by every few seconds whether there is anything to do or not, so a worker without steps, a clock that
stands by and a listener in a quiet hour are well. A database, a broker or a bus that is away leaves them well too: to
start them again would not bring it back, and would end the plays of a worker.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def alive(file: Path | None) -> None:
    """Touch the file, if there is to be one. A full disk, or a directory that is not there, is not told of here."""
    if file is not None:
        with suppress(OSError):
            file.touch(mode=0o644)
