# SPDX-License-Identifier: GPL-3.0-or-later
"""A tree of a commit to play from: written once, changed by nobody, held by who plays from it, removed when unused."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from relengq.content import fetch
from relengq.content.git import STOPPED, TIMED_OUT, Stop, command, first_line, git, long, never
from relengq.errors import RevisionMissing
from relengq.settings import Settings

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_WHOLE = ("-c", "core.sparseCheckout=false", "-c", "core.splitIndex=false")
"""All of a commit, and nothing written into the repository, whatever its configuration says."""
_UNFINISHED_SECONDS = 3600.0
"""After so long what nobody holds of an export that did not end is removed."""


@dataclass(frozen=True)
class Wanted:
    """What a run was bound to when it was started."""

    commit: str | None
    """None: the site was not in git."""
    dirty: bool = False
    host: str | None = None
    """The host on which the run was started, as far as that is known."""


@contextmanager
def leased(settings: Settings, wanted: Wanted, stop: Stop = never) -> Iterator[Path]:
    """The directory to play from: a copy of the commit, which nobody removes meanwhile, or the site itself.

    Raises RevisionMissing when this host cannot have it, or when ``stop`` says that nobody waits for it any more.
    """
    if wanted.commit is None:
        yield settings.site
    elif wanted.dirty:
        _demand_own_host(wanted)
        yield settings.site
    else:
        place = settings.content_dir / _checked(wanted.commit)
        while (lease := _hold(place)) is None:
            _export(settings, wanted.commit, place, stop)
        try:
            yield place
        finally:
            os.close(lease)


def tip(settings: Settings, stop: Stop = never) -> Wanted:
    """What the site's git remote has now, for a host that has no clone of it. Raises RevisionMissing."""
    return Wanted(fetch.tip(settings, stop))


def prune(settings: Settings) -> list[str]:
    """Remove trees that nobody has played from for ``content_days``, what was left of exports, and unused commits.

    Never one that somebody plays from: whoever does holds a lock on it. Returns what has been removed.
    """
    if not settings.content_dir.is_dir():
        return []
    gone = []
    for place in settings.content_dir.iterdir():
        lasts = settings.content_days * 86400 if _COMMIT.fullmatch(place.name) else _UNFINISHED_SECONDS
        if not place.is_dir() or place.suffix == ".git" or time.time() - place.stat().st_mtime < lasts:
            continue
        if _remove(place):
            gone.append(place.name)
    kept = {place.name for place in settings.content_dir.iterdir()}
    return gone + fetch.prune(settings, kept)


def _demand_own_host(wanted: Wanted) -> None:
    here = socket.gethostname()
    if wanted.host is not None and wanted.host != here:
        raise RevisionMissing(
            f"the run was started on {wanted.host} from changes that are not committed, which {here} has not got",
            hint="Commit and push them, and start again with --revision latest.",
        )


def _checked(commit: str) -> str:
    if not _COMMIT.fullmatch(commit):
        raise RevisionMissing(f"{commit!r} is no commit's id")
    return commit


def _hold(place: Path) -> int | None:
    """A lock on the tree that others may have as well, or None when there is no such tree."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        if os.path.samestat(os.fstat(descriptor), place.stat()):
            os.utime(descriptor)
            return descriptor
    except FileNotFoundError:  # it was removed before the lock was there
        pass
    os.close(descriptor)
    return None


def _remove(place: Path) -> bool:
    """Remove a tree that nobody holds: out of the way first, so that nobody begins to play from half of it."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not place.name.startswith("."):
            place = place.rename(place.with_name(f".old-{place.name[:12]}-{os.getpid()}"))
        shutil.rmtree(place, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _export(settings: Settings, commit: str, place: Path, stop: Stop) -> None:
    """Write the commit's site into ``place`` whole or not at all. The site's own clone is asked first."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{commit[:12]}-"))
        held = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(held, fcntl.LOCK_SH)
            _fill(settings, commit, fresh, stop)
            try:
                fresh.rename(place)
            except OSError:
                if not place.is_dir():  # else another attempt was quicker
                    raise
        finally:
            os.close(held)
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise RevisionMissing(
            f"content revision {commit[:12]} cannot be written to {place}: {error}",
            hint="Check the disk and the rights of the state directory.",
        ) from None


def _fill(settings: Settings, commit: str, fresh: Path, stop: Stop) -> None:
    prefix = _prefix(settings)
    until = time.monotonic() + settings.content_seconds
    if fetch.has(settings.site, commit) and _unpack(settings.site, commit, prefix, fresh, until, stop) is None:
        return
    with fetch.reading(settings, stop):
        cache = fetch.obtain(settings, commit, stop)
        until = time.monotonic() + settings.content_seconds
        if why := _unpack(cache, commit, prefix, fresh, until, stop):
            raise RevisionMissing(f"content revision {commit[:12]} cannot be unpacked from {cache}: {why}")


def _prefix(settings: Settings) -> str:
    """Where in its repository the site is, without a slash at the end."""
    if settings.content_path.parts:
        return str(settings.content_path)
    return git(settings.site, "rev-parse", "--show-prefix").stdout.decode().strip().rstrip("/")


def _unpack(repository: Path, commit: str, prefix: str, fresh: Path, until: float, stop: Stop) -> str | None:
    """Write the commit's files as a clone has them. Returns why that cannot be done; what is written then is of no use.

    By an index of its own, and not by ``git archive``: that leaves out and changes what attributes of a release say.
    """
    reasons = {TIMED_OUT: "it took too long (content_seconds)", STOPPED: "stopped before it was there"}
    with tempfile.TemporaryDirectory(dir=fresh.parent, prefix=f"{fresh.name}-") as beside:
        given = {"GIT_WORK_TREE": str(fresh), "GIT_INDEX_FILE": f"{beside}/index"}
        tree = f"{commit}:{prefix}" if prefix else commit
        for action in (("read-tree", tree), ("checkout-index", "--all", "--force", "--quiet")):
            done = long(command(repository, *_WHOLE, *action), until, stop, given=given)
            if done.returncode:
                return reasons.get(done.returncode) or first_line(done.stderr)
    return None
