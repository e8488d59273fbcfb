# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a new site out of the skeleton that is shipped with the package."""

from __future__ import annotations

from pathlib import Path

from relengq.errors import Refused, UsageFault

_SKELETON = Path(__file__).parent / "skeleton"


def create(directory: Path) -> list[Path]:
    """Write a new site into ``directory``, which is made when it is missing; give the files that were written.

    Raises Refused when one of its files is there already (nothing is written then), and UsageFault when the
    directory cannot be written to.
    """
    sources = sorted(path for path in _SKELETON.rglob("*") if path.is_file() and path.suffix != ".pyc")
    targets = {source: directory / source.relative_to(_SKELETON) for source in sources}
    if there := [target for target in targets.values() if target.exists() or target.is_symlink()]:
        names = ", ".join(str(path.relative_to(directory)) for path in there[:3])
        raise Refused(f"{directory} has {names} already.", hint="Name a directory that is new or empty.")
    try:
        for source, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(source.read_bytes())
    except OSError as error:
        raise UsageFault(f"{error.filename or directory} cannot be written: {error.strerror}.") from None
    return list(targets.values())
