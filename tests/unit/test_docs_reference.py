# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual builds without a warning, and nothing that people can use is missing in its reference."""

from __future__ import annotations

import html
import importlib.util
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import structlog
from docutils.nodes import make_id
from jinja2.filters import FILTERS

import relengq
from relengq import cli, errors, site
from relengq.engine import context, installation
from relengq.expressions.sandbox import environment
from relengq.site.checks import expressions as checked
from relengq.states import AttemptState, RunState, StepState
from relengq.testing import Bench
from tests.support.manual import DOCS
from tests.unit.test_docs_commands import EVERY

Pages = Mapping[str, str]
KEY_PAGES = {
    "workflow": "workflow-files",
    "pool": "pool-files",
    "schedules": "schedules",
    "settings": "settings",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """The built pages of the reference, by name."""
    directory = tmp_path_factory.mktemp("manual")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-d", directory / "state", DOCS, directory / "html"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return {path.stem: path.read_text() for path in (directory / "html/reference").glob("*.html")}


def words(page: str) -> str:
    """The text of a page."""
    return html.unescape(re.sub(r"<[^>]+>", "", page))


def terms(page: str) -> set[str]:
    """What a page defines: the literals that begin an entry of a list or of a table."""
    found = re.findall(r"<(?:dt|td)[^>]*>(?:<p>)?<code[^>]*>(.*?)</code>", page)
    return {words(term) for term in found}


@pytest.mark.parametrize(("command", "command_context"), EVERY, ids=lambda each: getattr(each, "command_path", ""))
def test_the_reference_has_each_verb_and_option(
    built: Pages, command: click.Command, command_context: click.Context
) -> None:
    page, path = built["cli"], command_context.command_path
    if command is not cli.relengq:
        assert f'id="cli-{path.removeprefix("relengq ").replace(" ", "-")}"' in page
    for parameter in command.get_params(command_context):
        if isinstance(parameter, click.Option):
            for name in parameter.opts:
                anchor = make_id(f"cmdoption-{path}-{name.lstrip('-')}")
                assert f'id="{anchor}"' in page, name


def test_the_reference_has_each_exit_code(built: Pages) -> None:
    classes = [found for _, found in inspect.getmembers(errors, inspect.isclass)]
    codes = {found.exit_code for found in classes if issubclass(found, errors.RelengqError)}
    told = {int(term) for term in terms(built["cli"]) if term.isdecimal()}
    assert told == codes | {0, cli.BUG, cli.INTERRUPTED}
    for code in told:
        assert re.search(rf"\b{code} ", str(cli.relengq.epilog))


@pytest.mark.parametrize("kind", site.KINDS)
def test_the_reference_has_each_key(built: Pages, kind: str) -> None:
    page = built[KEY_PAGES[kind]]
    known = terms(page) | set(re.findall(r'id="confval-(\w+)"', page))
    found = list(keys(site.schema(kind)))
    assert len(found) > 5
    for key, node in found:
        assert key in known
        described = node.get("description") or "$ref" in node
        assert described, key


def keys(node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every key that the schema of a file knows, wherever it stands."""
    if isinstance(node, list):
        for item in node:
            yield from keys(item)
    elif isinstance(node, dict):
        yield from node.get("properties", {}).items()
        for item in node.values():
            yield from keys(item)


def test_the_reference_has_the_variable_of_each_setting(built: Pages) -> None:
    for name in site.schema("settings")["properties"]:
        assert f"RELENGQ_{name.upper()}" in words(built["settings"])


@pytest.mark.parametrize("kind", [RunState, StepState, AttemptState])
def test_the_reference_has_each_state(built: Pages, kind: type[RunState | StepState | AttemptState]) -> None:
    assert {str(state) for state in kind} <= terms(built["states"])


def test_the_reference_has_each_limit(built: Pages) -> None:
    """Public constants with the names of limits, found in the text of the package."""
    pattern = re.compile(r"^((?!_)\w*(?:_LIMIT|LONGEST|MAX_\w+|INT_BOUND))\b[^=]*= ", re.MULTILINE)
    found = []
    for info in pkgutil.walk_packages(relengq.__path__, "relengq."):
        spec = importlib.util.find_spec(info.name)
        assert spec
        assert spec.origin
        found += [f"{info.name}.{name}" for name in pattern.findall(Path(spec.origin).read_text())]
    assert len(found) > 15
    page = words(built["limits"])
    assert [name for name in found if name not in page] == []


def test_the_reference_has_each_filter_and_test_of_expressions(built: Pages) -> None:
    page = built["expressions"]
    literals = {html.unescape(words(found)) for found in re.findall(r"<code[^>]*>(.*?)</code>", page)}
    assert set(environment().filters) <= literals
    assert set(environment().tests) <= literals
    own = {name for name in environment().filters if name not in FILTERS}
    assert own <= {name for found in re.findall(r"<dt>(.*?)</dt>", page) for name in re.findall(r"\w+", words(found))}


def test_the_names_of_expressions_are_those_that_runs_have(built: Pages, make_site: Path, tmp_path: Path) -> None:
    bench = Bench(make_site, tmp_path)
    run = bench.run(bench.start("hello"))
    seen = context.build(run, run.steps, site=make_site, state_dir=tmp_path, matrix={})
    bench.close()
    told = words(built["expressions"])
    for name, inner in {"run": seen["run"], "site": seen["site"]}.items():
        assert isinstance(inner, dict)
        assert all(f"{name}.{word}" in told for word in inner)
    steps = seen["steps"]
    assert isinstance(steps, dict)
    assert isinstance(steps["greet"], dict)
    assert all(f"steps.NAME.{word}" in told for word in steps["greet"])
    assert set(seen) == {"inputs", "outputs", "steps", "run", "site", "matrix"}
    assert {"id", "workflow", "state"} <= set(checked._OF_RUN)


def test_the_keys_of_printed_json_are_told(
    built: Pages, make_site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = make_site / ".relengq"
    state.mkdir()
    bench = Bench(make_site, state, f"sqlite:///{state / 'relengq.db'}")
    bench.start("hello")
    bench.play(outputs={"greeting": "Hello!"})
    bench.close()
    told = {words(found) for found in re.findall(r"<code[^>]*>(.*?)</code>", built["json"])}
    monkeypatch.setenv("RELENGQ_SITE", str(make_site))
    installation.current.cache_clear()
    capsys.readouterr()
    for line in (
        "runs", "status last", "logs last", "history last", "schedules", "schedules nightly-hello", "workflows",
        "run hello --check", "rerun last", "run hello", "check", "doctor", "db current",
    ):  # fmt: skip
        cli.main([*line.split(), "--json"])
        names = set(_names(json.loads(capsys.readouterr().out)))
        assert names or line.endswith("nightly-hello")
        assert names <= told, line
    installation.current().database.close()
    installation.current.cache_clear()
    structlog.reset_defaults()


_FREE = {"inputs", "outputs", "stats", "trigger_detail", "schedule"}
"""Keys whose values have keys that the files of the site make up."""


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _names(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            if key not in _FREE:
                yield from _names(item)


@pytest.fixture
def make_site(tmp_path: Path) -> Path:
    """A new site."""
    site.create(tmp_path / "site")
    return tmp_path / "site"
