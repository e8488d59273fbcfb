# SPDX-License-Identifier: GPL-3.0-or-later
"""``check``: every fault of a site at once, each at its place, with the nearest valid name."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relengq.errors import NotFound, SiteFault
from relengq.settings import Settings
from relengq.site import check, load

SOUND = {
    "playbooks/gather.yml": "- hosts: localhost\n",
    "playbooks/publish.yml": "- hosts: localhost\n",
    "playbooks/inventory/hosts.yml": "all: {}\n",
    "workers/main.yml": "queues: [default, compose-x86_64, compose-aarch64]\n",
    "playbooks/workflows/nightly.yml": """\
inputs:
  release: {pattern: 'f[0-9]+'}
  arches: {type: list, choices: [x86_64, aarch64], default: [x86_64]}
  token: {secret: true, default: ''}
steps:
  - {name: gather, playbook: gather.yml, outputs: [tree]}
""",
}
W = "playbooks/workflows/w.yml"


def write(site: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        file = site / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return site


def told(site: Path, files: Mapping[str, str | bytes]) -> list[str]:
    return [str(fault) for fault in check(write(site, {**SOUND, **files}))]


def marked(text: str, *, line: int = 1, indent: int = 0) -> tuple[str, str]:
    """The text without its mark, and how a fault at the mark begins: ``:line:column: ``."""
    before, _, after = text.partition("§")
    row, column = before.count("\n"), len(before) - (before.rfind("\n") + 1)
    return before + after, f":{line + row}:{indent + column + 1}: "


def steps(*lines: str) -> str:
    """A workflow whose first step stands in line 6."""
    head = (
        "inputs: {release: {pattern: 'f[0-9]+'}, n: {type: int, default: 1}, token: {secret: true},"
        " arches: {type: list, choices: [x86_64, aarch64], default: [x86_64]}, any: {type: list},"
        " kind: {choices: [x86_64, s390x], default: x86_64}}"
    )
    return "\n".join([head, "description: x", "queue: default", "timeout: 1d", "steps:", *lines, ""])


def test_a_sound_site_has_no_faults(tmp_path: Path) -> None:
    assert told(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (
            "- {name: a, playbook: gather.yml, §timeot: 3}",
            "unknown key 'timeot' (did you mean 'timeout'? valid keys: allow_failure,",
        ),
        ("- {name: a, §shell: id}", "unknown step kind 'shell' (a step has one of: playbook, approval, wait_for)"),
        ("- {name: a, §playbok: gather.yml}", "unknown step kind 'playbok' (did you mean 'playbook'?"),
        ("- {name: a, §awx: {template: 7}}", "the step kind 'awx' is not supported yet"),
        ("- {name: a, playbook: gather.yml, §approval: {}}", "a step has one kind, not playbook and approval"),
        ("- §{name: a}", "the step 'a' does nothing"),
        ("- §gather.yml", "a step is a mapping"),
        ("- §{playbook: gather.yml}", "the key 'name' is missing"),
        ("- {name: §a b, playbook: gather.yml}", "name: 'a b' is no valid name"),
        (
            "- {name: a, playbook: §gathr.yml}",
            "the playbook 'gathr.yml' does not exist in playbooks/ (did you mean 'gather.yml'?)",
        ),
        (
            "- {name: a, playbook: gather.yml, inventory: §inventory/host.yml}",
            "the inventory 'inventory/host.yml' does not exist",
        ),
        (
            "- {name: a, playbook: gather.yml, queue: §defalt}",
            "no pool serves the queue 'defalt' (did you mean 'default'?)",
        ),
        (
            "- {name: a, playbook: gather.yml, matrix: {arch: [x86_64, s390x]}, queue: §'compose-{{ matrix.arch }}'}",
            "no pool serves the queue compose-s390x",
        ),
        (
            "- {name: a, playbook: gather.yml, queue: §'compose-{{ inputs.kind }}'}",
            "no pool serves the queue compose-s390x",
        ),
        ("- {name: a, playbook: gather.yml, queue: §'sign-{{ inputs.release }}'}", "no pool serves any queue like"),
        ("- {name: a, playbook: gather.yml, when: §inputs.}", "the expression `inputs.` does not compile"),
        ("- {name: a, playbook: gather.yml, when: §input.n == 1}", "'input' is unknown here"),
        ("- {name: a, playbook: gather.yml, when: §n == 1}", "'n' is unknown here (did you mean 'inputs.n'?)"),
        (
            "- {name: a, playbook: gather.yml, when: §inputs.relase == 1}",
            "unknown input 'relase' (did you mean 'release'?)",
        ),
        ("- {name: a, playbook: gather.yml, vars: {x: {y: [§'{{ inputs.relase }}']}}}", "unknown input 'relase'"),
        (
            "- {name: a, playbook: gather.yml, vars: {x: §'{{ inputs.n | uper }}'}}",
            "the expression `{{ inputs.n | uper }}` does not compile: unknown filter 'uper' (did you mean 'upper'",
        ),
        ("- {name: a, playbook: gather.yml, when: §inputs.n is evn}", "unknown test 'evn' (did you mean 'even'?)"),
        ("- {name: a, playbook: gather.yml, when: §steps.a.state == 'x'}", "the step 'a' reads itself"),
        ("- {name: a, playbook: gather.yml, when: §outputs.a.x}", "the step 'a' reads itself"),
        ("- {name: a, playbook: gather.yml, when: §outputs.tree}", "there is no output 'tree'"),
        ("- {name: a, playbook: gather.yml, when: §run.idd}", "run has no 'idd' (did you mean 'id'?)"),
        (
            "- {name: a, playbook: gather.yml, when: §matrix.arch == 'x'}",
            "'matrix' is unknown here (the step has no matrix)",
        ),
        (
            "- {name: a, playbook: gather.yml, matrix: {arch: [a]}, when: §matrix.ach}",
            "the matrix has no 'ach' (did you mean 'arch'?)",
        ),
        ("- {name: a, playbook: gather.yml, matrix: {arch: §[a, a]}}", "arch: duplicate value 'a'"),
        (
            "- {name: a, playbook: gather.yml, when: §inputs.token}",
            "the input 'token' is secret and cannot be part of a condition",
        ),
        (
            "- {name: a, playbook: gather.yml, queue: §'compose-{{ inputs.token }}'}",
            "the input 'token' is secret and cannot be part of a queue",
        ),
        (
            "- {name: a, playbook: gather.yml, matrix: {a: [§'{{ inputs.token }}']}}",
            "the input 'token' is secret and cannot be part of a matrix",
        ),
        ("- {name: a, playbook: gather.yml, vars: {§ansible_host: x}}", "the name 'ansible_host' is reserved"),
        ("- {name: a, playbook: gather.yml, vars: {§groups: x}}", "the name 'groups' is reserved"),
        ("- {name: a, playbook: gather.yml, timeout: §soon}", "timeout: a duration is written like"),
        ("- {name: a, playbook: gather.yml, retry: {attempts: §'3'}}", "attempts: must be a whole number, not '3'"),
        (
            "- {name: a, playbook: gather.yml, on_lost: §holt}",
            "on_lost: must be one of retry, hold, fail, not 'holt' (did you mean 'hold'?)",
        ),
        ("- {name: a, playbook: gather.yml, check: §'true'}", "check: must be true or false, not 'true'"),
        ("- {name: a, wait_for: {message: §a..b}}", "message: no topic pattern"),
        (
            "- {name: a, playbook: gather.yml, announce: §step.fnished}",
            "unknown event 'step.fnished' (did you mean 'step.finished'?)",
        ),
        (
            "- {name: a, playbook: gather.yml, announce: [step.finished, §run.started]}",
            "the event 'run.started' is the run's, not the step's",
        ),
        ("- {name: a, playbook: gather.yml, announce: §run.waiting}", "a step with a playbook never waits"),
        (
            "- {name: a, playbook: gather.yml, announce: {topic: x, when: §step.stat == 'failed'}}",
            "step has no 'stat' (did you mean 'state'?)",
        ),
        ("- {name: a, wait_for: {message: a.b, if: §mesg.x}}", "'mesg' is unknown here"),
        ("- {name: a, approval: {groups: §releng}}", "groups: must be a list, not 'releng'"),
        ("- {name: a, playbook: gather.yml, §name: b}", "duplicate key 'name' (it stands in line 6 already)"),
    ],
)
def test_a_faulty_step_is_told_once_with_its_place(tmp_path: Path, line: str, fault: str) -> None:
    text, place = marked(line, line=6, indent=2)
    found = told(tmp_path, {W: steps(f"  {text}")})
    assert len(found) == 1, found
    assert found[0].startswith(f"{W}{place}")
    assert fault in found[0]


@pytest.mark.parametrize(
    "line",
    [
        "- {name: a, playbook: gather.yml, queue: '{{ inputs.any }}'}",
        "- {name: a, playbook: gather.yml, queue: 'compose-{{ inputs.release }}'}",
        "- {name: a, playbook: gather.yml, matrix: {arch: '{{ inputs.arches }}'}, queue: 'compose-{{ matrix.arch }}'}",
        "- {name: a, playbook: gather.yml, vars: {secret: '{{ inputs.token }}'}}",
        "- {name: a, playbook: gather.yml, inventory: 'localhost,'}",
        "- {name: a, playbook: gather.yml, when: false, allow_failure: true}",
        "- {name: a, wait_for: {message: 'a.#', if: msg.x == inputs.release and topic is search('x')}}",
        "- {name: a, playbook: gather.yml, announce: {topic: my.tree, body: {a: '{{ outputs.a.tree }}'}}}",
        "- {name: a, playbook: gather.yml, announce: [step.finished, {topic: 'x.{{ step.state }}', when: true}]}",
        "- {name: a, approval: {}, announce: run.waiting}",
    ],
)
def test_what_may_be_is_no_fault(tmp_path: Path, line: str) -> None:
    assert told(tmp_path, {W: steps(f"  {line}")}) == []


def test_outputs_are_known_as_far_as_steps_declare_them(tmp_path: Path) -> None:
    text = steps(
        "  - {name: one, playbook: gather.yml, outputs: [tree, size]}",
        "  - {name: two, playbook: gather.yml, outputs: [], when: outputs.tre}",
        "  - {name: three, playbook: gather.yml, outputs: [], when: outputs.one.sise == 1}",
        "  - {name: fan, playbook: gather.yml, matrix: {a: [x]}, outputs: [log]}",
        "  - {name: use, playbook: gather.yml, when: outputs.fan.x.log and outputs.log.x and outputs.tree}",
        "  - {name: free, playbook: gather.yml, when: outputs.anything or outputs.use.anything}",
        "  - {name: go, approval: {}, when: outputs.late.x or steps.late.state}",
        "  - {name: late, playbook: gather.yml, when: outputs.go.approved and outputs.go.aproved}",
        "finally:",
        "  - {name: report, playbook: gather.yml, when: steps.late.state == 'failed' and steps.late.stat}",
        "outputs: {a: '{{ outputs.one.tree }}', b: '{{ outputs.one.tre }}', c: '{{ steps.lost.state }}'}",
    )
    assert [fault.split(": ", 1)[1] for fault in told(tmp_path, {W: text})] == [
        "no earlier step declares an output 'tre' (did you mean 'tree'?)",
        "the step 'one' has no output 'sise' (did you mean 'size'?)",
        "the step 'late' comes later (move it before 'go')",
        "the step 'go' has no output 'aproved' (did you mean 'approved'?)",
        "steps.late has no 'stat' (did you mean 'state'?)",
        "the step 'one' has no output 'tre' (did you mean 'tree'?)",
        "unknown step 'lost' (did you mean 'late'?)",
    ]


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        ("§descripton: x", "unknown key 'descripton' (did you mean 'description'? valid keys: access, announce"),
        ("§name: w", "unknown key 'name' (the file's name is the name)"),
        ("inputs: {a: {§typ: int}}", "unknown key 'typ' (did you mean 'type'? valid keys: choices, default"),
        (
            "inputs: {a: {type: §integer}}",
            "type: must be one of string, int, bool, list, not 'integer' (did you mean 'int'?)",
        ),
        ("inputs: {a: {pattern: §'('}}", "the pattern is no regular expression"),
        ("inputs: {a: {choices: [b], default: §c}}", "the default must be one of b, not 'c'"),
        ("inputs: {a: {type: int, default: §'1'}}", "the default must be a whole number, not '1'"),
        ("inputs: {§a-b: {}}", "'a-b' is no valid name"),
        ("concurrency: {group: §'{{ inputs.x }}'}", "unknown input 'x'"),
        ("concurrency: {group: §'{{ outputs.x }}'}", "'outputs' is unknown here"),
        ("concurrency: {group: x, when_busy: §wait}", "when_busy: must be one of queue, skip, cancel-running"),
        ("on: [{message: §'a.*b'}]", "message: no topic pattern"),
        ("on: [{message: a.b, if: §inputs.x}]", "'inputs' is unknown here (known: headers, id, msg, sent_at, topic)"),
        ("on: [{message: a.b, inputs: {§x: 1}}]", "the workflow 'w' has no input 'x'"),
        ("on: [§{message: a.b}]\ninputs: {x: {}}", "the input 'x' of the workflow 'w' is missing"),
        ("on: [{message: a.b, inputs: {x: §1}}]\ninputs: {x: {}}", "input 'x' must be a string, not 1"),
        ("on: [{message: §'org.#'}]", "cycle: the workflow announces 'relengq.run.started.v1' itself"),
        ("on: [{message: §'a.tree'}]\nannounce: {topic: a.tree}", "cycle: the workflow announces 'a.tree' itself"),
        ("queue: §compse", "no pool serves the queue 'compse'"),
        ("secrets: [§token]", "no pool has the secret 'token'"),
        ("a: &x [§*x]", "cycle: the alias *x"),
        ("timeout: §0", "timeout: a duration here is longer than 0"),
        ("announce: [run.started, §run.finishd]", "unknown event 'run.finishd' (did you mean 'run.finished'?)"),
        ("announce: §run.begun", "unknown event 'run.begun'"),
        ("announce: {topic: a, body: {x: §'{{ step.name }}'}}", "'step' is unknown here"),
        ("announce: {§topc: x}", "unknown key 'topc' (did you mean 'topic'? valid keys: body, topic, when)"),
    ],
)
def test_a_faulty_workflow_is_told_with_its_place(tmp_path: Path, head: str, fault: str) -> None:
    text, place = marked(head)
    found = told(tmp_path, {W: text + "\nsteps:\n  - {name: a, playbook: gather.yml}\n"})
    assert any(one.startswith(f"{W}{place}") and fault in one for one in found), found
    assert all(one.startswith(W) for one in found)


def test_a_condition_on_a_trigger_breaks_the_cycle(tmp_path: Path) -> None:
    text = "on: [{message: 'org.#', if: msg.workflow != 'w'}]\nsteps: [{name: a, playbook: gather.yml}]\n"
    assert told(tmp_path, {W: text}) == []


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("{workflow: §nihtly, every: 1h}", "unknown workflow 'nihtly' (did you mean 'nightly'?)"),
        ("§{workflow: nightly, every: 1h}", "the input 'release' of the workflow 'nightly' is missing"),
        (
            "{workflow: nightly, every: 1h, inputs: {release: f44, §arch: x}}",
            "the workflow 'nightly' has no input 'arch' (did you mean 'arches'?)",
        ),
        (
            "{workflow: nightly, every: 1h, inputs: {release: §rawhide}}",
            "input 'release' must match the pattern f[0-9]+, not 'rawhide'",
        ),
        (
            "{workflow: nightly, every: 1h, inputs: {release: §44}}",
            "input 'release' must be a string, not 44: write it in quotes",
        ),
        ("{workflow: nightly, cron: §'0 0 30 2 *', inputs: {release: f44}}", "cron '0 0 30 2 *' never fires"),
        (
            "{workflow: nightly, cron: §'61 * * * *', inputs: {release: f44}}",
            "cron '61 * * * *': '61' does not fit the minute",
        ),
        (
            "{workflow: nightly, cron: '* * * * *', timezone: §Europe/Prage, inputs: {release: f44}}",
            "unknown time zone 'Europe/Prage' (did you mean 'Europe/Prague'?)",
        ),
        ("§{workflow: nightly, inputs: {release: f44}}", "s: give either 'cron' or 'every'"),
        (
            "{workflow: nightly, §crn: '* * * * *', inputs: {release: f44}}",
            "unknown key 'crn' (did you mean 'cron'? valid keys: catch_up, cron",
        ),
        (
            "{workflow: nightly, every: 1h, catch_up: §most, inputs: {release: f44}}",
            "catch_up: must be one of none, last, all, not 'most'",
        ),
    ],
)
def test_a_faulty_schedule_is_told_with_its_place(tmp_path: Path, entry: str, fault: str) -> None:
    text, place = marked(f"s: {entry}\n")
    found = told(tmp_path, {"beat/b.yml": text})
    assert len(found) == 1, found
    assert found[0].startswith(f"beat/b.yml{place}")
    assert fault in found[0]


def test_a_schedule_with_several_faults_is_told_all(tmp_path: Path) -> None:
    text = "s: {workflow: nightly, inputs: {release: f44}, cron: '1 1 * * *', every: 5m, catch_up: lst, enabled: maybe}"
    found = told(tmp_path, {"beat/b.yml": text + "\n"})
    assert [one.partition(": ")[2] for one in found] == [
        "s: give either 'cron' or 'every'",
        "catch_up: must be one of none, last, all, not 'lst' (did you mean 'last'?)",
        "enabled: must be true or false, not 'maybe'",
    ]


@pytest.mark.parametrize(
    "key", ["when: matrix.c == 1 and inputs.rel is fancy", "vars: {x: '{{ matrix.c }} {{ inputs.rel is fancy }}'}"]
)
def test_an_expression_with_several_faults_is_told_all(tmp_path: Path, key: str) -> None:
    found = told(tmp_path, {W: steps(f"- {{name: a, playbook: gather.yml, {key}}}")})
    for fault in ("unknown test 'fancy'", "'matrix' is unknown here", "unknown input 'rel'"):
        assert sum(fault in one for one in found) == 1, (fault, found)


@pytest.mark.parametrize("body", ["queues: small", "queue: [small]", "queues: [small, 5]", "queues: [small]\nx: 1"])
def test_a_faulty_pool_still_says_what_it_serves(tmp_path: Path, body: str) -> None:
    lines = [f"- {{name: {name}, playbook: gather.yml, queue: {name}}}" for name in ("small", "large")]
    found = told(tmp_path, {"workers/p.yml": body + "\n", W: steps(*lines)})
    assert [one for one in found if one.startswith("workers/p.yml")]
    assert ["'large'" in one for one in found if "no pool serves" in one] == [True]


def test_duplicates_over_files_are_told(tmp_path: Path) -> None:
    schedule = "s: {workflow: nightly, every: 1h, inputs: {release: f44}}\n"
    found = told(
        tmp_path,
        {
            "beat/a.yml": schedule,
            "beat/b.yml": schedule,
            "playbooks/workflows/nightly.yaml": SOUND["playbooks/workflows/nightly.yml"],
            "workers/main.yaml": SOUND["workers/main.yml"],
            W: steps("  - {name: a, playbook: gather.yml}", "  - {name: a, playbook: gather.yml}"),
        },
    )
    assert found == [
        "beat/b.yml:1:1: duplicate schedule 's' (beat/a.yml has it already)",
        (
            "playbooks/workflows/nightly.yaml:1:1: duplicate 'nightly'"
            " (playbooks/workflows/nightly.yml has that name already)"
        ),
        f"{W}:7:12: duplicate step name 'a' (the step in line 6 has it already)",
        "workers/main.yaml:1:1: duplicate 'main' (workers/main.yml has that name already)",
    ]


def test_a_good_schedule_beside_a_faulty_one_stays(tmp_path: Path) -> None:
    body = "good: {workflow: nightly, every: 1h}\nbad: {workflow: nightly}\n"
    site = load(write(tmp_path, {**SOUND, "beat/a.yml": body}))
    assert list(site.schedules) == ["good"]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("queues: §[a, a]", "queues: duplicate 'a'"),
        ("queues: §[]", "queues: must not be empty"),
        ("queues: [default]\n§concurency: 2", "unknown key 'concurency' (did you mean 'concurrency'?"),
        ("queues: [default]\nconcurrency: §0", "concurrency: must be at least 1, not 0"),
        ("queues: [default]\nlimits: {memory: §lots}", "memory: a size is written like"),
        ("queues: [default]\nsecrets: {x: {§fil: a}}", "unknown key 'fil' (did you mean 'file'?"),
        ("queues: [default]\nansible: {config: §no.cfg}", "the file 'no.cfg' does not exist"),
        ("queues: [default]\nansible: {warm: §off}", "off is a word to some readers of YAML"),
    ],
)
def test_a_faulty_pool_is_told_with_its_place(tmp_path: Path, body: str, fault: str) -> None:
    text, place = marked(body)
    found = told(tmp_path, {"workers/p.yml": text})
    assert any(one.startswith(f"workers/p.yml{place}") and fault in one for one in found), found


def test_a_site_without_pools_serves_nothing(tmp_path: Path) -> None:
    write(tmp_path, SOUND)
    (tmp_path / "workers/main.yml").unlink()
    (fault,) = check(tmp_path)
    assert str(fault).endswith("no pool serves the queue 'default' (workers/ has no pool)")


def test_playbooks_that_import_themselves(tmp_path: Path) -> None:
    found = told(
        tmp_path,
        {
            "playbooks/gather.yml": "- import_playbook: sub/other.yml\n- ansible.builtin.import_playbook: publsh.yml\n",
            "playbooks/sub/other.yml": "- hosts: all\n  vars: {a: !vault x}\n- import_playbook: ../gather.yml\n",
        },
    )
    assert found == [
        "playbooks/gather.yml:1:20: cycle: importing 'sub/other.yml' leads back to 'gather.yml'",
        "playbooks/gather.yml:2:36: the playbook 'publsh.yml' does not exist (did you mean 'publish.yml'?)",
        "playbooks/sub/other.yml:3:20: cycle: importing '../gather.yml' leads back to 'sub/other.yml'",
    ]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("a: [", ":2:1: this is not YAML"),
        ("- a\n", ":1:1: the file must be a mapping"),
        ("", ":1:1: the file is empty"),
        ("# nothing\n", ":1:1: the file is empty"),
        (b"a: \xff\n", ":1:4: the file is not UTF-8"),
        ("x", ":1:1: the file must be a mapping"),
    ],
)
@pytest.mark.parametrize("name", [W, "workers/w.yml", "beat/w.yml"])
def test_files_that_are_none_are_one_fault(tmp_path: Path, name: str, content: str | bytes, fault: str) -> None:
    found = told(tmp_path, {name: content})
    assert len(found) == 1, found
    assert found[0].startswith(f"{name}{fault}")


def test_directories_and_odd_names(tmp_path: Path) -> None:
    (tmp_path / "playbooks/workflows/dir.yml").mkdir(parents=True)
    found = told(tmp_path, {"playbooks/workflows/a b.yml": "x: 1\n", "workers/.hidden.yml": "x", "beat/notes.txt": "x"})
    assert [one.split(": ")[1][:20] for one in found] == ["the file's name 'a b'", "this is a directory,"] or len(
        found
    ) == 2
    assert "playbooks/workflows/a b.yml:1:1" in found[0]
    assert "playbooks/workflows/dir.yml:1:1: this is a directory" in found[1]


def test_settings_are_checked_too(tmp_path: Path) -> None:
    (found,) = told(tmp_path, {"relengq.toml": "databse_url = 'x'\n"})
    assert found == "relengq.toml:1:1: unknown setting 'databse_url' (did you mean 'database_url'?)"


def test_all_faults_of_the_settings_are_told_with_their_lines(tmp_path: Path) -> None:
    text = """\
databse_url = 'x'
admins = 'root'
lease_seconds = -5
log_format = 'xml'
time_zone = 'Europe/Prag'
database_url = 'mysql://db/x'
broker_url = 'http://broker'
max_runs_active = 1.5
retention_logs = 'soon'

[groups]
releng = ['alice']
admins = 'root'
qa = [1, 'bob']

[celery]
worker_max_tasks_per_child = 50
task_routes = ['x']
"""
    brokers = ("redis", "rediss", "redis+socket", "sentinel", "amqp", "amqps", "pyamqp")
    workflow = {"playbooks/workflows/a.yml": "steps: 1\n"}
    found = told(tmp_path, {"relengq.toml": text, **workflow})
    mine = [one.removeprefix("relengq.toml:") for one in found if one.startswith("relengq.toml:")]
    assert len(found) > len(mine), "and those of the other files with them"
    assert mine == [
        "1:1: unknown setting 'databse_url' (did you mean 'database_url'?)",
        "2:1: setting 'admins': must be a list in brackets, not 'root'",
        "3:1: setting 'lease_seconds': must be at least 2, not -5",
        "4:1: setting 'log_format': must be 'text' or 'json', not 'xml'",
        "5:1: setting 'time_zone': there is no time zone 'Europe/Prag' (did you mean 'Europe/Prague'?)",
        "6:1: setting 'database_url': relengq knows sqlite and postgresql, not mysql",
        f"7:1: setting 'broker_url': it begins with one of {', '.join(f'{each}://' for each in brokers)}",
        "8:1: setting 'max_runs_active': must be a whole number, not 1.5",
        "9:1: setting 'retention_logs': a duration is written like 30s, 5m, 1h30m, 2d, or as a number of seconds",
        "13:1: setting 'groups.admins': must be a list in brackets, not 'root'",
        "14:1: setting 'groups.qa': must be a text in quotes, not 1",
        "18:1: setting 'celery.task_routes': must be a text, a number, true or false",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("admins = []\n\n\nflower_port == 1\n", "4:14: this is not TOML: invalid value"),
        ("admins = [\n  'x',", "2:7: this is not TOML: "),
    ],
)
def test_broken_toml_is_told_at_its_place(tmp_path: Path, text: str, said: str) -> None:
    (found,) = told(tmp_path, {"relengq.toml": text})
    assert found.startswith(f"relengq.toml:{said}")
    assert "(at " not in found


def test_retention_from_the_environment_is_for_ever_when_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELENGQ_RETENTION_LOGS", "")
    monkeypatch.setenv("RELENGQ_RETENTION_RUNS", "1y")
    loaded = Settings.load(tmp_path)
    assert (loaded.retention_logs, loaded.retention_runs) == (0, 31536000)


def test_a_wrong_setting_of_the_environment_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELENGQ_LEASE_SECONDS", "soon")
    (found,) = told(tmp_path, {"relengq.toml": "admins = []\n"})
    assert found == "relengq.toml:1:1: setting 'lease_seconds' (RELENGQ_LEASE_SECONDS): must be a number, not 'soon'"


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + at)}: &{chr(98 + at)} [{','.join(['*' + chr(97 + at)] * 9)}]\n" for at in range(9)
)


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (BOMB, "50000"),
        ("description: '" + "x" * 10_000_000 + "'\n", "1048576 bytes"),
        ("inputs:\n" + "".join(f"  i{at}: {{}}\n" for at in range(10_000)), "the limit is 200"),
        ("description: " + "[" * 100_000, "limit of 50"),
        ("concurrency: {group: '" + "x" * 10_001 + "{{ run.who }}'}\n", "the limit is 10000"),
        ("concurrency: {group: '{{ " + "(" * 4000 + " }}'}\n", "nested too deep"),
    ],
    ids=["bomb", "10MB", "10000-inputs", "deep", "long-expression", "deep-expression"],
)  # fmt: skip
def test_what_is_too_much_is_refused_at_once_with_the_limit(tmp_path: Path, body: str, limit: str) -> None:
    write(tmp_path, {**SOUND, W: body + "steps: [{name: a, playbook: gather.yml}]\n"})
    began = time.process_time()
    (fault,) = check(tmp_path)
    assert time.process_time() - began < 1
    assert fault.file == W
    assert limit in fault.message


def test_a_file_with_very_many_faults_is_cut(tmp_path: Path) -> None:
    found = told(
        tmp_path, {W: "".join(f"k{at}: 1\n" for at in range(5000)) + "steps: [{name: a, playbook: gather.yml}]\n"}
    )
    assert len(found) == 101
    assert "more faults" in found[-1]


def test_a_directory_that_is_no_site_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="relengq init"):
        check(tmp_path / "absent")
    with pytest.raises(SiteFault, match="relengq init"):
        check(tmp_path)


def test_many_faults_of_many_files_come_at_once(tmp_path: Path) -> None:
    found = told(
        tmp_path,
        {
            "workers/p.yml": "queues: [a]\nconcurency: 2\n",
            "beat/b.yml": "s: {workflow: nihtly, cron: '61 * * * *'}\n",
            W: "descripton: x\nqueue: q\n"
            "steps: [{name: a, playbook: gathr.yml, when: outptus.x, timeot: 3, timeout: soon}]\n",
            "playbooks/workflows/v.yml": "steps: [\n",
        },
    )
    assert len(found) == 10, found
    assert found == sorted(found, key=lambda one: one.split(":")[0])


ATOMS = st.sampled_from(
    [
        "a",
        1,
        0,
        -1,
        True,
        None,
        "",
        "{{ x }}",
        "{{",
        "x.yml",
        [],
        {},
        "playbook",
        "5m",
        "a.*",
        ["a"],
        {"a": 1},
        "(",
        "\0",
    ]
)
KEYS = st.sampled_from(
    (
        "name",
        "playbook",
        "approval",
        "wait_for",
        "matrix",
        "when",
        "vars",
        "queue",
        "steps",
        "finally",
        "inputs",
        "on",
        "message",
        "if",
        "concurrency",
        "group",
        "retry",
        "outputs",
        "announce",
        "topic",
        "body",
        "access",
        "timeout",
        "type",
        "default",
        "choices",
        "secrets",
        "workflow",
        "cron",
        "every",
        "queues",
    )
)
TREES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)


@given(tree=TREES, place=st.sampled_from(["playbooks/workflows/x.yml", "beat/x.yml", "workers/x.yml"]))
def test_any_tree_gives_faults_and_no_traceback(
    tmp_path_factory: pytest.TempPathFactory, tree: object, place: str
) -> None:
    site = tmp_path_factory.mktemp("site")
    faults = check(write(site, {**SOUND, place: json.dumps(tree)}))
    assert all(str(fault) and fault.line > 0 for fault in faults)
