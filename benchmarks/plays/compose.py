# SPDX-License-Identifier: GPL-3.0-or-later
"""The shipped compose, from its start to its being published: ten plays with relengq, one without."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import structlog

from benchmarks.measure import Ratio, by_turns
from benchmarks.plays.place import ROOT, Place, running


def measure(turns: int) -> Ratio:
    """The workflow of ``make demo``, and ``playbooks/compose.yml``, the same roles in a single play."""
    # In a process of its own: Celery is configured once, for one site.
    argv = [sys.executable, "-m", "benchmarks.plays.compose", str(turns)]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    what = f"a compose of {found['packages']} packages"
    return Ratio(what, "the same in a single play", found["relengq"], found["plain"])


def main() -> None:
    """Measure in a copy of this repository's site, and print the seconds as JSON."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with tempfile.TemporaryDirectory(prefix="relengq-bench-") as directory:
        site = Path(directory) / "compose"
        for name in ("playbooks", "workers", "beat"):
            shutil.copytree(ROOT / name, site / name)
        with running(site) as place:
            print(json.dumps(_measured(place, int(sys.argv[1]))))


def _measured(place: Place, turns: int) -> dict[str, object]:
    def with_relengq(_: int) -> None:
        place.run("nightly-compose", {"release": "f44", "target_dir": str(place.made / "relengq")})

    def plain(_: int) -> None:
        place.play("compose.yml", compose_release="f44", compose_target_dir=str(place.made / "plain"))

    times = by_turns({"relengq": with_relengq, "plain": plain}, turns)
    found = {who: packages(place.made / who / "latest-Fedora-44") for who in times}
    assert found["relengq"] == found["plain"], "the two have not composed the same packages"
    return {**times, "packages": len(found["plain"])}


def packages(compose: Path) -> list[str]:
    """The packages that a published compose names in its metadata."""
    assert (compose / "STATUS").read_text().strip() == "FINISHED"
    metadata = json.loads((compose / "compose/metadata/rpms.json").read_text())
    found: list[str] = []
    for arches in metadata["payload"]["rpms"].values():
        for arch, sources in arches.items():
            found += [f"{arch} {rpm}" for rpms in sources.values() for rpm in rpms]
    return sorted(found)


if __name__ == "__main__":
    main()
