# SPDX-License-Identifier: GPL-3.0-or-later
"""The content revision of a site in git: which commit it is at, and a tree of any commit to play from.

A run is bound to a commit. It is played from a checked-out copy in the state directory that nothing ever changes, so
that an edit or a pull under a running play does no harm. A site that is not in git, or that has changes which are not
committed, is played from its working tree.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from relengq.errors import RevisionMissing
from relengq.settings import Settings

_PARTS = ("playbooks", "workers", "beat", "relengq.toml")
"""What of the site's directory counts as its content."""
_CACHES = ("__pycache__/", ".pyc", ".retry", "~", ".swp")
_GIT_SECONDS = 60


@dataclass(frozen=True)
class Revision:
    """A commit of the site, and whether the working tree differs from it."""

    commit: str
    dirty: bool


def revision(site: Path) -> Revision | None:
    """The commit that the site is at, or None when the site is not in git or has never been committed."""
    found = _git(site, "rev-parse", "HEAD")
    if found.returncode or _git(site, "rev-parse", "--verify", "HEAD:./playbooks").returncode:
        return None
    status = _git(site, "status", "--porcelain", "--untracked-files=normal", "--", *_PARTS)
    return Revision(found.stdout.decode().strip(), bool(status.returncode or status.stdout.strip()))


def left_out(site: Path) -> list[str]:
    """What of the site's content a copy of a commit has not got: submodules, and ignored files in ``playbooks``.

    Ignored files are for instance the roles that ansible-galaxy has installed; caches of Python are not told of.
    """
    modules = _git(site, "ls-files", "-z", "--stage")
    found = [line.partition("\t")[2] + "/" for line in _parts(modules) if line.startswith("160000 ")]
    ignored = _git(
        site, "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory", "--", "playbooks"
    )
    return found + [path for path in _parts(ignored) if not path.endswith(_CACHES)]


def _parts(answer: subprocess.CompletedProcess[bytes]) -> list[str]:
    return answer.stdout.decode(errors="replace").split("\0")[:-1] if not answer.returncode else []


def tree(settings: Settings, commit: str | None, *, dirty: bool) -> Path:
    """The directory to play from: a copy of the commit, or the working tree when there is no such commit.

    Raises RevisionMissing when this host has not got the commit.
    """
    if commit is None or dirty:
        return settings.site
    place = settings.state_dir / "content" / commit
    if not place.is_dir():
        _export(settings.site, commit, place)
    return place


def _export(site: Path, commit: str, place: Path) -> None:
    """Write the commit's site into ``place`` whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    prefix = _git(site, "rev-parse", "--show-prefix").stdout.decode().strip().rstrip("/")
    fresh = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{commit[:12]}-"))
    try:
        archive = _git(site, "archive", "--format=tar", f"{commit}:{prefix}" if prefix else commit)
        if archive.returncode:
            raise RevisionMissing(
                f"content revision {commit[:12]} cannot be had from {site}: {_first_line(archive.stderr)}",
                hint="Fetch it on this host (git fetch), or start again with --revision latest.",
            )
        subprocess.run(["tar", "-x", "-C", str(fresh)], input=archive.stdout, check=True, timeout=_GIT_SECONDS)
        fresh.rename(place)
    except OSError as error:
        if not place.is_dir():
            raise RevisionMissing(
                f"content revision {commit[:12]} cannot be written to {place}: {error}",
                hint="Check the disk and the rights of the state directory.",
            ) from None
    except subprocess.SubprocessError as error:
        raise RevisionMissing(f"content revision {commit[:12]} cannot be unpacked: {error}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _git(site: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run git in the site. A machine without git behaves as a site that is not in git."""
    command = ["git", "-C", str(site), "-c", "safe.directory=*", "-c", "core.fsmonitor=false", *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        return subprocess.run(command, capture_output=True, timeout=_GIT_SECONDS, check=False, env=environment)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, b"", b"git is not installed")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, b"", b"git did not answer")


def _first_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[0] if lines else "git gave no reason"
