# SPDX-License-Identifier: GPL-3.0-or-later
"""Call the command line as a person does: a process of its own, in the site's directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shell:
    """A person at a terminal in a site's directory, with these settings in the environment."""

    site: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(
        self, *arguments: str, code: int = 0, text: str = "", timeout: float = 100
    ) -> subprocess.CompletedProcess[str]:
        """Call ``relengq`` with these arguments and ``text`` as its input; the test fails on another exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "relengq", *arguments],
            cwd=self.site,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **self.environment},
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        where = f"relengq {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code, where
        assert "Traceback" not in done.stderr, where
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        """What a verb prints with ``--json``."""
        value: Any = json.loads(self.run(*arguments, "--json", code=code).stdout)
        return value
