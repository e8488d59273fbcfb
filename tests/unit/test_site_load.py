# SPDX-License-Identifier: GPL-3.0-or-later
"""Load a site, follow its edits, make a new one, and describe its files to editors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from relengq import documents
from relengq.errors import NotFound, Refused, SiteFault
from relengq.site import KINDS, SiteCache, check, create, load, schema

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    create(tmp_path / "site")
    return tmp_path / "site"


def test_a_new_site_passes_its_own_check(site: Path) -> None:
    assert check(site) == ()
    loaded = load(site)
    assert [step.name for step in loaded.workflow("hello").steps] == ["greet", "again"]
    assert loaded.pool("default").queues == ["default"]
    assert not loaded.schedules["nightly-hello"].enabled
    assert (site / ".gitignore").read_text().splitlines()[-1] == "/.relengq/"


def test_a_new_site_never_overwrites(site: Path) -> None:
    (site / "playbooks/hello.yml").write_text("mine")
    with pytest.raises(Refused, match=r"has \.gitignore, "):
        create(site)
    assert (site / "playbooks/hello.yml").read_text() == "mine"


def test_a_new_site_beside_other_files(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine")
    create(tmp_path)
    assert check(tmp_path) == ()


def test_the_skeleton_s_playbook_is_an_ordinary_one(site: Path) -> None:
    playbook = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run([playbook, "hello.yml"], cwd=site / "playbooks", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Hello, world!" in done.stdout
    assert "WARNING" not in done.stdout + done.stderr


def test_the_shipped_site_has_no_faults() -> None:
    assert [str(fault) for fault in check(REPOSITORY)] == []


def test_names_lead_to_the_nearest(site: Path) -> None:
    loaded = load(site)
    with pytest.raises(NotFound, match="Did you mean 'hello'"):
        loaded.workflow("helo")
    with pytest.raises(NotFound, match="Did you mean 'default'"):
        loaded.pool("defautl")
    with pytest.raises(NotFound, match="Valid: hello"):
        loaded.workflow("zzz")


def test_a_broken_workflow_is_refused_with_its_faults(site: Path) -> None:
    (site / "playbooks/workflows/bad.yml").write_text("steps: [{name: a, playbook: hello.yml, timeot: 1}]\n")
    (site / "workers/bad.yml").write_text("queue: x\n")
    loaded = load(site)
    assert "hello" in loaded.workflows
    with pytest.raises(SiteFault, match=r"playbooks/workflows/bad\.yml:1:40: unknown key 'timeot'") as caught:
        loaded.workflow("bad")
    assert len(caught.value.faults) == 1
    with pytest.raises(SiteFault, match=r"workers/bad\.yml"):
        loaded.pool("bad")


def test_edits_are_seen_and_nothing_else_is_read_again(site: Path) -> None:
    cache = SiteCache(site)
    first = cache.get()
    assert cache.get() is first
    (site / "playbooks/workflows/new.yml").write_text("steps: [{name: a, playbook: hello.yml}]\n")
    second = cache.get()
    assert second.workflow("new").name == "new"
    (site / "playbooks/workflows/new.yml").write_text("steps: [{name: b, playbook: hello.yml}]\n")
    assert cache.get().workflow("new").steps[0].name == "b"
    (site / "playbooks/workflows/new.yml").unlink()
    (site / "beat/nightly.yml").unlink()
    third = cache.get()
    assert "new" not in third.workflows
    assert not third.schedules
    (site / "playbooks/workflows/dangling.yml").symlink_to("nowhere")
    assert "dangling" in cache.get().files


@pytest.mark.parametrize("kind", KINDS)
def test_schemas_are_valid_and_closed_and_described(kind: str) -> None:
    made = schema(kind)
    jsonschema.Draft202012Validator.check_schema(made)
    for node in nodes(made):
        if "properties" in node:
            assert node["additionalProperties"] is False, node
            assert all("description" in body for body in node["properties"].values()), node


def nodes(value: object) -> list[dict[str, dict[str, object]]]:
    found = [value] if isinstance(value, dict) else []
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [*found, *(node for child in children for node in nodes(child))]  # type: ignore[list-item]


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_files_and_the_skeleton_fit_their_schemas(kind: str, site: Path, tmp_path: Path) -> None:
    """By a validator that is not ours, which reads YAML with a reader that is not ours either."""
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema(kind)))
    shipped = [path for root in (REPOSITORY, site) for path in sorted(root.glob(KINDS[kind]))]
    assert shipped
    command = [Path(sys.executable).with_name("check-jsonschema"), "--schemafile", file, *shipped]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("workflow", "steps: [{name: a}]"),
        ("workflow", "steps: [{name: a, shell: id}]"),
        ("workflow", "steps: [{name: a, playbook: p.yml, timeot: 1}]"),
        ("workflow", "steps: [{name: a, playbook: p.yml, timeout: soon}]"),
        ("workflow", "steps: [{name: a, playbook: p.yml, retry: {attempts: x}}]"),
        ("workflow", "steps: []"),
        ("workflow", "name: x\nsteps: [{name: a, playbook: p.yml}]"),
        ("workflow", "inputs: {a: {type: integer}}\nsteps: [{name: a, playbook: p.yml}]"),
        ("workflow", "inputs: {a-b: {}}\nsteps: [{name: a, playbook: p.yml}]"),
        ("pool", "queues: []"),
        ("pool", "queues: [a]\nlimits: {memory: lots}"),
        ("schedules", "s: {cron: x}"),
        ("schedules", "s: {workflow: a, every: 1h, catch_up: most}"),
    ],
)
def test_schemas_refuse_what_check_refuses(kind: str, text: str) -> None:
    data = documents.parse(text, name="f.yml").data
    assert not jsonschema.Draft202012Validator(schema(kind)).is_valid(data)


def test_an_unknown_schema_leads_to_the_nearest() -> None:
    with pytest.raises(NotFound, match="Did you mean 'workflow'"):
        schema("worklow")
