# SPDX-License-Identifier: GPL-3.0-or-later
"""``check``, ``schema``, ``init``, ``workflows``, ``show`` and ``db``: verbs that need no server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relengq.cli import main

FLOW = """\
description: Compose a release.
inputs:
  release: {type: string, pattern: 'rawhide|f[0-9]+', help: Release to compose}
  arches: {type: list, choices: [x86_64, aarch64], default: [x86_64]}
  token: {secret: true}
on:
  - {message: org.example.tag, inputs: {release: f44, token: x}}
  - {message: org.example.compose, if: msg.ok, inputs: {release: "{{ msg.release }}", arches: [aarch64], token: x},
     key: "{{ msg.compose }}"}
concurrency: {group: "compose-{{ inputs.release }}"}
access: {launch: [releng], logs: [qa]}
steps:
  - {name: one, playbook: hello.yml, timeout: 2h, retry: {attempts: 3}, on_lost: hold}
  - {name: go, approval: {groups: [leads], timeout: 1d}}
  - {name: ci, wait_for: {message: org.example.ci, if: msg.id == run.id, fail_if: not msg.passed, timeout: 6h}}
finally:
  - {name: report, playbook: hello.yml, when: inputs.release == 'f44'}
"""


@pytest.fixture(autouse=True)
def here(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Calls are made in the directory of a site."""
    monkeypatch.chdir(site)
    return site


def test_check_of_a_sound_site(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert "no faults (1 workflow, 1 pool, 1 schedule)" in capsys.readouterr().out


def test_check_says_every_fault_with_its_place(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "playbooks/workflows/bad.yml").write_text("step: []\nsteps: [{name: a, playbook: hallo.yml}]\n")
    (here / "workers/default.yml").write_text("queues: [default]\nconcurency: 2\n")
    assert main(["check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("playbooks/workflows/bad.yml:1:1: ") for line in lines)
    assert any("hallo.yml" in line and "hello.yml" in line for line in lines)
    assert any(line.startswith("workers/default.yml:2:1: ") and "concurrency" in line for line in lines)
    assert lines[-1] == "3 faults in 2 files"


def test_check_with_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "workers/default.yml").write_text("queues: [default]\nconcurency: 2\n")
    assert main(["check", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["site"] == str(here)
    assert {"file", "line", "column", "message", "hint"} == set(found["faults"][0])


def test_check_of_no_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nowhere"]) == 3
    assert "There is no directory" in capsys.readouterr().err


def test_schema_of_one_kind_and_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "workflow"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["workflow"] == one


def test_init_makes_a_site_that_passes_check_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    assert main(["init", str(new)]) == 0
    assert main(["check", str(new)]) == 0
    capsys.readouterr()
    assert main(["init", str(new)]) == 4
    assert "already" in capsys.readouterr().err


def test_workflows_and_their_inputs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "playbooks/workflows/nightly.yml").write_text(FLOW)
    assert main(["workflows"]) == 0
    said = capsys.readouterr().out
    assert "release [arches] token" in said
    assert "org.example.tag" in said
    assert "hello-nightly" in said
    assert main(["workflows", "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["nightly"]["steps"] == ["one", "go", "ci", "report"]
    assert found["hello"]["schedules"] == ["hello-nightly"]


def test_show_tells_everything_about_a_workflow(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "playbooks/workflows/nightly.yml").write_text(FLOW)
    assert main(["show", "nightly"]) == 0
    said = capsys.readouterr().out
    for part in (
        "Compose a release.",
        "Release to compose; matches rawhide|f[0-9]+",
        "plays hello.yml on queue default; at most 2h; up to 3 tries; on_lost: hold",
        "waits for approval by leads; at most 1d",
        "waits for message org.example.ci; if msg.id == run.id; fails if not msg.passed; at most 6h",
        "  org.example.tag\n    inputs  release=f44\n            token=x\n    key     the message's id\n",
        "  org.example.compose\n    if      msg.ok\n    inputs  release={{ msg.release }}\n",
        '            arches=["aarch64"]\n',
        "    key     {{ msg.compose }}",
        "Finally",
        "when inputs.release == 'f44'",
        "Who may start it: releng",
        "Who may read logs: qa",
        "relengq run nightly -i release=… -i token=… --follow",
    ):
        assert part in said


def test_show_of_an_unknown_workflow(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "helo"]) == 3
    assert "ello" in capsys.readouterr().err


def test_the_database_is_upgraded_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "current"]) == 1
    assert "needs" in capsys.readouterr().out
    assert main(["db", "upgrade"]) == 0
    assert "(new)" in capsys.readouterr().out
    assert main(["db", "upgrade"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["db", "current", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["current"] == found["needed"]


def test_a_wrong_setting_is_one_line_with_its_place(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "relengq.toml").write_text("\nbroker = 'x'\n")
    assert main(["db", "current"]) == 2
    said = capsys.readouterr().err
    assert "relengq.toml:2:1" in said
    assert "broker_url" in said
    assert said.count("\n") == 1
