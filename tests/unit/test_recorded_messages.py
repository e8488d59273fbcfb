# SPDX-License-Identifier: GPL-3.0-or-later
"""The recorded messages are what the bus carries, and start what they should of the shipped workflows."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import jsonschema
import pytest
from fedora_messaging.message import Message as BaseMessage

from relengq.documents import Json
from relengq.engine.triggers import Outcome, Triggers
from relengq.site import load
from tests.support.recorded import NAMES, recorded

ROOT = Path(__file__).parents[2]
COMMIT = "9b1d2d6c2c0cbb0b1a6ef7d6d1c4ee0df0b1c1f8a7c6fd0a4a6be0b8f9a1a7d3"
RAWHIDE = {
    "compose_id": "Fedora-Rawhide-20261120.n.0",
    "compose_path": "/mnt/koji/compose/rawhide/Fedora-Rawhide-20261120.n.0",
    "location": "https://kojipkgs.fedoraproject.org/compose/rawhide/Fedora-Rawhide-20261120.n.0/compose",
}
BRANCHED = {
    "compose_id": "Fedora-44-20261121.n.1",
    "compose_path": "/mnt/koji/compose/branched/Fedora-44-20261121.n.1",
    "location": "https://kojipkgs.fedoraproject.org/compose/branched/Fedora-44-20261121.n.1/compose",
}
BASE = {"release": "44", "koji_tag": "f44-updates-candidate", "image": "Fedora-Container-Base-Generic"}
OSTREE = {"ref": "fedora/stable/x86_64/iot", "commit": COMMIT, "repo": "/mnt/koji/compose/iot/repo/"}
STARTS: dict[str, tuple[str, dict[str, Json], str | None]] = {
    "koji-tag-container": ("container-base", BASE, None),
    "koji-tag-toolbox": ("container-base", {**BASE, "image": "Fedora-Container-Toolbox"}, None),
    "compose-finished": ("verify-images", RAWHIDE, "key:Fedora-Rawhide-20261120.n.0"),
    "compose-stray-comma": ("verify-images", RAWHIDE, "key:Fedora-Rawhide-20261120.n.0"),
    "compose-finished-incomplete": ("verify-images", BRANCHED, "key:Fedora-44-20261121.n.1"),
    "bodhi-complete": ("after-push", {"repo": "f43-updates-testing"}, None),
    "bodhi-stray-comma": ("after-push", {"repo": "epel10.1-testing"}, None),
    "ostree": ("ostree", OSTREE, f"key:fedora/stable/x86_64/iot {COMMIT}"),
    "ostree-again": ("ostree", OSTREE, f"key:fedora/stable/x86_64/iot {COMMIT}"),
    "ostree-and-again": ("ostree", OSTREE, f"key:fedora/stable/x86_64/iot {COMMIT}"),
}
"""The workflow that each message starts, with inputs beside the defaults, and its key unless that is the id."""
STARTS_NOTHING = {
    "koji-tag-other-package": "msg.name is 'sapling'",
    "koji-tag-secondary": "msg.instance is 's390'",
    "koji-tag-side-tag": "msg.tag is 'f44-build-side-12345'",
    "koji-tag-no-tag": "msg.tag is null",
    "compose-started": "msg.status is 'STARTED'",
    "compose-doomed": "msg.status is 'DOOMED'",
    "bodhi-failed": "msg.success is false",
    "ostree-null-commit": "msg.commitid is null",
}
"""Why each message starts nothing although a workflow asks for its topic."""
UNWANTED = set(NAMES) - set(STARTS) - set(STARTS_NOTHING)
"""Messages that runs wait for, and no workflow starts for."""
HOSTILE = [
    "{{ lookup('pipe', 'touch trap') }}", "; touch /tmp/trap", "$(touch /tmp/trap)", "`touch /tmp/trap`", "--option",
    "-o", "../../etc/passwd", "/mnt/../etc", "a\nb", "f44\n", "' || true", "a b", "\u202eabc", "%2e%2e", "",
]  # fmt: skip


@pytest.fixture(scope="module")
def triggers() -> Triggers:
    return Triggers(load(ROOT))


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_message_fits_its_schema(name: str) -> None:
    message = recorded(name)
    [entry] = entry_points(group="fedora.messages", name=str(message.headers["fedora_messaging_schema"]))
    schema: type[BaseMessage] = entry.load()
    assert entry.dist is not None
    package = str(message.headers["fedora_messaging_schema_package"])
    assert entry.dist.name.replace("-", "_") == package.replace("-", "_")
    jsonschema.validate(message.headers, schema.headers_schema)
    jsonschema.validate(message.body, schema.body_schema)
    assert message.topic.endswith(schema.topic)
    assert uuid.UUID(message.id).version == 4
    assert message.sent_at is not None


def test_no_two_recorded_messages_have_the_same_id() -> None:
    assert len({recorded(name).id for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", STARTS)
def test_a_message_starts_its_workflow_and_no_other(triggers: Triggers, name: str) -> None:
    workflow, inputs, key = STARTS[name]
    message = recorded(name)
    [verdict] = triggers.judge(message)
    assert (verdict.workflow, verdict.outcome, verdict.reason) == (workflow, Outcome.START, None)
    assert verdict.inputs is not None
    assert verdict.inputs.items() >= inputs.items()
    assert verdict.key == (key or f"id:{message.id}")


@pytest.mark.parametrize("name", STARTS_NOTHING)
def test_a_message_that_starts_nothing_says_why(triggers: Triggers, name: str) -> None:
    [verdict] = triggers.judge(recorded(name))
    assert (verdict.outcome, verdict.inputs) == (Outcome.NO, None)
    assert STARTS_NOTHING[name] in str(verdict.reason)


@pytest.mark.parametrize("name", sorted(UNWANTED))
def test_nothing_starts_for_what_runs_wait_for(triggers: Triggers, name: str) -> None:
    assert re.match("ci-|openqa-", name)
    assert not triggers.wanted(recorded(name).topic)


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", ["koji-tag-container", "compose-finished", "bodhi-complete", "ostree"])
def test_a_hostile_value_never_becomes_an_input(triggers: Triggers, name: str, value: str) -> None:
    """Whichever field it is in, alone or after what is usual there: it is parked, or becomes no input, or is a word."""
    for field, usual in recorded(name).body.items():
        for hostile in (value, f"{usual}{value}", [value], {"a": value}):
            [verdict] = triggers.judge(recorded(name, **{field: hostile}))
            if verdict.outcome is not Outcome.START:
                assert verdict.inputs is None
                assert 0 < len(str(verdict.reason)) < 2000
                continue
            for given in texts(verdict.inputs):
                assert re.fullmatch(r"|[A-Za-z0-9/][A-Za-z0-9._/:+~-]*", given), (field, hostile)
                assert ".." not in given.split("/"), (field, hostile)


def texts(value: Json) -> Iterator[str]:
    """Every text in the value."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value
