# SPDX-License-Identifier: GPL-3.0-or-later
"""The schemas of announcements: as consumers have them, without the engine."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fedora_messaging import message
from hypothesis import given, settings
from hypothesis import strategies as st

from relengq_messages import RunFinishedV1, RunStartedV1, RunWaitingV1, StepFinishedV1
from relengq_messages.messages import RelengqMessage

ROOT = Path(__file__).parents[2]
CLASSES = (RunStartedV1, RunFinishedV1, RunWaitingV1, StepFinishedV1)
AT = "2026-11-20T05:15:00.000+00:00"
ABOUT: dict[str, Any] = {
    "workflow": "nightly-compose",
    "run": "1qntv764f8",
    "at": AT,
    "url": None,
    "trigger": {"kind": "person", "message_id": None, "topic": None, "schedule": None, "due": None},
    "who": "alice",
    "inputs": {"release": "f44"},
    "groups": ["releng"],
    "revision": "0b1c2d",
    "dirty": False,
    "origin": None,
    "created_at": AT,
    "started_at": AT,
    "left_out": [],
}
STEP = {"name": "createrepo", "instance": "x86_64"}
BODIES: dict[type[RelengqMessage], dict[str, Any]] = {
    RunStartedV1: ABOUT,
    RunFinishedV1: {
        **ABOUT,
        "result": "failed",
        "reason": "createrepo [x86_64]: no disk",
        "failed_step": {**STEP, "message": "no disk"},
        "outputs": {"compose_id": "X-1"},
        "finished_at": AT,
        "stopped_by": None,
    },
    RunWaitingV1: {
        **ABOUT,
        "step": STEP,
        "waits_for": {"kind": "approval", "groups": ["leads"], "topic": None, "note": "Ship it?", "until": AT},
    },
    StepFinishedV1: {
        **ABOUT,
        "step": {
            **STEP,
            "kind": "playbook",
            "final": False,
            "result": "failed",
            "message": "no disk",
            "allowed_to_fail": False,
            "attempts": 3,
            "started_at": AT,
            "finished_at": AT,
        },
        "outputs": {},
    },
}


def places(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The place of each field that the schema describes."""
    for name, inner in schema.get("properties", {}).items():
        yield (*path, name)
        yield from places(inner, (*path, name))


def changed(body: dict[str, Any], place: tuple[str, ...], *value: Any) -> dict[str, Any]:
    """The body with another value at a place, or without it."""
    made = copy.deepcopy(body)
    here = made
    for part in place[:-1]:
        here = here[part]
    if value:
        here[place[-1]] = value[0]
    else:
        del here[place[-1]]
    return made


@pytest.mark.parametrize("kind", CLASSES)
def test_fedora_messaging_finds_the_class_by_its_versioned_topic(kind: type[RelengqMessage]) -> None:
    (found,) = entry_points(group="fedora.messages", name=kind.topic)
    assert found.load() is kind
    assert kind.topic.startswith("relengq.")
    assert kind.topic.endswith(".v1")


@pytest.mark.parametrize("kind", CLASSES)
def test_a_schema_asks_for_every_field_and_its_type_and_lets_pass_what_it_does_not_know(
    kind: type[RelengqMessage],
) -> None:
    body = BODIES[kind]
    kind(body=body).validate()
    kind(body={**body, "later": {"x": 1}}).validate()
    found = list(places(kind.body_schema))
    assert len(found) > 15
    for place in found:
        for wrong in (changed(body, place), changed(body, place, 1.5)):
            with pytest.raises(jsonschema.ValidationError):
                kind(body=wrong).validate()


def test_a_schema_never_changes() -> None:
    """Whoever has to change one of these adds a class ``…V2`` with a topic of its own."""

    def bare(node: Any) -> Any:
        if isinstance(node, dict):
            return {
                key: bare(value) for key, value in node.items() if not isinstance(value, str) or key != "description"
            }
        return node

    digests = {
        kind.__name__: hashlib.sha256(json.dumps(bare(kind.body_schema), sort_keys=True).encode()).hexdigest()[:16]
        for kind in CLASSES
    }
    assert digests == {
        "RunStartedV1": "571f7293b87b0ea8",
        "RunFinishedV1": "ec2e103c0e8cba63",
        "RunWaitingV1": "29ffe6154bdcc64b",
        "StepFinishedV1": "eaba864caa03737a",
    }


def test_the_accessors_say_in_short_what_a_message_tells() -> None:
    started, finished, waiting, step = (kind(body=BODIES[kind]) for kind in CLASSES)
    assert started.summary == "Run of nightly-compose (1qntv764f8) has begun"
    assert finished.summary == "Run of nightly-compose (1qntv764f8) failed: createrepo [x86_64]: no disk"
    assert waiting.summary == "Run of nightly-compose (1qntv764f8) waits at createrepo [x86_64] for approval by leads"
    assert step.summary == "Step createrepo [x86_64] of nightly-compose (1qntv764f8) failed: no disk"
    assert "Failed step: createrepo [x86_64]\nMessage: no disk" in str(finished)
    assert [each.groups for each in (started, waiting)] == [["releng"], ["leads"]]
    assert (started.usernames, started.agent_name, started.url, started.app_icon) == (["alice"], "alice", None, None)
    stopped = RunFinishedV1(body={**BODIES[RunFinishedV1], "result": "cancelled", "stopped_by": "bob"})
    assert (stopped.usernames, stopped.agent_name) == (["alice", "bob"], "bob")
    by_clock = RunFinishedV1(body={**BODIES[RunFinishedV1], "who": "schedule nightly", "stopped_by": "clock"})
    assert (by_clock.usernames, by_clock.agent_name) == ([], None)


def test_the_severity_follows_the_outcome() -> None:
    def of(kind: type[RelengqMessage], *place: str, value: object = None) -> int:
        return kind(body=changed(BODIES[kind], place, value) if place else BODIES[kind]).severity

    assert [of(RunFinishedV1, "result", value=each) for each in ("succeeded", "cancelled", "failed")] == [20, 30, 40]
    assert [of(RunStartedV1), of(RunWaitingV1)] == [20, 20]
    results = ("succeeded", "cancelled", "failed")
    assert [of(StepFinishedV1, "step", "result", value=each) for each in results] == [20, 30, 40]
    assert of(StepFinishedV1, "step", "allowed_to_fail", value=True) == 30
    assert RunFinishedV1(body=BODIES[RunFinishedV1], severity=10).severity == 10  # as it came from the bus


@pytest.mark.parametrize(
    ("inputs", "packages"),
    [
        ({"package": "kernel"}, ["kernel"]),
        ({"packages": ["bash", "zsh", "bash"]}, ["bash", "zsh"]),
        ({"nvr": "python-requests-2.32-1.fc44"}, ["python-requests"]),
        ({"nvrs": ["a-1-1", "short"]}, ["a"]),
        ({"package": "no name\n", "packages": ["x" * 300, ""], "nvr": 3}, []),
        ({"release": "f44"}, []),
        ({"packages": [f"p{number}" for number in range(1000)]}, [f"p{number}" for number in range(50)]),
    ],
)
def test_packages_come_from_inputs_that_are_named_so(inputs: dict[str, Any], packages: list[str]) -> None:
    assert RunStartedV1(body={**ABOUT, "inputs": inputs}).packages == packages


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMED = st.sampled_from(["package", "packages", "nvr", "nvrs", "x"])
TEXT = st.text(max_size=300)


@settings(max_examples=150, deadline=None)
@given(inputs=st.dictionaries(NAMED, JSON), text=TEXT, groups=st.lists(TEXT, max_size=3), kind=st.sampled_from(CLASSES))
def test_no_accessor_raises_on_a_body_that_fits(
    inputs: dict[str, Any], text: str, groups: list[str], kind: type[RelengqMessage]
) -> None:
    body = {**BODIES[kind], "inputs": inputs, "groups": groups, "who": text, "url": text, "origin": text}
    for place in (("reason",), ("failed_step",), ("stopped_by",), ("step", "message"), ("waits_for", "note")):
        if place[0] in body and (len(place) == 1 or place[1] in body[place[0]]):
            body = changed(body, place, text if place != ("failed_step",) else None)
    made = kind(body=body)
    made.validate()
    assert "\n" not in made.summary
    assert str(made)
    for name in ("url", "app_name", "app_icon", "agent_name", "agent_avatar", "usernames", "groups", "packages"):
        getattr(made, name)
    for headers in (made._headers,):
        assert all(len(key.encode()) <= 255 for key in headers)


@given(body=st.dictionaries(st.sampled_from(["result", "step", "x"]), JSON))
def test_the_severity_of_any_body_can_be_asked_for(body: dict[str, Any]) -> None:
    assert all(kind.severity_of(body) in message.SEVERITIES for kind in CLASSES)


ALONE = """\
import importlib.util, json, sys
from fedora_messaging.message import load_message
assert importlib.util.find_spec("relengq") is None
made = load_message(json.load(sys.stdin))
made.validate()
print(type(made).__module__, type(made).__name__, made.severity, made.summary)
"""


def test_a_consumer_installs_the_package_alone(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "messages", tmp_path / "messages", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    venv = tmp_path / "venv"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # What it depends on is taken from where the tests run, so that no network is needed.
    offline = ["--no-deps", "--no-index"]
    for command in (
        [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", tmp_path, tmp_path / "messages"],
        [sys.executable, "-m", "venv", "--without-pip", venv],
        [*pip, "--python", venv, "install", *offline, "--find-links", tmp_path, "relengq-messages"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    made = RunFinishedV1(body=BODIES[RunFinishedV1])
    sent = {"topic": f"org.example.{made.topic}", "body": made.body, "headers": made._headers, "id": made.id}
    done = subprocess.run(
        [venv / "bin/python", "-c", ALONE], cwd=tmp_path, input=json.dumps(sent), capture_output=True, text=True,
        check=False,
        env={"PYTHONPATH": sysconfig.get_path("purelib")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "relengq_messages.messages RunFinishedV1 40 Run of nightly-compose (1qntv764f8) failed"
    )
