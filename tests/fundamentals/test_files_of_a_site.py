# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person who writes a site's files can rely on."""

from __future__ import annotations

from pathlib import Path

import pytest

from relengq.errors import InputFault, SiteFault
from relengq.expressions import condition, render
from relengq.inputs import MASK, check_inputs, mask
from relengq.site import check, create, load


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A new site, as 'relengq init' makes it."""
    create(tmp_path)
    return tmp_path


def test_one_file_is_one_workflow(site: Path) -> None:
    # Given a site
    # When a person writes a file into playbooks/workflows
    (site / "playbooks/workflows/greet-twice.yml").write_text(
        "steps:\n  - {name: once, playbook: hello.yml}\n  - {name: again, playbook: hello.yml}\n"
    )
    # Then the workflow is there, under the file's name, and nothing else had to be told
    assert check(site) == ()
    assert [step.name for step in load(site).workflow("greet-twice").steps] == ["once", "again"]


def test_every_mistake_is_told_at_once_where_it_stands(site: Path) -> None:
    # Given a workflow with three mistakes
    (site / "playbooks/workflows/typos.yml").write_text(
        "inputs:\n"
        "  release: {type: string}\n"
        "steps:\n"
        "  - name: build\n"
        "    playbook: helo.yml\n"
        "    timeot: 2h\n"
        "    when: inputs.relase == 'f44'\n"
    )
    # When the site is checked
    faults = check(site)
    # Then each has its line, and the name that was probably meant
    assert [(fault.line, fault.hint and fault.hint.split("?")[0]) for fault in faults] == [
        (5, "did you mean 'hello.yml'"),
        (6, "did you mean 'timeout'"),
        (7, "did you mean 'release'"),
    ]


def test_a_faulty_workflow_does_not_start_and_harms_no_other(site: Path) -> None:
    # Given a workflow that cannot be read
    (site / "playbooks/workflows/broken.yml").write_text("steps: [\n")
    # When the site is loaded
    loaded = load(site)
    # Then that one is refused with the place of its fault, and the others are as before
    with pytest.raises(SiteFault, match=r"playbooks/workflows/broken\.yml:2:1"):
        loaded.workflow("broken")
    assert loaded.workflow("hello").name == "hello"


def test_inputs_are_checked_before_a_run_exists(site: Path) -> None:
    # Given a workflow whose input has a pattern
    specs = load(site).workflow("hello").inputs
    # When somebody gives a value that does not fit, and a name that is none
    with pytest.raises(InputFault) as refused:
        check_inputs(specs, {"name": "Robert'); DROP TABLE", "nmae": "x"})
    # Then both are told
    assert len(refused.value.problems) == 2


def test_values_from_outside_are_never_templates() -> None:
    # Given a message whose value looks like a template
    context = {"msg": {"tag": "{{ 7 * 7 }}"}}
    # When it is used in a template
    value = render("tag {{ msg.tag }}", context)
    # Then it stays what it was
    assert value == "tag {{ 7 * 7 }}"
    assert condition("msg.tag == given").holds({**context, "given": "{{ 7 * 7 }}"})


def test_secrets_are_not_shown(site: Path) -> None:
    # Given a workflow with a secret input
    (site / "playbooks/workflows/sign.yml").write_text(
        "inputs: {passphrase: {secret: true}}\nsteps: [{name: sign, playbook: hello.yml}]\n"
    )
    specs = load(site).workflow("sign").inputs
    # When its values are shown
    shown = mask(specs, check_inputs(specs, {"passphrase": "correct horse"}))
    # Then the secret is not there
    assert shown == {"passphrase": MASK}


def test_a_secret_cannot_leak_into_what_is_stored(site: Path) -> None:
    # Given a workflow that puts a secret into its queue's name
    (site / "playbooks/workflows/leak.yml").write_text(
        "inputs: {token: {secret: true}}\nsteps: [{name: a, playbook: hello.yml, queue: 'default{{ inputs.token }}'}]\n"
    )
    # When the site is checked, then it is refused
    (fault,) = check(site)
    assert "is secret and cannot be part of a queue" in fault.message
