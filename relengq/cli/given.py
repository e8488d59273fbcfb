# SPDX-License-Identifier: GPL-3.0-or-later
"""The inputs of a run as a person gives them: ``-i``, ``--inputs FILE``, or typed when asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from relengq import documents
from relengq.documents import Json
from relengq.errors import InputFault, UsageFault
from relengq.inputs import COUNT_LIMIT, InputSpec, check_inputs, parse_text


def gather(specs: Mapping[str, InputSpec], pairs: Sequence[tuple[str, str]], file: Path | None) -> dict[str, Json]:
    """The inputs that were given, ``-i`` over the file; what is missing is asked for on a terminal.

    Raises InputFault or UsageFault. Bounds and defaults are left to the start.
    """
    values = {**(_from_file(file) if file else {}), **_from_pairs(specs, pairs)}
    if len(values) > COUNT_LIMIT:
        raise InputFault([f"{len(values)} inputs are given; the limit is {COUNT_LIMIT}"])
    unknown = [name for name in values if name not in specs]
    missing = [name for name, spec in specs.items() if spec.required and name not in values]
    if missing and not unknown and sys.stdin.isatty() and sys.stderr.isatty():
        for name in missing:
            values[name] = _ask(name, specs[name])
    return values


def _from_file(file: Path) -> dict[str, Json]:
    data = _from_json(file) if file.suffix == ".json" else documents.load(file).data
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageFault(f"{file} must have a mapping of input names to values, as YAML or JSON.")
    return data


def _from_json(file: Path) -> Json:
    """JSON as any program writes it: YAML readers refuse its surrogate pairs."""
    try:
        with file.open("rb") as stream:
            text = stream.read(documents.SIZE_LIMIT + 1)
        if len(text) > documents.SIZE_LIMIT:
            raise UsageFault(f"{file} is too large; the limit is {documents.SIZE_LIMIT} bytes.")
        data: Json = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageFault(f"{file} is not JSON: {error}.") from None
    return data


def _from_pairs(specs: Mapping[str, InputSpec], pairs: Sequence[tuple[str, str]]) -> dict[str, Json]:
    values: dict[str, Json] = {}
    problems: list[str] = []
    for name, text in pairs:
        if name in values:
            problems.append(f"input '{name}' is given twice; a list is written with commas")
            continue
        try:
            plain = _text(name, text)
            values[name] = parse_text(specs[name], plain, name=name) if name in specs else plain
        except InputFault as fault:
            problems += fault.problems
    if problems:
        raise InputFault(problems)
    return values


def _text(name: str, text: str) -> str:
    """The text itself, or with ``@FILE`` the file's without its last newline; ``@@`` stands for one ``@``."""
    if not text.startswith("@"):
        return text
    if text.startswith("@@"):
        return text[1:]
    try:
        return Path(text[1:]).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputFault([f"input '{name}' cannot be read from {text[1:]}: {error}"]) from None


def _ask(name: str, spec: InputSpec) -> Json:
    """Ask until the answer fits; a secret is not shown while it is typed. Ctrl-C or Ctrl-D gives up."""
    about = [spec.help] if spec.help else []
    if spec.choices is not None:
        about.append("one of " + ", ".join(map(str, spec.choices)))
    elif spec.pattern is not None and not spec.secret:
        about.append(f"matches {spec.pattern}")
    prompt = f"{name} ({'; '.join(about)})" if about else name
    while True:
        text = click.prompt(prompt, hide_input=spec.secret, err=True, default="", show_default=False)
        try:
            return check_inputs({name: spec}, {name: parse_text(spec, text, name=name)})[name]
        except InputFault as fault:
            click.echo(f"  {fault}", err=True)
