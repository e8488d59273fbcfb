# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command line that the manual shows can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from relengq import cli
from tests.support.manual import ROOT, Command, commands

RELENGQ = sorted(set(commands("relengq")), key=str)
MAKE = sorted(set(commands("make")), key=str)
CELERY = sorted(set(commands("celery")), key=str)
FILES = ("f44.yml", "token.txt", "tag.json", "outage.jsonl")
"""Files that commands of the manual read."""


def every_command(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from every_command(found, click.Context(found, parent=context, info_name=name))


TOP = click.Context(cli.relengq, info_name="relengq", **cli.relengq.context_settings)
EVERY = list(every_command(cli.relengq, TOP))


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let click parse, and do nothing; files that commands read are there."""
    monkeypatch.setattr(click.Command, "invoke", lambda self, context: None)
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        (tmp_path / name).touch()
    (tmp_path / "tests").symlink_to(ROOT / "tests")


def test_there_are_commands() -> None:
    assert len(RELENGQ) > 60
    assert {words.words[0] for words in MAKE} >= {"demo", "test", "docs", "bench"}


@pytest.mark.parametrize("command", RELENGQ, ids=lambda command: f"{command.where} {' '.join(command.words)}")
@pytest.mark.usefixtures("parse_only")
def test_relengq_understands_it(command: Command) -> None:
    words = ["VERB" if word == "…" else word for word in command.words]
    if words[:1] == ["VERB"]:
        return
    try:
        cli.relengq.main(words, prog_name="relengq", standalone_mode=False)
    except click.MissingParameter:
        assert not command.whole


@pytest.mark.parametrize("command", [found for found, _ in EVERY], ids=lambda command: str(command.name))
@pytest.mark.usefixtures("parse_only")
def test_examples_of_help_are_understood(command: click.Command) -> None:
    help_text = (command.help or "") + (command.epilog or "")
    for line in re.findall(r"(?<!')\brelengq [a-z].*", help_text.partition("Example")[2]):
        words = shlex.split(re.split(r"\s{3,}|&&|>|\)|#", line)[0])
        cli.relengq.main(words[1:], prog_name="relengq", standalone_mode=False)


@pytest.mark.parametrize(("command", "context"), EVERY, ids=lambda each: getattr(each, "command_path", ""))
def test_each_verb_and_option_has_help(command: click.Command, context: click.Context) -> None:
    assert command.help
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts
        else:
            assert " ".join(parameter.get_usage_pieces(context)) in context.get_usage().replace("\n", " ")


@pytest.mark.parametrize("command", MAKE, ids=lambda command: " ".join(command.words))
def test_make_has_the_target(command: Command) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert command.words[0].strip("…") in targets


@pytest.mark.parametrize("command", CELERY, ids=lambda command: " ".join(command.words))
def test_celery_has_the_command(command: Command) -> None:
    assert command.words[:2] == ("-A", "relengq")
    assert command.words[2] in {"worker", "beat", "control", "flower", "inspect", "status"}
