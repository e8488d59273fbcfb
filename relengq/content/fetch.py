# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch commits of the site from its git remote, into a bare repository in the state directory.

The site's own clone is only ever read. Of any number of attempts that need a commit at once, one fetches, under a lock
of the file system; the others find the commit there, or take over the sentence with which that failed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from relengq.content.git import STOPPED, TIMED_OUT, Stop, command, first_line, git, long, never, shown, ssh_command
from relengq.errors import RevisionMissing
from relengq.settings import Settings

_NAME = "relengq"
"""What the remote is called while git fetches from it."""
_KEPT = "refs/relengq/"
"""Below it, commits that were asked for: git's garbage collection keeps them."""
_EVERYTHING = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_FAILURE = "failure.json"
_FETCH, _READ = "fetch.lock", "read.lock"
_LOCK_SECONDS = 0.1
_SCP = re.compile(r"[^/]*:")
_log = structlog.get_logger(__name__)


def has(repository: Path, commit: str) -> bool:
    """Whether a repository has a commit."""
    return repository.is_dir() and not git(repository, "cat-file", "-e", f"{commit}^{{commit}}").returncode


def remote(settings: Settings) -> str:
    """The URL or path of the site's git remote. Raises RevisionMissing when there is none."""
    named = settings.content_remote
    if not settings.content_anywhere:
        found = git(settings.site, "remote", "get-url", "--", named)
        if found.returncode:
            raise RevisionMissing(
                f"it is not in {settings.site}, which has no git remote '{named}' to fetch from",
                hint="Name one on this host: git remote add origin URL, or the setting content_remote.",
            )
        named = found.stdout.decode().strip()
        base = Path(git(settings.site, "rev-parse", "--show-toplevel").stdout.decode().strip() or settings.site)
    else:
        base = settings.site
    return named if _SCP.match(named) else str(base / named)


def tip(settings: Settings, stop: Stop) -> str:
    """The commit that the remote's main branch is at. Raises RevisionMissing."""
    where = remote(settings)
    line = command(_beside(settings), "ls-remote", "--quiet", "--", _NAME, "HEAD")
    said = long(line, time.monotonic() + settings.content_seconds, stop, given=_access(settings, where))
    commit = said.stdout.decode(errors="replace").partition("\t")[0]
    if said.returncode or not commit:
        why = _why(said, settings) if said.returncode else "it has no HEAD"
        raise RevisionMissing(f"the site's content cannot be had from {shown(where)}: {why}")
    return commit


def obtain(settings: Settings, commit: str, stop: Stop) -> Path:
    """A repository that has the commit: the cache, after a fetch when that is needed. Raises RevisionMissing."""
    cache = _path(settings, commit)
    if has(cache, commit):
        return cache
    try:
        where, asked = remote(settings), time.time_ns()
    except RevisionMissing as fault:
        raise RevisionMissing(
            f"content revision {commit[:12]} cannot be had: {fault.message}", hint=fault.hint
        ) from None
    until = time.monotonic() + settings.content_seconds
    with _locked(settings, until, stop) as free:
        if not free:
            why = "stopped before it was there" if stop() else "another attempt on this host is still fetching"
            raise RevisionMissing(f"content revision {commit[:12]} cannot be had from {shown(where)}: {why}")
        if not has(cache, commit):
            _take_over_failure(cache, commit, asked)
            _fetch(settings, cache, commit, where, until, stop)
        os.utime(cache)
    return cache


@contextmanager
def reading(settings: Settings, stop: Stop) -> Iterator[None]:
    """Nothing is taken out of the cache meanwhile; whoever reads from it says so before he asks for the commit.

    Raises RevisionMissing when somebody prunes for too long, or ``stop`` says that nobody waits for it any more.
    """
    until = time.monotonic() + settings.content_seconds
    with _locked(settings, until, stop, _READ, fcntl.LOCK_SH) as free:
        if not free:
            raise RevisionMissing(f"the content cache {settings.content_dir} is still being pruned")
        yield


def prune(settings: Settings, wanted: set[str]) -> list[str]:
    """Let go of commits that are in no exported tree, and of caches that nobody used for ``content_days``.

    Does nothing while somebody fetches or reads what was fetched. Returns what has been removed.
    """
    gone: list[str] = []
    with _locked(settings, 0.0, never) as free, _locked(settings, 0.0, never, _READ) as unread:
        if not (free and unread):
            return gone
        for cache in settings.content_dir.glob("cache-*.git"):
            if time.time() - cache.stat().st_mtime > settings.content_days * 86400:
                shutil.rmtree(cache, ignore_errors=True)
                gone.append(cache.name)
            elif unused := [commit for commit in _kept(cache) if commit not in wanted]:
                for commit in unused:
                    git(cache, "update-ref", "-d", f"{_KEPT}{commit}")
                used = cache.stat()
                git(cache, "gc", "--quiet", "--prune=now", seconds=settings.content_seconds)
                os.utime(cache, ns=(used.st_atime_ns, used.st_mtime_ns))
                gone += [f"{cache.name}/{commit[:12]}" for commit in unused]
    return gone


def _kept(cache: Path) -> list[str]:
    found = git(cache, "for-each-ref", "--format=%(refname)", _KEPT)
    return [line.removeprefix(_KEPT) for line in found.stdout.decode().splitlines()]


def _path(settings: Settings, commit: str) -> Path:
    return settings.content_dir / f"cache-{'sha256' if len(commit) == 64 else 'sha1'}.git"


def _beside(settings: Settings) -> Path:
    settings.content_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return settings.content_dir


@contextmanager
def _locked(
    settings: Settings, until: float, stop: Stop, name: str = _FETCH, kind: int = fcntl.LOCK_EX
) -> Iterator[bool]:
    """Whether the lock could be had: that nobody else on this host fetches, or reads from the cache.

    Waits for it as far as the monotonic moment ``until``.
    """
    descriptor = os.open(_beside(settings) / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if stop() or time.monotonic() > until:
                    yield False
                    return
                time.sleep(_LOCK_SECONDS)
            else:
                yield True
                return
    finally:
        os.close(descriptor)


def _fetch(settings: Settings, cache: Path, commit: str, where: str, until: float, stop: Stop) -> None:
    """The one commit without its history; where a server gives out no bare commit, all branches and tags."""
    began = time.monotonic()
    _prepare(cache, commit)
    access = _access(settings, where)
    options = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--force")
    one = command(cache, *options, "--depth=1", _NAME, f"{commit}:{_KEPT}{commit}")
    said = long(one, until, stop, given=access)
    if said.returncode not in (0, TIMED_OUT, STOPPED):
        deeper = ("--unshallow",) if (cache / "shallow").exists() else ()
        said = long(command(cache, *options, "--prune", *deeper, _NAME, *_EVERYTHING), until, stop, given=access)
    if has(cache, commit):
        git(cache, "update-ref", f"{_KEPT}{commit}", commit)
        _log.info("content.fetched", commit=commit, seconds=round(time.monotonic() - began, 1))
        return
    sentence = f"content revision {commit[:12]} cannot be had from {shown(where)}: {_why(said, settings)}"
    if said.returncode != STOPPED:
        (cache / _FAILURE).write_text(json.dumps({"commit": commit, "sentence": sentence}))
    raise RevisionMissing(sentence, hint=None if said.returncode else "Push it, or start again with --revision latest.")


def _why(said: subprocess.CompletedProcess[bytes], settings: Settings) -> str:
    if said.returncode == TIMED_OUT:
        return f"it did not come within {settings.content_seconds:g} s (content_seconds)"
    if said.returncode == STOPPED:
        return "stopped before it was there"
    if said.returncode:
        return first_line(said.stderr)
    return "no branch or tag there has that commit; it was not pushed, or a branch was moved away from it"


def _take_over_failure(cache: Path, commit: str, asked: int) -> None:
    """Raise what somebody else met while this attempt waited for the lock: the remote is not asked again for it."""
    failure = cache / _FAILURE
    with suppress(OSError, ValueError):
        if failure.stat().st_mtime_ns > asked:
            known = json.loads(failure.read_text())
            if known["commit"] == commit:
                raise RevisionMissing(str(known["sentence"]))


def _prepare(cache: Path, commit: str) -> None:
    """A sound repository without what a git that was killed has left. Raises RevisionMissing or OSError."""
    if cache.is_dir() and git(cache, "rev-parse", "--is-bare-repository").stdout.strip() != b"true":
        shutil.rmtree(cache)
    if not cache.is_dir():
        form = "sha256" if len(commit) == 64 else "sha1"
        made = git(cache.parent, "init", "--quiet", "--bare", "--template=", f"--object-format={form}", str(cache))
        if made.returncode:
            raise RevisionMissing(f"{cache} cannot be made: {first_line(made.stderr)}")
    for left in (*cache.rglob("*.lock"), *cache.glob("objects/pack/tmp_*")):
        left.unlink(missing_ok=True)


def _access(settings: Settings, where: str) -> dict[str, str]:
    """The remote's address by the environment, so that it stands on no command line of ours."""
    count = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    given = {
        f"remote.{_NAME}.url": where,
        "http.lowSpeedLimit": "1",
        "http.lowSpeedTime": str(int(settings.content_seconds)),
    }
    added = {"GIT_CONFIG_COUNT": str(count + len(given)), **ssh_command(settings.site)}
    for at, (key, value) in enumerate(given.items(), count):
        added |= {f"GIT_CONFIG_KEY_{at}": key, f"GIT_CONFIG_VALUE_{at}": value}
    return added
