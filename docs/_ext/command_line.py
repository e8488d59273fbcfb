# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference of the command line, from click's own objects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc, getmembers, isclass
from typing import cast

import click
from rst import documented, heading, indented, prose, table

from relengq import cli, errors
from relengq.cli.verbs import VERBS

PROGRAM = "relengq"


def verbs() -> Iterator[str]:
    """Every verb with its arguments, options and exit codes, by section."""
    top = click.Context(cli.relengq, info_name=PROGRAM, **cli.relengq.context_settings)
    yield from heading("Options before the verb", "-", "cli-relengq")
    yield from _options(cli.relengq, top)
    section = None
    for name, verb in VERBS.items():
        if verb.section != section:
            section = verb.section
            yield from heading(section, "-")
        yield from _command(cast("click.Command", cli.relengq.get_command(top, name)), top, name)


def _command(command: click.Command, parent: click.Context, name: str) -> Iterator[str]:
    context = click.Context(command, parent=parent, info_name=name)
    path = context.command_path
    yield from heading(path, "~", f"cli-{path.removeprefix(PROGRAM).strip().replace(' ', '-')}")
    yield from (f"``{path} {' '.join(command.collect_usage_pieces(context))}``", "")
    yield from _help(command.help or "")
    yield from _options(command, context)
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            yield from _command(cast("click.Command", command.get_command(context, inner)), context, inner)


def _help(text: str) -> Iterator[str]:
    """A verb's help: prose is prose, and what click must not wrap is shown as it is."""
    for paragraph in re.split(r"\n\s*\n", cleandoc(text)):
        if paragraph.startswith("\b"):
            yield from ("::", "", *indented(paragraph.removeprefix("\b").strip("\n").splitlines()), "")
        else:
            yield from (prose(documented(paragraph)), "")


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    yield from (f".. program:: {context.command_path}", "")
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option):
            yield from _option(parameter, context)


def _option(option: click.Option, context: click.Context) -> Iterator[str]:
    metavar = "" if option.is_flag or option.count else f" {option.make_metavar(context).strip('[]')}"
    shown = ", ".join(f"{name}{metavar}" for name in [*option.opts, *option.secondary_opts])
    yield from (f".. option:: {shown}", "")
    yield from indented([prose(documented(option.help or "")), *_choices(option), ""])


def _choices(option: click.Option) -> Iterator[str]:
    if isinstance(option.type, click.Choice):
        words = [str(getattr(choice, "value", choice)) for choice in option.type.choices]
        yield f"One of {', '.join(f'``{word}``' for word in words)}."
    if option.show_default and option.default is not None:
        yield f"Default: ``{option.default}``."
    if option.multiple:
        yield "May be given more than once."


def exit_codes() -> Iterator[str]:
    """Each exit code, and the errors that end with it."""
    classes = [found for _, found in getmembers(errors, isclass) if issubclass(found, errors.RelengqError)]
    classes.sort(key=lambda found: len(found.__mro__))
    meanings = {
        0: ["What was asked for is done."],
        1: ["The run, check or doctor that was asked about failed."],
        cli.BUG: ["A bug in relengq; the line says in which file its traceback is."],
        cli.INTERRUPTED: ["Interrupted with Ctrl-C."],
    }
    for found in classes:
        if found.exit_code not in (0, 1, cli.BUG):
            text = documented((found.__doc__ or "").split("\n\n")[0])
            meanings.setdefault(found.exit_code, []).append(text)
    rows = [(f"``{code}``", " ".join(dict.fromkeys(texts))) for code, texts in sorted(meanings.items())]
    yield from table(("Code", "When"), rows, "10 90")
