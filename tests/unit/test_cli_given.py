# SPDX-License-Identifier: GPL-3.0-or-later
"""Inputs as persons give them: pairs, files, and answers on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

from relengq.cli.given import gather
from relengq.cli.parameters import Moment
from relengq.errors import InputFault, UsageFault
from relengq.inputs import InputSpec

SPECS = {
    "release": InputSpec(pattern="rawhide|f[0-9]+", help="Release to compose"),
    "arches": InputSpec(type="list", default=["x86_64"]),
    "keep": InputSpec(type="int", default=3),
    "sign": InputSpec(type="bool", default=False),
    "token": InputSpec(secret=True, default=""),
}


def test_pairs_become_the_types_that_are_declared() -> None:
    pairs = [("release", "f44"), ("arches", "x86_64,aarch64"), ("keep", "5"), ("sign", "yes")]
    assert gather(SPECS, pairs, None) == {
        "release": "f44", "arches": ["x86_64", "aarch64"], "keep": 5, "sign": True,
    }  # fmt: skip


def test_pairs_win_over_the_file(tmp_path: Path) -> None:
    for name, text in (("a.yml", "release: f43\nkeep: 7\n"), ("a.json", '{"release": "f43", "keep": 7}')):
        (tmp_path / name).write_text(text)
        assert gather(SPECS, [("release", "f44")], tmp_path / name) == {"release": "f44", "keep": 7}


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("- release\n")
    with pytest.raises(UsageFault, match="mapping of input names"):
        gather(SPECS, [], tmp_path / "a.yml")


def test_a_value_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2\n")
    pairs = [("token", f"@{tmp_path}/token"), ("release", "@@home")]
    assert gather(SPECS, pairs, None) == {"token": "hunter2", "release": "@home"}


def test_all_problems_are_told_at_once() -> None:
    pairs = [("keep", "many"), ("sign", "perhaps"), ("token", "@nowhere"), ("release", "f44"), ("release", "f45")]
    with pytest.raises(InputFault) as found:
        gather(SPECS, pairs, None)
    assert len(found.value.problems) == 4


def test_a_secret_does_not_show_in_problems() -> None:
    specs = {"pin": InputSpec(type="int", secret=True)}
    with pytest.raises(InputFault) as found:
        gather(specs, [("pin", "hunter2")], None)
    assert "hunter2" not in str(found.value)


ASK = """
import json, sys
from relengq.cli.given import gather
from relengq.inputs import InputSpec
specs = {"release": InputSpec(pattern="rawhide|f[0-9]+"), "token": InputSpec(secret=True)}
print("GIVEN", json.dumps(gather(specs, [], None)), flush=True)
"""


def test_missing_inputs_are_asked_for_on_a_terminal_and_secrets_not_shown() -> None:
    terminal, other = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", ASK], stdin=other, stdout=other, stderr=other, close_fds=True)
    os.close(other)
    try:
        seen = _answer(terminal, "release", "fedora")
        seen += _answer(terminal, "must match", "f44")
        seen += _answer(terminal, "token", "hunter2")
        seen += _read_until(terminal, "GIVEN {")
        shown = seen.partition("GIVEN")[0]
        assert "hunter2" not in shown
        assert '{"release": "f44", "token": "hunter2"}' in seen + _rest(terminal)
    finally:
        process.wait(30)
        os.close(terminal)


def _answer(terminal: int, question: str, answer: str) -> str:
    seen = _read_until(terminal, question)
    seen += _read_until(terminal, ": ") if not seen.endswith(": ") else ""
    os.write(terminal, f"{answer}\n".encode())
    return seen


def _read_until(terminal: int, text: str) -> str:
    seen = ""
    while text not in seen:
        seen += os.read(terminal, 1024).decode()
    return seen


def _rest(terminal: int) -> str:
    seen = ""
    try:
        while data := os.read(terminal, 1024):
            seen += data.decode()
    except OSError:  # how Linux says that the other end of a terminal was closed
        pass
    return seen


@pytest.mark.parametrize(
    ("text", "ago"), [("30m", timedelta(minutes=30)), ("2h", timedelta(hours=2)), ("7d", timedelta(days=7))]
)
def test_a_time_can_be_how_long_ago(text: str, ago: timedelta) -> None:
    found = Moment().convert(text, None, None)
    assert abs(datetime.now(UTC) - ago - found) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20T05:15+00:00", datetime(2026, 11, 20, 5, 15, tzinfo=UTC)),
        ("2026-11-20T05:15Z", datetime(2026, 11, 20, 5, 15, tzinfo=UTC)),
        ("2026-11-20T05:15+02:00", datetime(2026, 11, 20, 3, 15, tzinfo=UTC)),
        ("2026-11-20", datetime(2026, 11, 20).astimezone(UTC)),
    ],
)
def test_a_time_can_be_a_date(text: str, moment: datetime) -> None:
    assert Moment().convert(text, None, None) == moment


@pytest.mark.parametrize("text", ["", "soon", "99999d", "2026-13-01", "1e999d"])
def test_what_is_no_time_is_said(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time"):
        Moment().convert(text, None, None)


def test_today_began_before_now() -> None:
    assert Moment().convert("yesterday", None, None) < Moment().convert("today", None, None) <= datetime.now(UTC)
