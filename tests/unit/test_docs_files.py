# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that the manual shows work as they stand there, and files that it names exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from relengq import site
from relengq.settings import Settings
from tests.support.manual import ROOT, Block, blocks, literals, pages

BLOCKS = [block for page in pages() for block in blocks(page)]
SITE_FILES = re.compile(r"(playbooks/workflows|workers|beat)/[\w-]+\.yml")
REPOSITORY = re.compile(r"(relengq|playbooks|workers|beat|tests|docs|benchmarks|news|\.ci)/[\w./@-]+")
PLACEHOLDER = re.compile(r"[A-Z]{3,}")
WITH_SITE = sorted({block.page for block in BLOCKS if block.caption and SITE_FILES.fullmatch(block.caption)})


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def make_site(directory: Path, page: Path) -> None:
    """A new site with the files of a page; playbooks that it does not show are the repository's, or empty."""
    site.create(directory)
    shown = [block for block in blocks(page) if block.caption and block.language in ("yaml", "python")]
    for block in shown:
        file = directory / str(block.caption)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text)
    for block in shown:
        for name in re.findall(r"^ +(?:- \{.*)?playbook: ([\w.-]+)", block.text, re.MULTILINE):
            ours, file = ROOT / "playbooks" / name, directory / "playbooks" / name
            if not file.exists():
                file.write_text(ours.read_text() if ours.exists() else "- hosts: localhost\n  tasks: []\n")


def test_the_manual_shows_files_of_each_kind() -> None:
    captions = {str(block.caption) for block in BLOCKS if block.caption}
    for folder in ("playbooks/workflows/", "workers/", "beat/", "relengq.toml", "tests/"):
        assert any(caption.startswith(folder) for caption in captions), folder


@pytest.mark.parametrize("page", WITH_SITE, ids=lambda page: page.stem)
def test_a_site_with_the_files_of_a_page_has_no_faults(page: Path, tmp_path: Path) -> None:
    make_site(tmp_path / "site", page)
    assert site.check(tmp_path / "site") == ()


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_is_yaml(block: Block) -> None:
    assert yaml.safe_load(block.text)


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_toml_is_settings(block: Block, tmp_path: Path) -> None:
    assert block.caption == "relengq.toml"
    (tmp_path / "relengq.toml").write_text(block.text)
    loaded = Settings.load(tmp_path)
    for name in tomllib.loads(block.text):
        assert name in loaded.model_fields_set


def test_the_tests_that_the_manual_shows_pass(tmp_path: Path) -> None:
    """As a person would call them: ``pytest`` in the site's directory."""
    directory = tmp_path / "site"
    make_site(directory, ROOT / "docs/howto/write-a-workflow.rst")
    (block,) = of("python")
    file = directory / str(block.caption)
    file.parent.mkdir()
    file.write_text(block.text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=directory, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    shown = {str(block.caption) for block in BLOCKS}
    missing = []
    for literal in literals(page):
        name = literal.rstrip("/")
        if REPOSITORY.fullmatch(name) and not PLACEHOLDER.search(name) and name not in shown:
            missing += [] if (ROOT / name).exists() else [name]
    assert missing == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    """Links in reStructuredText that name a file; Sphinx itself checks those between pages of the manual."""
    for target in re.findall(r"`[^`<]*<([^`>]+)>`_", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target
