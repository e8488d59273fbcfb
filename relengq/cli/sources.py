# SPDX-License-Identifier: GPL-3.0-or-later
"""Files with messages, read as often as needed: first to see whether all is well with them, then to act."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import BinaryIO

import click

from relengq import recordings
from relengq.messages import Message

STANDARD_INPUT = "-"


@dataclass
class Sources:
    """The messages of several files, in the order of the files."""

    _files: Sequence[tuple[str, BinaryIO]]
    count: int = 0
    """How many there are; what is written to the files after the first reading does not count."""

    def check(self) -> Iterator[Message]:
        """Read everything once. Raises UsageFault for what is no message."""
        for message in self._read():
            self.count += 1
            yield message

    def messages(self) -> Iterator[Message]:
        """The messages that ``check`` has seen."""
        return islice(self._read(), self.count)

    def _read(self) -> Iterator[Message]:
        return chain.from_iterable(self._of(name, file) for name, file in self._files)

    @staticmethod
    def _of(name: str, file: BinaryIO) -> Iterator[Message]:
        file.seek(0)
        return recordings.read(file, name)


@contextmanager
def opened(paths: Iterable[str]) -> Iterator[Sources]:
    """The files with these names; what cannot be read twice (a pipe) is kept in a temporary file.

    Raises click.UsageError for a file that cannot be opened.
    """
    with ExitStack() as stack:
        files = []
        for path in paths:
            name = "standard input" if path == STANDARD_INPUT else path
            try:
                file = sys.stdin.buffer if path == STANDARD_INPUT else stack.enter_context(open(path, "rb"))  # noqa: PTH123
                if not file.seekable() or path == STANDARD_INPUT:
                    kept = stack.enter_context(tempfile.TemporaryFile())
                    shutil.copyfileobj(file, kept)
                    file = kept
            except OSError as error:
                raise click.UsageError(f"{name} cannot be read: {error.strerror}.") from None
            files.append((name, file))
        yield Sources(files)
