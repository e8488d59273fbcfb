# SPDX-License-Identifier: GPL-3.0-or-later
"""The models of workflow and pool files."""

from __future__ import annotations

import json
import re

import kombu.transport.redis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relengq import documents
from relengq.errors import ExpressionFault
from relengq.pools import Pool
from relengq.workflows import ApprovalStep, PlaybookStep, WaitForStep, Workflow, topic_matches
from relengq.workflows.values import queue_name

NIGHTLY = """
description: Compose a release every night, test it, publish it when it is good.
queue: compose
inputs:
  release: {type: string, pattern: 'rawhide|f[0-9]+', help: Release to compose}
  arches:  {type: list, choices: [x86_64, aarch64, ppc64le, s390x], default: [x86_64]}
on:
  - message: org.fedoraproject.*.buildsys.tag
    if: msg.tag == 'f44-updates' and msg.instance == 'primary'
    inputs: {release: f44}
    key: "{{ msg.tag }}"
concurrency: {group: "compose-{{ inputs.release }}", when_busy: queue}
access: {launch: [releng], logs: [releng, qa]}
steps:
  - name: gather
    playbook: compose-gather.yml
    vars: {compose_release: "{{ inputs.release }}"}
    timeout: 2h
    retry: {attempts: 3, delay: 1m, backoff: 2}
  - name: createrepo
    playbook: compose-createrepo.yml
    matrix: {arch: "{{ inputs.arches }}"}
    queue: "compose-{{ matrix.arch }}"
  - name: ci
    wait_for: {message: org.centos.*.ci.*.test.complete, if: msg.artifact.id == outputs.compose_id, timeout: 6h}
  - name: go
    approval: {groups: [releng-leads], timeout: 1d}
    announce: {topic: compose.waiting, body: {id: "{{ outputs.compose_id }}"}}
  - name: publish
    playbook: compose-publish.yml
    when: [outputs.ci.test.result == 'passed', "{{ true }}"]
    allow_failure: false
    on_lost: hold
finally:
  - {name: report, playbook: compose-report.yml}
"""


def workflow(text: str, name: str = "nightly") -> Workflow:
    data = documents.parse(text, name="f.yml").data
    assert isinstance(data, dict)
    return Workflow.model_validate({**data, "name": name})


def step(**body: object) -> PlaybookStep:
    made = Workflow.model_validate({"name": "w", "steps": [{"name": "s", "playbook": "p.yml", **body}]}).steps[0]
    assert isinstance(made, PlaybookStep)
    return made


def test_the_design_s_example_is_read() -> None:
    made = workflow(NIGHTLY)
    gather, createrepo, ci, go, publish = made.steps
    assert [type(part) for part in made.chain] == [
        PlaybookStep, PlaybookStep, WaitForStep, ApprovalStep, PlaybookStep, PlaybookStep,
    ]  # fmt: skip
    assert [part.kind for part in made.chain[1:4]] == ["playbook", "wait_for", "approval"]
    assert isinstance(gather, PlaybookStep)
    assert (gather.timeout, gather.retry.delay, gather.retry.attempts) == (7200, 60, 3)
    assert createrepo.matrix == {"arch": "{{ inputs.arches }}"}
    assert isinstance(ci, WaitForStep)
    assert ci.wait_for.timeout == 21600
    assert go.announce[0].topic == "compose.waiting"  # type: ignore[union-attr]
    assert publish.when == "(outputs.ci.test.result == 'passed') and (true)"
    assert made.finally_[0].name == "report"


def test_what_is_stored_with_runs_is_the_same_workflow() -> None:
    made = workflow(NIGHTLY)
    stored = json.loads(made.model_dump_json(by_alias=True, exclude_defaults=True))
    assert Workflow.model_validate(stored) == made


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"timout": 3}, "timout"),
        ({"timeout": "0s"}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"retry": {"attempts": 0}}, "retry.attempts"),
        ({"retry": {"attempts": "3"}}, "retry.attempts"),
        ({"name": "a b"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"playbook": "../x.yml"}, "playbook"),
        ({"playbook": "/x.yml"}, "playbook"),
        ({"playbook": "x.sh"}, "playbook"),
        ({"queue": "a b"}, "queue"),
        ({"queue": "a\n"}, "queue"),
        ({"queue": "unacked"}, "queue"),
        ({"on_lost": "panic"}, "on_lost"),
        ({"when": ""}, "when"),
        ({"when": 3}, "when"),
        ({"when": []}, "when"),
        ({"matrix": {}}, "matrix"),
        ({"matrix": {"a": []}}, "matrix.a"),
        ({"matrix": {"a": "x86_64"}}, "matrix.a"),
        ({"matrix": {"a": ["x", "x"]}}, "matrix.a"),
        ({"matrix": {"a": [{"x": 1}]}}, "matrix.a"),
        ({"matrix": {"a": list(range(257))}}, "matrix.a"),
        ({"matrix": {"a-b": ["x"]}}, "matrix.a-b.[key]"),
        ({"vars": {"ansible_ssh_common_args": "-o ProxyCommand=id"}}, "vars.ansible_ssh_common_args.[key]"),
        ({"vars": {"hostvars": 1}}, "vars.hostvars.[key]"),
        ({"vars": {"relengq": 1}}, "vars.relengq.[key]"),
        ({"vars": {"a-b": 1}}, "vars.a-b.[key]"),
        ({"vars": {"lambda": 1}}, "vars.lambda.[key]"),
        ({"tags": ["a,b"]}, "tags.0"),
        ({"verbosity": 9}, "verbosity"),
        ({"announce": {"topic": "a.*"}}, "announce.0.message.topic"),
        ({"announce": {"topc": "a"}}, "announce.0.message.topic"),
        ({"announce": "Run Started"}, "announce.0.event"),
    ],
)
def test_a_step_refuses(body: dict[str, object], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        step(**body)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])).removeprefix("steps.0.playbook.") == place


def test_conditions_may_be_yaml_s_own_true_and_false() -> None:
    assert step(when=False).when == "false"
    assert step(when=[True, "a == 1"]).when == "(true) and (a == 1)"
    assert step().allow_failure is False
    assert step(allow_failure="inputs.x").allow_failure == "inputs.x"


@pytest.mark.parametrize("body", [{}, {"playbook": "p.yml", "approval": {}}, {"awx": {}}, {"shell": "id"}])
def test_a_step_has_one_kind(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="exactly one of playbook, approval, wait_for"):
        Workflow.model_validate({"name": "w", "steps": [{"name": "s", **body}]})


@pytest.mark.parametrize("pattern", ["", "a..b", ".a", "a.", "a*.b", "a.#b", "a b", "x" * 256])
def test_topic_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(ValidationError):
        Workflow.model_validate(
            {"name": "w", "on": [{"message": pattern}], "steps": [{"name": "s", "playbook": "p.yml"}]}
        )


@pytest.mark.parametrize(
    ("pattern", "topic", "matches"),
    [
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*", "a", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#", "", True),
        ("#", "a.b", True),
        ("#.c", "a.b.c", True),
        ("#.c", "c", True),
        ("a.#.c", "a.c", True),
        ("*.b.#", "a.b", True),
        ("*", "", False),
        ("a", "a.b", False),
        ("a.b", "a.x", False),
        ("#.#.a.*.#", "x.a.b", True),
        ("org.centos.*.ci.*.test.complete", "org.centos.prod.ci.koji-build.test.complete", True),
        ("a.b", "aXb", False),
        ("a.[b]", "a.b", False),
    ],
)
def test_topics(pattern: str, topic: str, matches: bool) -> None:
    assert topic_matches(pattern, topic) is matches


WORDS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5)
PATTERNS = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5)


@given(PATTERNS, WORDS)
def test_topics_match_as_the_amqp_specification_says(pattern: list[str], topic: list[str]) -> None:
    """Against another reading of it: '*' is one word, '#' is zero or more words."""
    parts = {"*": r"[abc] ", "#": r"([abc] )*"}
    expected = re.fullmatch(
        "".join(parts.get(word, f"{word} ") for word in pattern), "".join(f"{word} " for word in topic)
    )
    assert topic_matches(".".join(pattern), ".".join(topic)) is bool(expected)


def test_hostile_topics_cost_nothing() -> None:
    assert not topic_matches(".".join(["#", "a"] * 60), ".".join(["a"] * 59))


@pytest.mark.parametrize(
    "name",
    [
        "unacked", "unacked_index", "unacked_mutex", "_kombu.binding.default", "default\x06\x163", "amq.gen-x",
        "relengq", "celeryev", "celeryev.b2f0", "celery_delayed_27", "w1@host.celery.pidbox",
        "b2f0.reply.celery.pidbox", "",
    ],
)  # fmt: skip
def test_no_expression_makes_a_queue_of_what_is_the_brokers_own(name: str) -> None:
    with pytest.raises(ExpressionFault, match="is no name of a queue: "):
        queue_name(name)


@pytest.mark.parametrize("name", ["default", "compose-x86_64", "acked", "unacked2", "kombu", "amq", "celery", "pidbox"])
def test_other_names_are_free(name: str) -> None:
    assert queue_name(name) == name


def test_what_kombu_keeps_in_redis_is_the_name_of_no_queue() -> None:
    channel = kombu.transport.redis.Channel
    keys = [getattr(channel, name) for name in vars(channel) if name.endswith("_key")]
    assert "unacked" in keys
    for key in (*keys, channel.keyprefix_queue % "x", channel.keyprefix_binding_deadlines, f"x{channel.sep}3"):
        with pytest.raises(ExpressionFault):
            queue_name(key)


def test_a_pool_is_read() -> None:
    pool = Pool.model_validate(
        {
            "name": "p",
            "queues": ["a", "b-x86_64"],
            "limits": {"memory": "2GiB"},
            "secrets": {"token": {"file": "/etc/token"}},
        }
    )
    assert (pool.concurrency, pool.limits.memory, pool.ansible.warm) == (2, 2 * 1024**3, "auto")


@pytest.mark.parametrize(
    "body",
    [
        {"queues": []},
        {"queues": ["a", "a"]},
        {"queues": ["a b"]},
        {"queues": ["default", "unacked_index"]},
        {"queues": ["a"], "concurrency": 0},
        {"queues": ["a"], "limits": {"memory": "lots"}},
        {"queues": ["a"], "limits": {"memory": 1000}},
        {"queues": ["a"], "secrets": {"x": {}}},
        {"queues": ["a"], "secrets": {"x": {"file": "a", "vault": "b"}}},
        {"queues": ["a"], "environment": {"A=B": "x"}},
        {"queues": ["a"], "concurency": 1},
    ],
)
def test_a_pool_refuses(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Pool.model_validate({"name": "p", **body})
