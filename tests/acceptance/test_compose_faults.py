# SPDX-License-Identifier: GPL-3.0-or-later
"""What the shipped compose does when something is wrong: with packages, with architectures, with Pungi, with values."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import productmd.compose
import pytest

from tests.support.composes import SAMPLES, Night, compose, module, play

# Dozens of plays of more than a second each, on machines that do other things too.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
layout = module("compose_layout")
BROKEN = Path("aarch64", "libsap-1.10-1.aarch64.rpm")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published compose that tests copy; none may change it."""
    played = compose(tmp_path_factory.mktemp("good"), compose_date="20261109", compose_run="good")
    assert played.code == 0, played.text
    return Path(str(played.outputs["compose_path"]))


@pytest.fixture
def target(good: Path, tmp_path: Path) -> Path:
    """A directory of composes that holds the good one as the latest."""
    target = tmp_path / "composes"
    shutil.copytree(good.parent, target, symlinks=True)
    return target


def status(path: object) -> str:
    return Path(str(path), "STATUS").read_text(encoding="utf-8").strip()


def latest(target: Path) -> str:
    return (target / "latest-Fedora-Rawhide").readlink().name


def test_an_architecture_that_may_fail_is_left_out(target: Path) -> None:
    given = {"release": "rawhide", "target_dir": str(target), "source": "samples/rpms/broken"}
    night = Night("nightly-compose", {**given, "failable_arches": ["aarch64"]}).go()
    assert night.result == "succeeded", night.steps
    assert night.steps["gather"]["failed"] == ["aarch64"]
    path = Path(str(night.outputs["compose_path"]))
    assert (status(path), latest(target)) == ("FINISHED_INCOMPLETE", path.name)
    assert night.outputs["failed_arches"] == ["aarch64"]
    read = productmd.compose.Compose(str(path))
    assert read.info["Everything"].arches == {"x86_64"}
    assert list(read.rpms["Everything"]) == ["x86_64"]
    assert not (path / "compose/Everything/aarch64").exists()
    assert f"{BROKEN}: its payload does not match" in (path / "logs/global/report.txt").read_text()


def test_one_that_must_not_fail_dooms_the_compose_until_it_is_repaired(target: Path, tmp_path: Path) -> None:
    source, before = tmp_path / "rpms", latest(target)
    shutil.copytree(SAMPLES / "broken", source)
    night = Night("nightly-compose", {"release": "rawhide", "target_dir": str(target), "source": str(source)}).go()
    path = Path(str(night.outputs["compose_path"]))
    assert night.result == "failed"
    assert night.played == ["begin", "gather[x86_64]", "gather[aarch64]", "report"]
    assert str(BROKEN) in str(night.steps["gather"]["message"])
    assert "it was cut short or changed" in str(night.steps["gather"]["message"])
    assert (status(path), latest(target)) == ("DOOMED", before)

    shutil.copy(SAMPLES / "tuesday" / BROKEN, source / BROKEN)
    night.played.clear()
    night.go()
    assert night.result == "succeeded", night.steps
    assert night.played[0] == "gather[aarch64]"
    assert (status(path), latest(target)) == ("FINISHED", path.name)
    assert not list(path.glob("work/*/FAILED.*"))


def test_a_requirement_without_an_answer_is_named_and_treated_as_asked(target: Path) -> None:
    path = target / latest(target)
    (path / "STATUS").write_text("STARTED\n")
    for arch in ("x86_64", "aarch64"):
        (path / f"compose/Everything/{arch}/os/Packages/t/twig-0.9-1.{arch}.rpm").unlink()
        assert play("compose-createrepo.yml", {"compose_path": str(path), "compose_arch": arch}).code == 0
    sentence = "sapling-0:3.0-1.x86_64 requires (twig if bark)"
    for policy, code, said in (("fail", 2, True), ("warn", 0, True), ("report", 0, False)):
        played = play("compose-closure.yml", {"compose_path": str(path), "compose_closure": policy})
        assert (played.code, sentence in played.message) == (code, said), played.text
    missing = json.loads((path / "logs/global/closure.json").read_text())
    assert missing["aarch64"] == [
        {"package": "bark-0:1.0-1.noarch", "requires": "twig"},
        {"package": "sapling-0:3.0-1.aarch64", "requires": "(twig if bark)"},
    ]
    assert sentence in (path / "logs/x86_64/repoclosure.txt").read_text()


def test_composes_beyond_the_count_go_but_never_the_latest_a_running_or_another_releases(target: Path) -> None:
    path = target / latest(target)
    others = {
        "Fedora-Rawhide-20261101.n.0": "FINISHED", "Fedora-Rawhide-20261102.n.0": "STARTED",
        "Fedora-Rawhide-20261103.n.0": "DOOMED", "Fedora-Rawhide-20261104.n.9": "FINISHED_INCOMPLETE",
        "Fedora-Rawhide-20261104.n.10": "FINISHED", "Fedora-Rawhide-20261110.n.0": "DOOMED",
        "Fedora-44-20261101.n.0": "FINISHED", "Fedora-Rawhide-20261101.t.0": "FINISHED",
    }  # fmt: skip
    for name, said in others.items():
        (target / name / "compose").mkdir(parents=True)
        (target / name / "COMPOSE_ID").write_text(name)
        (target / name / "STATUS").write_text(said)
    (target / "Fedora-Rawhide-20261101.n.7").symlink_to("Fedora-44-20261101.n.0")
    (target / "notes").mkdir()
    kept = {entry.name for entry in target.iterdir()}
    played = play("compose-publish.yml", {"compose_path": str(path), "compose_keep": 2})
    assert played.code == 0, played.text
    assert kept - {entry.name for entry in target.iterdir()} == {
        "Fedora-Rawhide-20261101.n.0", "Fedora-Rawhide-20261103.n.0", "Fedora-Rawhide-20261104.n.9",
    }  # fmt: skip
    assert {entry.name for entry in target.iterdir()} <= kept

    layout.point(target / "latest-Fedora-Rawhide", "Fedora-Rawhide-20261104.n.10")
    played = play("compose-publish.yml", {"compose_path": str(path), "compose_keep": 1})
    assert (played.code, latest(target)) == (0, path.name)


def test_a_reader_of_the_latest_link_never_misses_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "STATUS").write_text("FINISHED")
    link, done, read = tmp_path / "latest-Fedora-Rawhide", threading.Event(), []
    layout.point(link, "one")

    def reader() -> None:
        while not done.is_set():
            read.append((link / "STATUS").exists())

    watching = threading.Thread(target=reader)
    watching.start()
    for number in range(500):
        layout.point(link, ("one", "two")[number % 2])
    done.set()
    watching.join()
    assert read
    assert all(read)
    assert {entry.name for entry in tmp_path.iterdir()} == {"one", "two", link.name}


@pytest.fixture
def pungi(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A pungi-koji in PATH; the file is where it records its arguments."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "pungi-koji").symlink_to(Path(__file__).parents[1] / "support" / "pungi-koji")
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("FAKE_PUNGI_RECORD", str(tmp_path / "record.json"))
    monkeypatch.setenv("FAKE_PUNGI_COMPOSE", str(good))
    return tmp_path / "record.json"


def test_pungi_is_called_as_fedoras_nightly_calls_it(
    pungi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PUNGI_STATUS", "FINISHED_INCOMPLETE")
    target = tmp_path / "composes"
    given = {"release": "rawhide", "engine": "pungi", "target_dir": str(target), "label": "RC-20261109.0"}
    options = ["--skip-phase=createiso", "--koji-event=1234"]
    night = Night("nightly-compose", {**given, "pungi_config": "/etc/pungi/fedora.conf", "pungi_options": options}).go()
    assert night.result == "succeeded", night.steps
    assert night.played == ["pungi", "closure", "changes", "publish", "report"]
    assert json.loads(pungi.read_text()) == [
        "--config=/etc/pungi/fedora.conf", f"--target-dir={target}", f"--old-composes={target}", "--nightly",
        "--no-latest-link", "--quiet", "--print-output-dir", "--label=RC-20261109.0", *options,
    ]  # fmt: skip
    path = target / "Fedora-Rawhide-20261109.n.0"
    assert night.outputs["compose_path"] == str(path)
    assert night.outputs["compose_status"] == "FINISHED_INCOMPLETE"
    assert (status(path), latest(target)) == ("FINISHED_INCOMPLETE", path.name)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("DOOMED", "Pungi ended with 1, and {target}/Fedora-Rawhide-20261109.n.0 is DOOMED."),
        ("CRASH", "Pungi ended with 1, and its compose is without STATUS. Traceback: nobody was home"),
        ("STARTED", "Pungi ended with 1, and {target}/Fedora-Rawhide-20261109.n.0 is STARTED."),
    ],
)
@pytest.mark.usefixtures("pungi")
def test_a_pungi_that_does_not_finish_fails_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, sentence: str
) -> None:
    monkeypatch.setenv("FAKE_PUNGI_STATUS", said)
    variables = {"compose_target_dir": str(tmp_path / "c"), "compose_pungi_config": "/etc/pungi/fedora.conf"}
    played = play("compose-pungi.yml", variables)
    assert played.code == 2
    assert sentence.format(target=tmp_path / "c") in played.message
    path = "" if said == "CRASH" else str(tmp_path / "c/Fedora-Rawhide-20261109.n.0")
    assert (played.outputs["compose_path"], played.outputs["compose_status"]) == (path, said if path else "")


HOSTILE = "{{ lookup('pipe', 'touch %s') }}; touch %s $(touch %s) `touch %s` ' || touch %s '\ntouch %s"


@pytest.mark.parametrize("value", [HOSTILE, f"--option={HOSTILE}"])
def test_hostile_values_do_nothing(tmp_path: Path, good: Path, value: str) -> None:
    """Where a value is checked, the play fails; where any text will do, it is a name and nothing else."""
    trap = tmp_path / "trap"
    evil = value.replace("%s", str(trap))
    composes = tmp_path / "composes"
    plays = [
        ("compose-begin.yml", {"compose_release": evil, "compose_target_dir": str(composes)}),
        ("compose-gather.yml", {"compose_path": str(good), "compose_arch": "x86_64", "compose_source": evil}),
        ("compose-pungi.yml", {"compose_pungi_config": f"/etc/{evil}", "compose_pungi_options": [f"{evil} -- {evil}"],
                               "compose_target_dir": str(composes), "compose_pungi_program": "true"}),
    ]  # fmt: skip
    for playbook, variables in plays:
        played = play(playbook, variables)
        assert played.code == 2, played.text
    assert not trap.exists()
    assert not composes.exists()


def test_hostile_names_of_directories_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "{{ lookup('pipe', 'touch trap') }} `touch trap`; touch trap"
    source = tmp_path / "source" / name
    shutil.copytree(SAMPLES / "monday", source)
    played = compose(
        tmp_path / name,
        compose_source=str(source),
        compose_arches=["x86_64"],
        compose_run=name,
        compose_date="20261109",
    )
    assert played.code == 0, played.text
    assert status(tmp_path / name / "latest-Fedora-Rawhide") == "FINISHED"
    assert not [*tmp_path.rglob("trap"), *SAMPLES.parents[1].rglob("trap")]


def test_names_of_directories_that_ansible_would_expand_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a task gives a path to a module, Ansible itself replaces variables of the environment in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("$HOME", "${HOME}", "$(touch trap)"):
        begun = play("compose-begin.yml", {"compose_release": "f44", "compose_target_dir": str(tmp_path / name)})
        assert begun.code == 2, begun.text
        assert "$" in begun.message
    assert list(tmp_path.iterdir()) == []


def test_an_rpm_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "rpms" / "deep"
    source.mkdir(parents=True)
    shutil.copy(SAMPLES / "tuesday" / BROKEN, source / "libsap-1.10-1.x86_64.rpm")
    (source / "stub-1-1.noarch.rpm").write_bytes(b"not yet")
    begun = play("compose-begin.yml", {"compose_release": "f44", "compose_target_dir": str(tmp_path / "composes")})
    given = {"compose_path": begun.outputs["compose_path"], "compose_arch": "x86_64"}
    played = play("compose-gather.yml", {**given, "compose_source": str(tmp_path / "rpms")})
    assert "2 of the RPMs are broken" in played.message
    assert "libsap-1.10-1.x86_64.rpm: its header says that it is for aarch64" in played.message
    assert "stub-1-1.noarch.rpm: its header cannot be read" in played.message


GATHER = {"compose_arch": "x86_64"}


@pytest.mark.parametrize(
    ("playbook", "variables", "sentence"),
    [
        ("gather", {"compose_arch": "m68k"}, "value of compose_arch must be one of"),
        ("gather", {"compose_arch": "s390x"}, "samples/rpms/tuesday has no package for s390x"),
        ("gather", {**GATHER, "compose_source": "/nowhere"}, "No such file or directory: '/nowhere'"),
        ("gather", {**GATHER, "compose_source": "samples/rpms/monday"}, "must not change any more"),
        ("metadata", {"compose_arches": ["x86_64", "s390x"]}, "s390x: it has no repodata"),
        ("closure", {"compose_path": "/nowhere"}, "/nowhere is no compose"),
        ("publish", {"compose_keep": 0}, "keep must be at least 1"),
        ("begin", {"compose_release": "rawhide", "compose_label": "Nonsense-1.1"}, "The compose cannot begin"),
    ],
)
def test_each_fault_is_one_sentence(
    good: Path, tmp_path: Path, playbook: str, variables: dict[str, object], sentence: str
) -> None:
    given = {"compose_path": str(good), "compose_target_dir": str(tmp_path), **variables}
    before = status(good)
    played = play(f"compose-{playbook}.yml", given)
    assert played.code == 2
    assert sentence in played.message, played.text
    assert "Traceback" not in played.text
    assert status(good) == before
