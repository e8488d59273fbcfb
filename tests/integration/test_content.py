# SPDX-License-Identifier: GPL-3.0-or-later
"""Content of commits: from real git remotes into a cache, out of it into trees, and away again when unused."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from relengq.content import fetch, revision, trees
from relengq.content.trees import Wanted, leased
from relengq.errors import RevisionMissing, SiteFault
from relengq.settings import Settings
from tests.support.processes import words
from tests.support.servers import free_port
from tests.support.waiting import wait_until

IDENTITY = ("-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false")
FILES = {"playbooks/workflows/hello.yml": "steps: [{name: hello, playbook: hello.yml}]\n", "workers/default.yml": ""}
SSH = """\
#!/bin/sh
# Instead of ssh: note the options, and run the other side's command here.
echo "$@" >> {log}
{pause}
for last; do :; done
exec sh -c "$last"
"""


def git(where: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *IDENTITY, *arguments], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Upstream:
    """The site's git remote, and an author who pushes to it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "upstream.git"
        self.author = directory / "author"
        git(directory, "init", "--quiet", "--bare", "--initial-branch=main", str(self.path))
        git(directory, "clone", "--quiet", str(self.path), str(self.author))
        git(self.author, "checkout", "--quiet", "-B", "main")

    def commit(self, text: str, *, push: bool = True, file: str = "playbooks/version") -> str:
        path = self.author / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        git(self.author, "add", "--all")
        git(self.author, "commit", "--quiet", "--message", text[:20])
        if push:
            git(self.author, "push", "--quiet", "--force", "origin", "main")
        return git(self.author, "rev-parse", "HEAD")


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    made = Upstream(tmp_path)
    for name, text in FILES.items():
        path = made.author / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    made.commit("first")
    return made


@pytest.fixture
def host(upstream: Upstream, tmp_path: Path) -> Settings:
    """A host with a clone of the site, which is never updated."""
    git(tmp_path, "clone", "--quiet", f"file://{upstream.path}", "site")
    return Settings.load(tmp_path / "site").model_copy(update={"state_dir": tmp_path / "state"})


def version(settings: Settings, commit: str) -> str:
    with leased(settings, Wanted(commit)) as tree:
        return (tree / "playbooks/version").read_text()


def fault(settings: Settings, commit: str, stop: Callable[[], bool] = lambda: False) -> str:
    with pytest.raises(RevisionMissing) as caught, leased(settings, Wanted(commit), stop):
        pass
    return str(caught.value)


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_what_the_site_has_is_taken_from_there(upstream: Upstream, host: Settings) -> None:
    first = git(host.site, "rev-parse", "HEAD")
    shutil.rmtree(upstream.path)
    assert version(host, first) == "first"


def test_what_the_site_has_not_is_fetched_and_the_site_stays_as_it_is(upstream: Upstream, host: Settings) -> None:
    before = {path: path.stat().st_mtime_ns for path in host.site.rglob("*")}
    second, third = upstream.commit("second"), upstream.commit("third")
    assert version(host, third) == "third"
    assert version(host, second) == "second", "one that is older than what has been fetched"
    assert {path: path.stat().st_mtime_ns for path in host.site.rglob("*")} == before
    shutil.rmtree(upstream.path)
    assert version(host, third) == "third", "what is here is not fetched again"


def test_a_server_that_gives_out_no_bare_commit(
    upstream: Upstream, host: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"COUNT": "1", "KEY_0": "protocol.version", "VALUE_0": "0"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", text)
    second, _ = upstream.commit("second"), upstream.commit("third")
    refused = subprocess.run(
        ["git", "fetch", "--quiet", f"file://{upstream.path}", second], cwd=host.site, capture_output=True, check=False
    )
    assert b"unadvertised" in refused.stderr
    assert version(host, second) == "second"


def test_an_older_commit_behind_one_that_came_without_history(
    upstream: Upstream, host: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, third = upstream.commit("second"), upstream.commit("third")
    assert version(host, third) == "third"
    for name, text in {"COUNT": "1", "KEY_0": "protocol.version", "VALUE_0": "0"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", text)
    assert version(host, second) == "second"


def test_by_ssh_which_asks_nobody(
    upstream: Upstream, host: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _instead_of_ssh(tmp_path, monkeypatch)
    git(host.site, "remote", "set-url", "origin", f"releng@git.example.org:{upstream.path}")
    assert version(host, upstream.commit("second")) == "second"
    assert "-oBatchMode=yes" in log.read_text()


def _instead_of_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: str = "") -> Path:
    program, log = tmp_path / "ssh", tmp_path / "ssh.log"
    program.write_text(SSH.format(log=shlex.quote(str(log)), pause=pause))
    program.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(program))
    monkeypatch.setenv("GIT_SSH_VARIANT", "ssh")
    return log


def test_attempts_that_need_one_commit_at_once_fetch_it_once(
    upstream: Upstream, host: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _instead_of_ssh(tmp_path, monkeypatch, pause="sleep 0.3")
    settings = host.model_copy(update={"content_remote": f"git.example.org:{upstream.path}"})
    second = upstream.commit("second")
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: version(settings, second), range(4))) == {"second"}
    assert len(log.read_text().splitlines()) == 1

    log.unlink()
    unpushed = upstream.commit("unpushed", push=False)
    with ThreadPoolExecutor(4) as pool:
        faults = set(pool.map(lambda _: fault(settings, unpushed).partition(". ")[0].rstrip("."), range(4)))
    assert len(faults) == 1, faults
    assert len(log.read_text().splitlines()) == 2, "the commit, then everything; the others take the answer over"


def test_revisions_side_by_side(upstream: Upstream, host: Settings) -> None:
    commits = [upstream.commit(str(number)) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda commit: version(host, commit), commits)) == [str(number) for number in range(6)]


def test_a_remote_that_is_away(host: Settings) -> None:
    address = f"git://127.0.0.1:{free_port()}/site.git"
    said = fault(host.model_copy(update={"content_remote": address}), "a" * 40)
    assert said.startswith(f"content revision aaaaaaaaaaaa cannot be had from {address}: ")
    assert "unable to connect" in said


def test_a_remote_that_never_answers(host: Settings) -> None:
    with silent_server() as port:
        settings = host.model_copy(
            update={"content_remote": f"git://127.0.0.1:{port}/site.git", "content_seconds": 1.0}
        )
        said = fault(settings, "a" * 40)
    assert said.endswith("it did not come within 1 s (content_seconds)")
    assert not [each for each in psutil.Process().children(recursive=True) if "git" in " ".join(words(each))]


def test_who_is_stopped_does_not_wait_for_a_remote(host: Settings) -> None:
    stopped = threading.Event()
    threading.Timer(0.5, stopped.set).start()
    with silent_server() as port:
        settings = host.model_copy(update={"content_remote": f"git://127.0.0.1:{port}/site.git"})
        began = time.monotonic()
        assert "stopped before it was there" in fault(settings, "a" * 40, stopped.is_set)
    assert time.monotonic() - began < 20, "and not content_seconds"


def test_a_commit_that_was_not_pushed(upstream: Upstream, host: Settings) -> None:
    said = fault(host, upstream.commit("unpushed", push=False))
    assert "no branch or tag there has that commit; it was not pushed" in said
    assert "Push it" in said


def test_a_commit_that_a_forced_push_took_away(upstream: Upstream, host: Settings) -> None:
    lost = upstream.commit("lost")
    git(upstream.author, "reset", "--quiet", "--hard", "HEAD~1")
    upstream.commit("instead of it")
    git(upstream.path, "reflog", "expire", "--expire=now", "--all")
    git(upstream.path, "gc", "--quiet", "--prune=now")
    assert "a branch was moved away from it" in fault(host, lost)


def test_a_large_commit_comes_whole(upstream: Upstream, host: Settings) -> None:
    (upstream.author / "playbooks/files").mkdir()
    data = os.urandom(8 << 20)
    (upstream.author / "playbooks/files/image").write_bytes(data)
    with leased(host, Wanted(upstream.commit("large"))) as tree:
        assert (tree / "playbooks/files/image").read_bytes() == data


@pytest.mark.parametrize("source", ["remote", "clone", "sparse clone"])
def test_a_tree_is_what_was_committed_wherever_it_comes_from(upstream: Upstream, host: Settings, source: str) -> None:
    """As ``git clone`` writes it: attributes for ``git archive`` mean nothing, those for ends of lines hold."""
    author = upstream.author
    (author / "playbooks/run.sh").write_text("#!/bin/sh\n")
    (author / "playbooks/run.sh").chmod(0o755)
    (author / "playbooks/link").symlink_to("run.sh")
    (author / "playbooks/format").write_text("$Format:%H$\n")
    upstream.commit("lines\n", file="playbooks/files/lines", push=False)
    attributes = "format export-subst\nfiles export-ignore\nrun.sh export-ignore\nlines text eol=crlf\n"
    commit = upstream.commit(attributes, file="playbooks/.gitattributes")
    if source == "sparse clone":
        git(author, "sparse-checkout", "set", "workers")
    if source != "remote":
        host = host.model_copy(update={"site": author, "content_remote": "nowhere"})
    status = git(author, "status", "--porcelain")
    with leased(host, Wanted(commit)) as tree:
        assert (tree / "playbooks/format").read_text() == "$Format:%H$\n"
        assert (tree / "playbooks/files/lines").read_bytes() == b"lines\r\n"
        assert os.access(tree / "playbooks/run.sh", os.X_OK)
        assert not os.access(tree / "playbooks/format", os.X_OK)
        assert (tree / "playbooks/link").readlink() == Path("run.sh")
        assert (tree / "workers/default.yml").is_file()
    assert git(author, "status", "--porcelain") == status
    assert [path.name for path in host.content_dir.iterdir() if path.name.startswith(".")] == []


def test_what_a_killed_fetch_left_is_no_obstacle(upstream: Upstream, host: Settings) -> None:
    version(host, upstream.commit("second"))
    cache = host.content_dir / "cache-sha1.git"
    (cache / "shallow.lock").touch()
    assert version(host, upstream.commit("third")) == "third"
    (cache / "HEAD").unlink()
    assert version(host, upstream.commit("fourth")) == "fourth", "and a broken cache is made anew"


@pytest.mark.parametrize("remote", ["ext::sh -c 'touch hit'", "-oProxyCommand=touch hit", "", "fd::3"])
def test_addresses_that_would_run_a_program_are_no_setting(host: Settings, remote: str) -> None:
    (host.site / "relengq.toml").write_text(f'content_remote = "{remote}"\n')
    with pytest.raises(SiteFault, match="content_remote"):
        Settings.load(host.site)


def test_a_clone_cannot_make_a_worker_run_a_program(host: Settings, tmp_path: Path) -> None:
    git(host.site, "config", "protocol.ext.allow", "always")
    git(host.site, "remote", "set-url", "origin", f"ext::sh -c 'touch {tmp_path}/hit'")
    assert "transport 'ext' not allowed" in fault(host, "a" * 40)
    assert not (tmp_path / "hit").exists()


def test_submodules_are_not_followed(upstream: Upstream, host: Settings, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(upstream.path), "other")
    git(
        upstream.author,
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "add",
        str(tmp_path / "other"),
        "sub",
    )
    with leased(host, Wanted(upstream.commit("with a submodule"))) as tree:
        assert list((tree / "sub").iterdir()) == []


@pytest.mark.parametrize("password", ["hunter2", "at@hunter2", "it's@hunter2"])
def test_a_password_in_an_address_is_not_told(host: Settings, password: str) -> None:
    address = f"http://releng:{password}@127.0.0.1:{free_port()}/site.git"
    said = fault(host.model_copy(update={"content_remote": address}), "a" * 40)
    assert "hunter2" not in said
    assert "http://127.0.0.1" in said


def test_variables_of_a_git_hook_lead_nowhere_else(
    upstream: Upstream, host: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = upstream.commit("second")
    monkeypatch.setenv("GIT_DIR", str(upstream.path))
    found = revision(host.site)
    assert found is not None
    assert found.commit != second
    assert version(host, second) == "second"


def test_changes_that_are_not_committed_are_played_where_they_are(host: Settings) -> None:
    with leased(host, Wanted("a" * 40, dirty=True, host=socket.gethostname())) as tree:
        assert tree == host.site
    wanted = Wanted("a" * 40, dirty=True, host="laptop.example.org")
    with pytest.raises(RevisionMissing, match=r"started on laptop.example.org from changes that are not committed"):
        leased(host, wanted).__enter__()


def test_a_site_below_the_top_of_its_repository(upstream: Upstream, host: Settings, tmp_path: Path) -> None:
    commit = upstream.commit("below", file="sites/releng/playbooks/version")
    bare = tmp_path / "bare"
    bare.mkdir()
    update = {"site": bare, "content_remote": f"file://{upstream.path}", "content_path": Path("sites/releng")}
    assert version(host.model_copy(update=update), commit) == "below"
    assert "content_path" not in fault(host.model_copy(update={**update, "content_path": Path("nowhere")}), "b" * 40)


def test_a_host_without_a_clone_knows_what_the_remote_has_now(
    upstream: Upstream, host: Settings, tmp_path: Path
) -> None:
    second = upstream.commit("second")
    bare = host.model_copy(update={"site": tmp_path / "none", "content_remote": f"file://{upstream.path}"})
    assert trees.tip(bare) == Wanted(second)
    assert version(bare, second) == "second"


def test_a_host_without_a_clone_and_without_a_remote_says_so(host: Settings, tmp_path: Path) -> None:
    said = fault(host.model_copy(update={"site": tmp_path}), "a" * 40)
    assert "has no git remote 'origin' to fetch from" in said
    assert "content_remote" in said


def test_trees_that_nobody_uses_are_removed_and_others_are_not(upstream: Upstream, host: Settings) -> None:
    old, used, fresh = (upstream.commit(text) for text in ("old", "used", "fresh"))
    for commit in (old, used, fresh):
        version(host, commit)
    with leased(host, Wanted(used)) as tree:
        for commit in (old, used):
            _age(host.content_dir / commit, days=15)
        left = host.content_dir / f".{old[:12]}-xyz"
        left.mkdir()
        _age(left, days=1)
        gone = trees.prune(host)
        assert {old, left.name} <= set(gone)
        assert f"cache-sha1.git/{old[:12]}" in gone
        assert (tree / "playbooks/version").read_text() == "used"
    assert sorted(path.name for path in host.content_dir.iterdir()) == sorted(
        [used, fresh, "cache-sha1.git", "fetch.lock", "read.lock"]
    )
    assert not fetch.has(host.content_dir / "cache-sha1.git", old)
    assert version(host, old) == "old", "and it can be had again"


def test_a_cache_that_nobody_uses_is_removed_unless_somebody_fetches(upstream: Upstream, host: Settings) -> None:
    version(host, upstream.commit("second"))
    cache = host.content_dir / "cache-sha1.git"
    _age(cache, days=15)
    with silent_server() as port:
        stopped = threading.Event()
        hanging = host.model_copy(update={"content_remote": f"git://127.0.0.1:{port}/site.git"})
        thread = threading.Thread(target=fault, args=(hanging, "a" * 40, stopped.is_set))
        thread.start()
        wait_until(lambda: _fetches(cache), 30, "a fetch")
        _age(cache, days=15)
        assert trees.prune(host) == []
        stopped.set()
        thread.join()
    _age(cache, days=15)
    assert trees.prune(host) == ["cache-sha1.git"]


def _fetches(cache: Path) -> bool:
    return any(str(cache) in words(each) for each in psutil.Process().children())


def _age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_a_commit_that_has_just_been_fetched_is_not_taken_away_before_it_is_read(
    upstream: Upstream, host: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = upstream.commit("second")
    obtain = fetch.obtain

    def and_another_worker_starts(*arguments: object) -> Path:
        cache = obtain(*arguments)  # type: ignore[arg-type]
        assert trees.prune(host) == []
        return cache

    monkeypatch.setattr(fetch, "obtain", and_another_worker_starts)
    assert version(host, commit) == "second"
