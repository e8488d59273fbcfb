# SPDX-License-Identifier: GPL-3.0-or-later
"""What workflows make of a message, before anything is done."""

from __future__ import annotations

import hashlib
import json
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relengq.documents import Json
from relengq.engine import triggers
from relengq.engine.triggers import Triggers, Verdict
from relengq.expressions import render
from relengq.inputs import MASK
from relengq.messages import Message
from relengq.site import load

Write = Callable[..., Triggers]
TAG = "org.fedoraproject.prod.buildsys.tag"


@pytest.fixture
def triggers_of(site: Path) -> Write:
    """The triggers of a site with these workflows."""

    def write(before: Triggers | None = None, **workflows: str) -> Triggers:
        for name, text in workflows.items():
            steps = "steps: [{name: one, playbook: hello.yml}]\n"
            (site / "playbooks/workflows" / f"{name}.yml").write_text(textwrap.dedent(text) + steps)
        return Triggers(load(site), before)

    return write


def message(topic: str = TAG, **body: Json) -> Message:
    return Message("m1", topic, {"sent-at": "2026-11-20T10:00:00+00:00"}, json.dumps(body).encode())


def only(verdicts: list[Verdict]) -> Verdict:
    [verdict] = verdicts
    return verdict


def test_patterns_are_matched_as_amqp_does(triggers_of: Write) -> None:
    made = triggers_of(one="on: [{message: 'org.*.*.buildsys.#'}]\n")
    topics = {TAG: True, "org.a.b.buildsys": True, "org.b.buildsys.tag": False, "": False, "org.a.b.buildsys.c.d": True}
    assert {topic: made.wanted(topic) for topic in topics} == topics
    assert made.judge(message("other.topic")) == []


def test_the_first_entry_whose_condition_holds_decides(triggers_of: Write) -> None:
    made = triggers_of(
        one=f"""
        inputs: {{which: {{type: string}}}}
        on:
          - {{message: {TAG}, if: msg.tag == 'a', inputs: {{which: first}}}}
          - {{message: '#', if: msg.tag == 'a' or msg.tag == 'b', inputs: {{which: second}}}}
        """
    )
    chosen = [only(made.judge(message(tag=tag))) for tag in ("a", "b", "c")]
    assert [(verdict.outcome, verdict.trigger, verdict.inputs) for verdict in chosen] == [
        ("start", 0, {"which": "first"}),
        ("start", 1, {"which": "second"}),
        ("no", 1, None),
    ]


def test_why_a_condition_is_false_is_said_with_its_values(triggers_of: Write) -> None:
    made = triggers_of(one="on: [{message: '#', if: msg.tag == 'f44' and msg.n == 1}]\n")
    assert only(made.judge(message(tag="f43", n=1))).reason == (
        "if: msg.tag == 'f44' and msg.n == 1 is false: msg.tag is 'f43'"
    )


def test_a_condition_that_cannot_be_evaluated_parks_unless_another_entry_holds(triggers_of: Write) -> None:
    made = triggers_of(one="on: [{message: '#', if: msg.tag == 'f44'}, {message: '#', if: msg.other == 1}]\n")
    parked = only(made.judge(message(other=2)))
    assert (parked.outcome, parked.trigger) == ("park", 0)
    assert "msg has no 'tag'" in (parked.reason or "")
    assert only(made.judge(message(other=1))).outcome == "start"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("{{ msg.text }}", "key:a b"),
        ("{{ msg.number }}", "key:7"),
        ("{{ msg.pair }}", 'key:{"a":1,"b":[2]}'),
        ("{{ [msg.text, msg.number] }}", 'key:["a b",7]'),
        ("{{ msg.no }}", None),
        ("{{ msg.missing }}", None),
    ],
)
def test_keys_are_text_or_canonical_json(triggers_of: Write, key: str, expected: str | None) -> None:
    made = triggers_of(one=f"on: [{{message: '#', key: '{key}'}}]\n")
    verdict = only(made.judge(message(text="a b", number=7, pair={"b": [2], "a": 1}, no=None)))
    assert (verdict.outcome, verdict.key) == (("start", expected) if expected else ("park", None))


def test_without_a_key_the_id_of_the_message_is_the_key(triggers_of: Write) -> None:
    made = triggers_of(one="on: [{message: '#'}]\n")
    assert only(made.judge(message())).key == "id:m1"


SECRETS = """
inputs: {token: {type: string, secret: true, default: ''}, tokens: {type: list, secret: true, default: []}}
on: [{message: '#', inputs: {token: '{{ msg.token }}', tokens: '{{ msg.tokens }}'}, key: "%s"}]
"""


def keyed(triggers_of: Write, key: str, token: str = 's3"cr3t é', tokens: Sequence[str] = ("one+s3cr3t",)) -> str:
    made = triggers_of(one=SECRETS % key)
    return only(made.judge(message(token=token, tokens=list(tokens), tag="f44", nr=7))).key or ""


@pytest.mark.parametrize(
    "key",
    [
        "{{ msg.token }}",
        "{{ msg.tag }}/{{ msg.token }}",
        "{{ msg.tokens | join(',') }}",
        "{{ msg.tokens }}",
        "{{ msg.tokens[0] }}",
        "{{ [msg.token, msg.tag] }}",
        "{{ {'a': msg.token} | to_json }}x",
        "{{ msg.token | urlencode }}",
        "{{ msg.tokens[0] | urlencode }}",
        "{{ msg }}",
    ],
)
def test_a_key_that_has_the_value_of_a_secret_input_in_any_form_is_a_digest(triggers_of: Write, key: str) -> None:
    plain = render(key, {"msg": {"token": 's3"cr3t é', "tokens": ["one+s3cr3t"], "tag": "f44", "nr": 7}})
    text = plain if isinstance(plain, str) else json.dumps(plain, sort_keys=True, separators=(",", ":"))
    assert keyed(triggers_of, key) == f"key:sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@pytest.mark.parametrize("token", ['s3"cr3t é', "", "45x", "s3cr3t\nof several lines\n"])
def test_a_key_without_secrets_stays_as_it_is(triggers_of: Write, token: str) -> None:
    assert keyed(triggers_of, "{{ msg.tag }}-{{ msg.nr }}x", token) == "key:f44-7x"


def test_more_secrets_than_can_be_looked_for_make_a_digest_at_once(triggers_of: Write) -> None:
    began = time.process_time()
    key = keyed(triggers_of, "{{ msg.tag }}", tokens=[f"s3cr3t {at} {'x' * 900}" for at in range(1000)])
    assert key.startswith("key:sha256:")
    assert time.process_time() - began < 1


def test_inputs_are_rendered_checked_and_secret_ones_masked(triggers_of: Write) -> None:
    made = triggers_of(
        one="""
        inputs: {name: {type: string}, token: {type: string, secret: true}, when: {type: string}, n: {type: int}}
        on:
          - message: '#'
            inputs: {name: '{{ msg.name }}', token: '{{ msg.token }}', when: '{{ sent_at }}', n: '{{ msg.n }}'}
        """
    )
    verdict = only(made.judge(message(name="{{ 7 * 7 }}", token="hunter2", n=3)))
    assert verdict.inputs == {"name": "{{ 7 * 7 }}", "token": MASK, "when": "2026-11-20T10:00:00+00:00", "n": 3}
    assert "hunter2" not in repr(verdict)
    wrong = only(made.judge(message(name="a", token="hunter2", n="3")))
    assert wrong.outcome == "park"
    assert "input 'n' must be a whole number, not '3'" in (wrong.reason or "")


def test_a_workflow_that_became_faulty_parks_what_would_have_started_it(triggers_of: Write) -> None:
    sound = triggers_of(one="on: [{message: '#', if: msg.tag == 'a'}]\n")
    faulty = triggers_of(sound, one="on: [{message: '#', when: 1}]\nmistake: 1\n")
    again = triggers_of(faulty)
    for made in (faulty, again):
        assert [only(made.judge(message(tag=tag))).outcome for tag in "ab"] == ["park", "no"]
        assert "playbooks/workflows/one.yml has faults: " in (only(made.judge(message(tag="a"))).reason or "")
    fixed = triggers_of(again, one="on: [{message: other}]\n")
    assert fixed.judge(message(tag="a")) == []


def test_of_a_workflow_that_was_never_sound_the_triggers_that_can_be_read_count(triggers_of: Write) -> None:
    made = triggers_of(one="on: [{message: '#', if: msg.tag == 'a'}, {mesage: x}]\nmistake: 1\n")
    assert [only(made.judge(message(tag=tag))).outcome for tag in "ab"] == ["park", "no"]
    assert made.patterns() == {"#"}


def test_the_patterns_are_those_of_triggers_and_waits(triggers_of: Write, site: Path) -> None:
    (site / "playbooks/workflows/waiting.yml").write_text(
        "on: [{message: a.b}]\nsteps: [{name: w, wait_for: {message: 'c.#'}}]\n"
        "finally: [{name: v, wait_for: {message: d}}]\n"
    )
    assert triggers_of().patterns() == {"a.b", "c.#", "d"}


def test_a_mistake_of_ours_parks_and_is_told(triggers_of: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    made = triggers_of(one="on: [{message: '#'}]\n", two="on: [{message: '#'}]\n")

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(triggers, "check_inputs", broken)
    assert [verdict.reason for verdict in made.judge(message())] == [
        "a bug in relengq, ZeroDivisionError; its log has the traceback"
    ] * 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(body=st.binary() | JSON.map(lambda value: json.dumps(value).encode()), encoding=st.sampled_from(["utf-8", "x"]))
def test_whatever_a_message_says_judging_it_raises_nothing(triggers_of: Write, body: bytes, encoding: str) -> None:
    made = triggers_of(
        one="""
        inputs: {value: {type: string}}
        on: [{message: '#', if: msg is mapping, inputs: {value: '{{ msg.value }}'}, key: '{{ msg }}'}]
        """
    )
    assert only(made.judge(Message("m1", TAG, {}, body, encoding))).outcome in ("start", "no", "park")
