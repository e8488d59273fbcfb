# SPDX-License-Identifier: GPL-3.0-or-later
"""RPM's order of versions, its dependencies and its files, as the compose playbooks read them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.composes import SAMPLES, module

versions = module("rpm_versions")
files = module("rpm_files")
dependencies = module("rpm_dependencies")

# From rpm's own test suite (tests/rpmvercmp.at): the first is compared with the second.
VECTORS = """
1.0 1.0 0|1.0 2.0 -1|2.0 1.0 1|2.0.1 2.0.1 0|2.0 2.0.1 -1|2.0.1a 2.0.1a 0|2.0.1a 2.0.1 1|5.5p1 5.5p2 -1|5.5p10 5.5p1 1
10xyz 10.1xyz -1|xyz10 xyz10 0|xyz10 xyz10.1 -1|xyz.4 8 -1|8 xyz.4 1|xyz.4 2 -1|5.5p2 5.6p1 -1|5.6p1 6.5p1 -1
6.0.rc1 6.0 1|6.0 6.0.rc1 -1|10b2 10a1 1|1.0aa 1.0a 1|10.0001 10.0001 0|10.0001 10.1 0|10.0001 10.0039 -1|4.999.9 5.0 -1
20101121 20101122 -1|2_0 2_0 0|2.0 2_0 0|a a 0|a+ a+ 0|a+ a_ 0|+a _a 0|+ _ 0|_+ +_ 0|1.0~rc1 1.0~rc1 0|1.0~rc1 1.0 -1
1.0 1.0~rc1 1|1.0~rc1 1.0~rc2 -1|1.0~rc1~git123 1.0~rc1 -1|1.0^ 1.0 1|1.0^git1 1.0 1|1.0^git1 1.0^git2 -1
1.0^git1 1.01 -1|1.0^20160101 1.0.1 -1|1.0^20160101^git1 1.0^20160102 -1|1.0~rc1^git1 1.0~rc1 1|1.0^git1~pre 1.0^git1 -1
1.0^git1 1.0^git1~pre 1|1.900 1.8000 -1|FC5 fc4 -1|2a 2.0 -1|1.0 1.fc4 1|3.0.0_fc 3.0.0.fc 0
"""
TABLE = [tuple(entry.split()) for entry in VECTORS.replace("\n", "|").split("|") if entry]


def order(left: str, right: str) -> int:
    one, other = versions.version_key(left), versions.version_key(right)
    return (one > other) - (one < other)


@pytest.mark.parametrize(("left", "right", "expected"), TABLE)
def test_versions_order_as_in_rpms_own_tests(left: str, right: str, expected: str) -> None:
    assert order(left, right) == int(expected)
    assert order(right, left) == -int(expected)


@pytest.mark.skipif(not shutil.which("rpm"), reason="rpm is not installed, so there is nothing to compare with")
@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(*[st.text("019ab.~^_", min_size=1, max_size=8)] * 2), min_size=60, max_size=60))
def test_versions_order_as_rpm_orders_them(pairs: list[tuple[str, str]]) -> None:
    script = "".join(f"print(rpm.vercmp('{left}','{right}')..' ')" for left, right in pairs)
    done = subprocess.run(["rpm", "--eval", f"%{{lua:{script}}}"], capture_output=True, text=True, check=True)
    assert [order(*pair) for pair in pairs] == [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize(
    ("offered", "wanted", "holds"),
    [
        ("= 1.0-1", ">= 1.0", True),
        ("= 1.0-1", "= 1.0", True),
        ("= 1.0-1", "= 1.0-2", False),
        ("= 1.0-1", "> 1.0", False),
        ("= 1:1.0-1", ">= 2.0", True),
        ("= 0:1.0-1", "< 1:0.1", True),
        ("= 1.10-1", "> 1.9", True),
        ("= 3.0~rc1-1", ">= 3.0", False),
        ("< 2", "> 1", True),
        ("< 1", "> 1", False),
        (">= 5", "< 3", False),
        ("", ">= 3", True),
        ("= 1.0-1", "", True),
    ],
)
def test_ranges_overlap_as_rpm_says(offered: str, wanted: str, *, holds: bool) -> None:
    def read(text: str) -> object:
        sense, _, evr = text.partition(" ")
        return versions.Range(sense, versions.Evr.parse(evr)) if evr else versions.ANY

    assert read(offered).overlaps(read(wanted)) is holds
    assert read(wanted).overlaps(read(offered)) is holds


def universe(*requires: str) -> object:
    """Packages a, b, c-2.0 (which also provides virtual) and the file /usr/bin/tool; one more that requires."""

    def package(name: str, *, needs: tuple[str, ...] = (), gives: tuple[str, ...] = (), tool: bool = False) -> object:
        provides = [(name, "EQ", "0", "2.0", "1", False), *((extra, None, None, None, None, False) for extra in gives)]
        paths = [(None, "/usr/bin/", "tool")] if tool else []
        needs = [(need, None, None, None, None, False) for need in needs]
        return SimpleNamespace(name=name, provides=provides, requires=needs, files=paths)

    return dependencies.Universe(
        [package("a", gives=("lib(x86-64)",)), package("b", tool=True), package("c", gives=("virtual",)),
         package("asks", needs=requires)]
    )  # fmt: skip


@pytest.mark.parametrize(
    "answered",
    [
        "a", "/usr/bin/tool", "rpmlib(CompressedFileNames)", "(a and b)", "(a or nothing)", "(nothing or b)",
        "(a if b)", "(nothing if absent)", "(a if b else nothing)", "(nothing if absent else a)", "(a unless b)",
        "(c with virtual)", "(c >= 1 with c < 3)", "(c without a)", "((a and b) or nothing)", "(lib(x86-64) and a)",
        "(a and b and c)", "(nothing unless a)", "(c >= 0:2.0-1)", "asks",
    ],
)  # fmt: skip
def test_what_the_set_provides_is_answered(answered: str) -> None:
    assert [text for _package, text in universe(answered).unresolved()] == []


@pytest.mark.parametrize(
    "unanswered",
    [
        "nothing", "/usr/bin/absent", "(a and nothing)", "(nothing or absent)", "(nothing if a)",
        "(a if b and nothing)", "(absent if nothing else missing)", "(a with b)", "(c without virtual)",
        "(c >= 1 with c < 2)", "(c > 9)", "(nothing unless absent)", "(a", "()", "(a and)", "(a xor b)",
        "(a and b) c", "(" * 200 + "a" + ")" * 200,
    ],
)  # fmt: skip
def test_what_the_set_lacks_or_nobody_can_read_is_named(unanswered: str) -> None:
    assert [text for _package, text in universe(unanswered).unresolved()] == [unanswered]


def test_the_newest_build_of_each_name_is_found_by_rpms_order() -> None:
    paths = sorted(SAMPLES.glob("tuesday/*/*.x86_64.rpm"))
    best = files.newest((path, files.read_rpm(path)) for path in paths)
    assert {name: str(files.evr(package)) for name, (_path, package) in best.items()} == {
        "acorn": "2.0-1",
        "birch-shell": "5.3-1",
        "libsap": "1.10-1",
        "libsap-debuginfo": "1.10-1",
        "libsap-devel": "1.10-1",
        "sapling": "3.0-1",
        "twig": "1:0.9-1",
    }


def test_whole_files_pass_and_each_kind_of_broken_one_is_said(tmp_path: Path) -> None:
    whole = SAMPLES / "tuesday" / "aarch64" / "libsap-1.10-1.aarch64.rpm"
    files.check_payload(whole, files.read_rpm(whole))

    cut = SAMPLES / "broken" / "aarch64" / whole.name
    with pytest.raises(files.BrokenRpm, match="cut short or changed"):
        files.check_payload(cut, files.read_rpm(cut))

    changed = tmp_path / "changed.rpm"
    data = bytearray(whole.read_bytes())
    data[-5] ^= 1
    changed.write_bytes(data)
    with pytest.raises(files.BrokenRpm, match="cut short or changed"):
        files.check_payload(changed, files.read_rpm(changed))

    for name, content in {"empty": b"", "text": b"no RPM at all", "stub": whole.read_bytes()[:900]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(files.BrokenRpm, match="its header cannot be read"):
            files.read_rpm(tmp_path / name)
