# SPDX-License-Identifier: GPL-3.0-or-later
"""A distribution with a provider of secrets, as pip would install it."""

from __future__ import annotations

import textwrap
from pathlib import Path

from relengq.secrets import GROUP


def install_provider(directory: Path, name: str, code: str) -> str:
    """Install a module whose ``safe`` is the provider ``name``; returns the directory that is to be in sys.path."""
    where = directory / f"{name}-installed"
    about = where / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (where / f"{name}_safe.py").write_text(textwrap.dedent(code))
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {name}_safe:safe\n")
    return str(where)
