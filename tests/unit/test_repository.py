# SPDX-License-Identifier: GPL-3.0-or-later
"""Promises about the files of this repository itself."""

from __future__ import annotations

import ast
import configparser
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from relengq.cli import relengq
from relengq.settings import Settings

ROOT = Path(__file__).parents[2]
LICENCE = "SPDX-License-Identifier: GPL-3.0-or-later"
SOURCES = {
    "",
    ".cfg",
    ".css",
    ".html",
    ".ini",
    ".j2",
    ".mako",
    ".py",
    ".rst",
    ".service",
    ".sh",
    ".spec",
    ".toml",
    ".yaml",
    ".yml",
}
"""Suffixes of files that people write; what has none is a script, a Makefile or a Containerfile."""
WITHOUT = {"LICENSE", "messages/LICENSE", "relengq/py.typed", "messages/relengq_messages/py.typed"}
UNITS = sorted(ROOT.glob("workers/*.service")) + sorted(ROOT.glob("beat/*.service"))


def kept_files() -> list[Path]:
    """The files that git keeps, and new ones that it would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in names.split("\0") if name and (ROOT / name).is_file()]


def test_each_source_file_names_its_licence() -> None:
    """In its first line, or in the second after ``#!`` or an encoding; news fragments become one file that has it."""
    unnamed = [
        str(path)
        for path in kept_files()
        if path.suffix in SOURCES
        and str(path) not in WITHOUT
        and not (path.parts[0] == "news" and path.name != "README.rst")
        and not any(LICENCE in line for line in _first_lines(ROOT / path))
    ]
    assert unnamed == []


def _first_lines(path: Path) -> list[str]:
    with path.open(errors="replace") as file:
        return [file.readline(), file.readline()]


def test_no_file_has_two_versions_of_itself() -> None:
    mark = re.compile(rb"^(<<<<<<< |>>>>>>> )", re.MULTILINE)
    assert [str(path) for path in kept_files() if mark.search((ROOT / path).read_bytes())] == []


def test_there_is_python_only_where_the_design_has_it() -> None:
    places = ("relengq/", "tests/", "benchmarks/", "docs/", "messages/")
    ansible = re.compile(r"playbooks/(.*/)?(library|module_utils|(action|callback|filter|lookup|test)_plugins)/")
    astray = [
        str(path)
        for path in kept_files()
        if path.suffix == ".py" and not str(path).startswith(places) and not ansible.match(str(path))
    ]
    assert astray == []


def test_functions_and_files_can_be_read_in_one_sitting() -> None:
    """At most 60 lines a function and 400 a file in the package; generated migrations are not read."""
    long = []
    for path in sorted(ROOT.glob("relengq/**/*.py")):
        if path.parent.name == "versions":
            continue
        text = path.read_text()
        if text.count("\n") > 400:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert long == []


def test_every_change_has_news() -> None:
    kinds = {"feature", "change", "fix", "removal"}
    fragments = [path for path in (ROOT / "news").glob("*.rst") if path.name != "README.rst"]
    assert {path.name.split(".")[1] for path in fragments} <= kinds


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_start_commands_that_exist(unit: Path, verbs: set[str]) -> None:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    program, verb, *_ = shlex.split(parser["Service"]["ExecStart"])
    assert program == "/usr/bin/relengq"
    assert verb in verbs


def compose_file() -> dict[str, dict[str, dict[str, object]]]:
    document: dict[str, dict[str, dict[str, object]]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def test_the_compose_file_starts_commands_and_pools_that_exist(verbs: set[str]) -> None:
    pools = {path.stem for path in ROOT.glob("workers/*.yml")}
    for name, service in compose_file()["services"].items():
        if service["image"] != "relengq":
            continue
        verb, *arguments = service["command"]  # type: ignore[misc]
        assert verb in verbs, name
        if verb == "worker":
            assert arguments[0] in pools, name


def test_the_compose_file_has_settings_that_exist_and_no_default_password() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    settings = {f"RELENGQ_{name.upper()}" for name in Settings.model_fields}
    for service in compose_file()["services"].values():
        named = {name for name in service.get("environment", {}) if name.startswith("RELENGQ_")}  # type: ignore[attr-defined]
        assert named <= settings | {"RELENGQ_POOL"}
    secrets = re.findall(r"\$\{(\w*(?:PASSWORD|SECRET)\w*)(\S?\S?)", text)
    assert secrets
    assert all(rest.startswith(":?") for _, rest in secrets)


@pytest.fixture(scope="module")
def verbs() -> set[str]:
    """The verbs of the command line."""
    return set(relengq.list_commands(click.Context(relengq)))
