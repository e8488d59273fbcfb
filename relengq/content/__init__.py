# SPDX-License-Identifier: GPL-3.0-or-later
"""The content revision of a site in git: which commit it is at, and a tree of any commit to play from.

A run is bound to a commit. It is played from a checked-out copy in the state directory that nothing ever changes, so
that an edit, a pull or a push under a running play does no harm (``trees``). A host that has not got the commit
fetches it from the site's git remote into a cache of its own (``fetch``). A site that is not in git is played from its
directory; changes that are not committed are played from the working tree, on the host where the run was started.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from relengq.content.git import git

_PARTS = ("playbooks", "workers", "beat", "relengq.toml")
"""What of the site's directory counts as its content."""
_CACHES = ("__pycache__/", ".pyc", ".retry", "~", ".swp")


@dataclass(frozen=True)
class Revision:
    """A commit of the site, and whether the working tree differs from it."""

    commit: str
    dirty: bool


def revision(site: Path) -> Revision | None:
    """The commit that the site is at, or None when the site is not in git or has never been committed."""
    found = git(site, "rev-parse", "HEAD")
    if found.returncode or git(site, "rev-parse", "--verify", "HEAD:./playbooks").returncode:
        return None
    status = git(site, "status", "--porcelain", "--untracked-files=normal", "--", *_PARTS)
    return Revision(found.stdout.decode().strip(), bool(status.returncode or status.stdout.strip()))


def left_out(site: Path) -> list[str]:
    """What of the site's content a copy of a commit has not got: submodules, and ignored files in ``playbooks``.

    Ignored files are for instance the roles that ansible-galaxy has installed; caches of Python are not told of.
    """
    modules = git(site, "ls-files", "-z", "--stage")
    found = [line.partition("\t")[2] + "/" for line in _parts(modules) if line.startswith("160000 ")]
    ignored = git(
        site, "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory", "--", "playbooks"
    )
    return found + [path for path in _parts(ignored) if not path.endswith(_CACHES)]


def _parts(answer: subprocess.CompletedProcess[bytes]) -> list[str]:
    return answer.stdout.decode(errors="replace").split("\0")[:-1] if not answer.returncode else []
