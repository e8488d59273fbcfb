# SPDX-License-Identifier: GPL-3.0-or-later
"""``check``: secrets that workflows want, where they may stand, and the pools that would have to have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from relengq.site import check

POOLS = {
    "workers/signing.yml": "queues: [sign, both]\nsecrets: {KEY: {file: key}, PIN: {environment: PIN}}\n",
    "workers/other.yml": "queues: [default, both, compose-x86_64]\nsecrets: {TOKEN: {credential: token}}\n",
}


def told(site: Path, *lines: str) -> list[str]:
    """The faults of a workflow, without the file's name."""
    body = "\n".join([*lines, ""])
    for name, text in {**POOLS, "playbooks/a.yml": "- hosts: localhost\n", "playbooks/workflows/w.yml": body}.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    return [str(fault).removeprefix("playbooks/workflows/w.yml:") for fault in check(site)]


def test_what_is_served_is_sound(tmp_path: Path) -> None:
    faults = told(
        tmp_path,
        "secrets: [KEY, TOKEN]",
        "steps:",
        "- {name: ask, approval: {}}",
        "- {name: a, playbook: a.yml, queue: sign, secrets: [KEY], vars: {a: '{{ secrets.KEY }}', b: '{{ secrets }}'}}",
        "- {name: b, playbook: a.yml, secrets: [TOKEN], vars: {basic: \"{{ 'u:' ~ secrets.TOKEN }}\"}}",
        "- {name: c, playbook: a.yml, queue: both, secrets: []}",
        "- {name: d, playbook: a.yml, queue: 'compose-{{ outputs.arch }}', secrets: [TOKEN]}",
    )
    assert faults == []


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["secrets: [TOKE]", "steps: [{name: a, playbook: a.yml}]"], "1:11: no pool has the secret 'TOKE'"),
        (
            ["secrets: [KEY]", "steps: [{name: a, playbook: a.yml}]"],
            "1:11: no pool that serves the queue 'default' has the secret 'KEY'",
        ),
        (
            ["secrets: [KEY]", "queue: sign", "steps: [{name: a, playbook: a.yml, queue: both}]"],
            "1:11: the pool 'other' serves the queue 'both' too, and has not the secret 'KEY'",
        ),
        (
            [
                "secrets: [KEY]", "inputs: {q: {choices: [sign, default]}}", "steps:",
                "- {name: a, playbook: a.yml, queue: '{{ inputs.q }}', secrets: [KEY]}",
            ],
            "4:65: no pool that serves the queue 'default' has the secret 'KEY'",
        ),
        (
            ["secrets: [KEY]", "queue: sign", "steps:", "- {name: a, playbook: a.yml, secrets: [KEY, PIN]}"],
            "4:45: the workflow does not name the secret 'PIN'",
        ),
        (
            ["secrets: [KEY]", "queue: sign", "steps:", "- {name: a, playbook: a.yml, vars: {k: '{{ secrets.KEI }}'}}"],
            "4:40: unknown secret 'KEI' (did you mean 'KEY'?)",
        ),
        (
            ["steps:", "- {name: a, playbook: a.yml, vars: {k: '{{ secrets.KEY }}'}}"],
            "2:40: unknown secret 'KEY' (the workflow's key 'secrets' has the names",
        ),
        (
            [
                "secrets: [KEY]", "queue: sign", "steps:",
                "- {name: a, playbook: a.yml, secrets: [], vars: {k: '{{ secrets.KEY }}'}}",
            ],
            "4:53: the step does not get the secret 'KEY' (add it to the step's 'secrets')",
        ),
    ],
    ids=["unknown", "not served", "served by half", "template", "beyond", "misspelt", "none", "narrowed"],
)  # fmt: skip
def test_what_no_worker_could_play_is_told(tmp_path: Path, lines: list[str], fault: str) -> None:
    (found,) = told(tmp_path, *lines)
    assert found.startswith(fault)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("when: secrets.KEY == 'x'", "a condition"),
        ("queue: 'sign{{ secrets.KEY }}'", "a queue"),
        ("limit: '{{ secrets.KEY }}'", "a limit of hosts"),
        ("matrix: {x: '{{ secrets.KEY }}'}", "a matrix"),
        ("announce: {topic: a.b, body: {x: '{{ secrets.KEY }}'}}", "an announcement"),
        ("allow_failure: secrets.KEY == 'x'", "a condition"),
    ],
)
def test_secrets_stand_in_vars_and_nowhere_else(tmp_path: Path, line: str, what: str) -> None:
    faults = told(
        tmp_path, "secrets: [KEY]", "queue: sign", "steps:", "- {name: a, playbook: a.yml, " + line + "}",
    )  # fmt: skip
    assert [fault for fault in faults if f"secrets cannot be part of {what} (use them in a step's vars)" in fault]


@pytest.mark.parametrize(
    "line",
    [
        "outputs: {x: '{{ secrets.KEY }}'}",
        "concurrency: {group: '{{ secrets.KEY }}'}",
        "announce: {topic: a.b, body: {x: '{{ secrets.KEY }}'}}",
        "on: [{message: a.b, inputs: {}, key: '{{ secrets.KEY }}'}]",
        "on: [{message: a.b, if: secrets.KEY == 'x'}]",
    ],
)
def test_no_secret_is_in_what_is_said_of_a_run(tmp_path: Path, line: str) -> None:
    faults = told(tmp_path, "secrets: [KEY]", "queue: sign", line, "steps: [{name: a, playbook: a.yml}]")
    assert [fault for fault in faults if "secrets cannot be part of" in fault]
