# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge of the command line: help, exit codes, and one line for each fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from relengq import cli
from relengq.cli import main
from relengq.cli.options import one_line, printable
from relengq.cli.screen import print_json
from relengq.cli.verbs import VERBS
from relengq.errors import DatabaseUnavailable, NotFound, RelengqError, WrongState


@pytest.fixture(autouse=True)
def here(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Calls are made in the directory of a site."""
    monkeypatch.chdir(site)
    return site


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the verb 'check' end with this error."""

    @click.command("check")
    def check() -> None:
        """Fail."""
        raise error

    monkeypatch.setattr("relengq.cli.site.check_command", check)


@pytest.mark.parametrize("name", VERBS)
def test_the_table_says_what_the_verb_itself_says(name: str) -> None:
    command = cli.relengq.get_command(click.Context(cli.relengq), name)
    assert command is not None
    assert (command.help or "").splitlines()[0] == VERBS[name].summary
    assert command.name == name


def test_help_imports_no_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from relengq.cli import main; main(['--help']); print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert "Exit codes" in done.stdout


def test_help_is_quick() -> None:
    best = min(_timed([sys.executable, "-m", "relengq", "--help"]) for _ in range(3))
    bare = min(_timed([sys.executable, "-c", "import click"]) for _ in range(3))
    assert best < bare + 0.3


def _timed(argv: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(argv, capture_output=True, check=True)
    return time.perf_counter() - started


def test_an_unknown_verb_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statis"]) == 2
    assert (
        capsys.readouterr().err == "relengq: There is no verb 'statis'; did you mean 'status'? See 'relengq --help'.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run"], "Missing argument 'WORKFLOW'. See 'relengq run --help'."),
        (["check", "--colour"], "No such option '--colour'. See 'relengq check --help'."),
        (["runs", "--state", "runing"], "'runing' is not one of"),
        (["runs", "--since", "yesteryear"], "'yesteryear' is no time; write"),
        (["run", "hello", "-i", "x"], "'x' is not of the form key=value"),
        (["run", "hello", "--inputs", "nowhere.yml"], "'nowhere.yml' does not exist"),
        (["schema", "poll"], "'poll' is not one of"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("relengq: ")
    assert not captured.out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("gone", hint="Look elsewhere."), 3),
        (WrongState("no"), 4),
        (DatabaseUnavailable("away\nfor long"), 5),
        (RelengqError("failed"), 1),
        (OSError(28, "No space left on device", "file"), 5),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
)
def test_each_class_of_error_has_its_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, error)
    assert main(["check"]) == code
    # Click ends the line on which the terminal shows ^C.
    assert capsys.readouterr().err.strip().count("\n") == 0


def test_a_bug_is_one_line_and_a_file_with_the_traceback(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / ".relengq").mkdir()
    failing(monkeypatch, ZeroDivisionError("oops"))
    assert main(["check"]) == 70
    said = capsys.readouterr().err
    assert said.startswith("relengq: a bug in relengq: ZeroDivisionError: oops; the traceback is in ")
    kept = Path(said.rpartition(" ")[2].strip())
    assert kept.parent == here / ".relengq"
    assert "ZeroDivisionError: oops" in kept.read_text()
    assert "Traceback" not in said


def test_a_bug_with_v_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, ZeroDivisionError("oops"))
    assert main(["-v", "check"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_fault() -> None:
    argv = f"{sys.executable} -m relengq schema | head -c 10"
    done = subprocess.run(argv, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_site_is_given_by_option_or_variable(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELENGQ_SITE", str(here))
    assert main(["check"]) == 0
    assert str(here) in capsys.readouterr().out
    monkeypatch.delenv("RELENGQ_SITE")
    assert main(["--site", str(here), "check"]) == 0
    assert str(here) in capsys.readouterr().out
    assert os.environ["RELENGQ_SITE"] == str(here)


def test_text_that_reaches_a_terminal_has_no_control_characters() -> None:
    assert one_line("a\x1b[31mb\r\n c\u202ed") == "a [31mb c d"
    assert printable("a\x1b[2J\tb\nc") == "a\N{REPLACEMENT CHARACTER}[2J\tb\nc"


def test_json_that_reaches_a_terminal_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x61C, *range(0x200E, 0x2010), *range(0x2028, 0x202F),
                                *range(0x2066, 0x206A))))  # fmt: skip
    value = {"a\x9b2J": [f"é {hostile} \\ \U0001f4e6"], "b": {}}
    print_json(value)
    shown = capsys.readouterr().out
    assert json.loads(shown) == value
    assert not set(shown) & (set(hostile) - {"\n"})
    assert "é" in shown
    assert len(shown.splitlines()) == 6
