# SPDX-License-Identifier: GPL-3.0-or-later
"""Call the command line within the test's own process, over a bench: quick, and without a broker."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import pytest
import structlog

from relengq.cli import main
from relengq.cli.setup import Setup
from relengq.testing import Bench


@dataclass(frozen=True)
class Said:
    """What a call printed."""

    out: str
    err: str


class Caller:
    """A person who calls verbs; the test fails on another exit code than the expected one."""

    def __init__(self, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
        self.bench = bench
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> Said:
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        self._capsys.readouterr()
        try:
            found = main(arguments, setup=Setup(installation=self.bench.installation))
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
            structlog.reset_defaults()
        captured = self._capsys.readouterr()
        assert found == code, f"exit code {found}\n{captured.out}\n{captured.err}"
        assert "Traceback" not in captured.err
        return Said(captured.out, captured.err)

    def json(self, *arguments: str, code: int = 0) -> dict[str, object]:
        """What a verb prints with ``--json``, when that is an object."""
        value = json.loads(self(*arguments, "--json", code=code).out)
        assert isinstance(value, dict)
        return value

    def json_list(self, *arguments: str, code: int = 0) -> list[dict[str, object]]:
        """What a verb prints with ``--json``, when that is a list of objects."""
        value = json.loads(self(*arguments, "--json", code=code).out)
        assert isinstance(value, list)
        return value
