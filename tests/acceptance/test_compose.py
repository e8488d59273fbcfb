# SPDX-License-Identifier: GPL-3.0-or-later
"""Two nights of the shipped compose, looked at with tools that are not ours."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import createrepo_c as cr
import productmd.compose
import productmd.composeinfo
import pytest

from tests.support.composes import SAMPLES, Night, compose, play

# Dozens of plays of more than a second each, on machines that do other things too.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ARCHES = ["aarch64", "x86_64"]
NEWEST = {
    "acorn-0:2.0-1", "bark-0:1.0-1", "birch-release-0:45-0.2", "birch-shell-0:5.3-1", "libsap-0:1.10-1",
    "libsap-devel-0:1.10-1", "moss-0:1.2-1", "sapling-0:3.0-1", "sapling-data-0:3.0-1", "twig-1:0.9-1",
}  # fmt: skip


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("composes")


@pytest.fixture(scope="module")
def monday(target: Path) -> Path:
    """A compose that Ansible alone made."""
    played = compose(target, compose_source="samples/rpms/monday", compose_date="20261109", compose_run="monday")
    assert played.code == 0, played.text
    assert (played.outputs["compose_status"], played.outputs["packages"]) == ("FINISHED", 22)
    return Path(str(played.outputs["compose_path"]))


@pytest.fixture(scope="module")
def night(target: Path, monday: Path) -> Night:
    """The night after, as the workflow file says."""
    assert monday.name == "Fedora-Rawhide-20261109.n.0"
    night = Night("nightly-compose", {"release": "rawhide", "target_dir": str(target)}, run_id="tuesday").go()
    assert night.result == "succeeded", night.steps
    return night


@pytest.fixture(scope="module")
def tuesday(night: Night) -> Path:
    return Path(str(night.outputs["compose_path"]))


def test_the_workflow_plays_each_step_and_hands_on_what_came_out(night: Night, tuesday: Path, monday: Path) -> None:
    assert night.played == [
        "begin", "gather[x86_64]", "gather[aarch64]", "createrepo[x86_64]", "createrepo[aarch64]",
        "metadata", "closure", "changes", "publish", "report",
    ]  # fmt: skip
    assert night.outputs["compose_id"] == tuesday.name
    assert night.outputs["compose_status"] == "FINISHED"
    assert night.outputs["previous_compose"] == monday.name
    assert night.outputs["changed_packages"] == {"added": 1, "dropped": 1, "upgraded": 4, "downgraded": 1}
    assert night.outputs["missing_requirements"] == 0


def test_it_lies_where_pungi_would_have_put_it(target: Path, monday: Path, tuesday: Path) -> None:
    for path in (monday, tuesday):
        assert (path / "COMPOSE_ID").read_text() == path.name
        assert (path / "STATUS").read_text() == "FINISHED\n"
    assert (target / "latest-Fedora-Rawhide").readlink() == Path(tuesday.name)
    everything = tuesday / "compose" / "Everything"
    assert (everything / "x86_64/os/Packages/l/libsap-1.10-1.x86_64.rpm").is_file()
    assert (everything / "aarch64/debug/tree/Packages/l/libsap-debuginfo-1.10-1.aarch64.rpm").is_file()
    assert (everything / "source/tree/Packages/m/moss-1.2-1.src.rpm").is_file()


@pytest.mark.parametrize("arch", ARCHES)
def test_createrepo_reads_the_newest_build_of_each_package(tuesday: Path, arch: str) -> None:
    tree = tuesday / "compose" / "Everything" / arch / "os"
    packages = list(cr.RepositoryReader.from_path(str(tree)).iter_packages())
    assert {f"{one.name}-{one.epoch}:{one.version}-{one.release}" for one in packages} == NEWEST
    assert {package.arch for package in packages} == {arch, "noarch"}
    for package in packages:
        assert (tree / package.location_href).stat().st_size == package.size_package


@pytest.mark.skipif(not shutil.which("dnf"), reason="dnf is not installed")
@pytest.mark.parametrize("arch", ARCHES)
def test_dnf_sees_the_same_packages(tuesday: Path, arch: str) -> None:
    tree = tuesday / "compose" / "Everything" / arch / "os"
    command = ["dnf", "--quiet", "--releasever=45", f"--forcearch={arch}", f"--repofrompath=new,{tree.as_uri()}"]
    command += [f"--setopt=cachedir={tuesday / 'work' / 'dnf'}", "--repo=new", "repoquery"]
    command += ["--queryformat=%{name}-%{epoch}:%{version}-%{release}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == NEWEST


def test_productmd_takes_the_metadata(tuesday: Path) -> None:
    read = productmd.compose.Compose(str(tuesday))
    for part in (read.info, read.info.compose, read.info.release, read.rpms, read.images):
        part.validate()
    assert (read.info.compose.id, read.info.compose.type) == (tuesday.name, "nightly")
    variant = read.info["Everything"]
    assert variant.arches == set(ARCHES)
    top = tuesday / "compose"
    for places in (variant.paths.os_tree, variant.paths.debug_tree, variant.paths.source_tree):
        assert sorted(places) == ARCHES
        assert all((top / place / "repodata" / "repomd.xml").is_file() for place in places.values())
    listed = {
        package["path"]
        for sources in read.rpms["Everything"].values()
        for packages in sources.values()
        for package in packages.values()
    }
    assert listed == {str(path.relative_to(top)) for path in top.rglob("*.rpm")}
    assert "twig-1:0.9-1.src" in read.rpms["Everything"]["x86_64"]


def test_sha256sum_finds_every_file_whole(tuesday: Path) -> None:
    top = tuesday / "compose"
    lists = sorted(top.rglob("CHECKSUM"))
    assert len(lists) == 6
    for file in lists:
        done = subprocess.run(
            ["sha256sum", "--check", "--strict", "CHECKSUM"],
            cwd=file.parent,
            capture_output=True,
            text=True,
            check=True,
        )
        checked = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
        present = {str(path.relative_to(file.parent)) for path in file.parent.rglob("*") if path.is_file()}
        assert checked == present - {"CHECKSUM"}


def test_the_change_report_names_each_change(tuesday: Path) -> None:
    changes = json.loads((tuesday / "logs/global/changes.json").read_text())
    versions = {
        kind: {change["name"]: (change.get("old_version"), change["version"]) for change in changes[kind]}
        for kind in ("added", "dropped", "upgraded", "downgraded")
    }
    assert versions == {
        "added": {"moss": (None, "1.2-1")},
        "dropped": {"lichen": (None, "0.4-7")},
        "upgraded": {
            "birch-release": ("45-0.1", "45-0.2"),
            "libsap": ("1.9-1", "1.10-1"),
            "sapling": ("3.0~rc1-1", "3.0-1"),
            "twig": ("2026.10-3", "1:0.9-1"),
        },
        "downgraded": {"acorn": ("2.1-1", "2.0-1")},
    }
    libsap = next(change for change in changes["upgraded"] if change["name"] == "libsap")
    of_both = [
        sum(
            path.stat().st_size
            for path in SAMPLES.glob(f"tuesday/*/libsap-*{version}-1.*.rpm")
            if "src" not in path.name
        )
        for version in ("1.9", "1.10")
    ]
    assert (libsap["size"], libsap["size_change"]) == (of_both[1], of_both[1] - of_both[0])
    text = (tuesday / "logs/global/changes.txt").read_text()
    assert "Upgraded packages:   4\n" in text
    assert "Package:      libsap-1.10-1\nOld package:  libsap-1.9-1\n" in text
    assert "- Update to 1.10" in text
    assert "- Import" not in text.partition("UPGRADED")[2].partition("DOWNGRADED")[0]


def test_a_second_play_changes_nothing(target: Path, tuesday: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        found = ((path, path.lstat()) for path in sorted(target.rglob("*")))
        return {str(path): (stat.st_mtime_ns, stat.st_ino) for path, stat in found if "/work/dnf" not in str(path)}

    before = state()
    played = compose(target, compose_run="tuesday")
    assert (played.code, played.changed) == (0, 0), played.text
    assert state() == before
    assert played.outputs["compose_path"] == str(tuesday)


def test_check_mode_changes_nothing(tmp_path: Path, tuesday: Path) -> None:
    played = compose(tmp_path / "new", "--check")
    assert played.code == 0, played.text
    assert list(tmp_path.iterdir()) == []

    written = tuesday / "compose/metadata/rpms.json"
    kept = written.read_bytes()
    written.unlink()
    try:
        played = play("compose-metadata.yml", {"compose_path": str(tuesday)}, "--check")
        assert not written.exists()
    finally:
        written.write_bytes(kept)
    assert played.code == 2
    assert "FINISHED and must not change any more" in played.message


def test_a_compose_begun_again_counts_its_respin_up(target: Path, tuesday: Path) -> None:
    runs = [("first", 0), ("first", 0), ("second", 1)]
    variables = {"compose_release": "rawhide", "compose_target_dir": str(target), "compose_date": "20261108"}
    for run, respin in runs:
        played = play("compose-begin.yml", {**variables, "compose_run": run})
        assert played.outputs["compose_id"] == f"Fedora-Rawhide-20261108.n.{respin}"
    assert (target / "latest-Fedora-Rawhide").readlink() == Path(tuesday.name)


def test_a_candidate_has_its_label_and_is_staged_under_it_once(tuesday: Path, tmp_path: Path) -> None:
    begun = play(
        "compose-begin.yml",
        {"compose_release": "f44", "compose_target_dir": str(tmp_path), "compose_kind": "production",
         "compose_label": "RC-1.2", "compose_date": "20261120"},
    )  # fmt: skip
    assert begun.outputs["compose_id"] == "Fedora-44-20261120.0"
    base = productmd.composeinfo.ComposeInfo()
    base.load(str(tmp_path / "Fedora-44-20261120.0/work/global/composeinfo-base.json"))
    assert (base.compose.type, base.compose.label) == ("production", "RC-1.2")

    candidate, stage = tmp_path / "candidates" / tuesday.name, tmp_path / "stage"
    shutil.copytree(tuesday, candidate)
    info = productmd.compose.Compose(str(candidate)).info
    info.compose.label = "RC-1.2"
    info.dump(str(candidate / "compose/metadata/composeinfo.json"))
    variables = {"compose_path": str(candidate), "compose_stage_dir": str(stage)}
    first, second = play("compose-stage.yml", variables), play("compose-stage.yml", variables)
    assert (first.code, first.changed, second.code, second.changed) == (0, 1, 0, 0), first.text
    assert [entry.name for entry in stage.iterdir()] == ["Rawhide_RC-1.2"]
    assert productmd.compose.Compose(str(stage / "Rawhide_RC-1.2")).info.compose.id == tuesday.name


@pytest.mark.skipif(not shutil.which("rpmbuild"), reason="rpmbuild is not installed")
def test_the_samples_are_what_their_spec_files_build(tmp_path: Path) -> None:
    spec = SAMPLES.parent / "specs" / "tuesday" / "sapling.spec"
    subprocess.run(
        ["rpmbuild", "-ba", "--quiet", "--target=aarch64-linux", f"--define=_topdir {tmp_path}",
         "--define=debug_package %{nil}", spec],
        check=True, capture_output=True,
    )  # fmt: skip
    built = {path.name: path for path in tmp_path.glob("*RPMS/**/*.rpm")}
    assert sorted(built) == ["sapling-3.0-1.aarch64.rpm", "sapling-3.0-1.src.rpm", "sapling-data-3.0-1.noarch.rpm"]
    for name, path in built.items():
        [sample] = SAMPLES.glob(f"tuesday/*/{name}")
        new, old = cr.package_from_rpm(str(path)), cr.package_from_rpm(str(sample))
        for part in ("name", "arch", "epoch", "version", "release", "requires", "provides", "files", "summary"):
            assert getattr(new, part) == getattr(old, part), part
