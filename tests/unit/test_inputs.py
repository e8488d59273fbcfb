# SPDX-License-Identifier: GPL-3.0-or-later
"""Typed inputs: what is accepted, what is told, and that secrets stay hidden."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relengq.documents import Json
from relengq.errors import InputFault
from relengq.inputs import MASK, SIZE_LIMIT, InputSpec, check_inputs, mask, parse_text

RELEASE = InputSpec(pattern="rawhide|f[0-9]+", help="Release to compose")
ARCHES = InputSpec(type="list", choices=["x86_64", "aarch64"], default=["x86_64"])
COUNT = InputSpec(type="int", min=1, max=9, default=3)
PUBLISH = InputSpec(type="bool", default=False)
TOKEN = InputSpec(secret=True, pattern="t-.*")
SPECS = {"release": RELEASE, "arches": ARCHES, "count": COUNT, "publish": PUBLISH}

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def problems(specs: dict[str, InputSpec], given: dict[str, object]) -> list[str]:
    with pytest.raises(InputFault) as caught:
        check_inputs(specs, given)
    return caught.value.problems


def test_defaults_are_filled_in_and_are_nobody_elses() -> None:
    first = check_inputs(SPECS, {"release": "f44"})
    assert first == {"release": "f44", "arches": ["x86_64"], "count": 3, "publish": False}
    assert isinstance(first["arches"], list)
    first["arches"].append("changed")
    assert check_inputs(SPECS, {"release": "f44"})["arches"] == ["x86_64"]


def test_every_problem_is_told_at_once_with_the_nearest_name() -> None:
    found = problems(SPECS, {"relase": "f44", "arches": ["x86-64"], "count": 10, "publish": "true"})
    assert found == [
        "unknown input 'relase' (did you mean 'release'?)",
        "input 'release' is missing: a string (Release to compose)",
        "input 'arches' (item 1) must be one of x86_64, aarch64, not 'x86-64' (did you mean 'x86_64'?)",
        "input 'count' must be at most 9, not 10",
        "input 'publish' must be true or false, not 'true'",
    ]


@pytest.mark.parametrize(
    ("spec", "value", "problem"),
    [
        (RELEASE, "f44\n", "must match the pattern"),
        (RELEASE, 44, "must be a string, not 44: write it in quotes"),
        (RELEASE, None, "must be a string"),
        (InputSpec(), "x" * 10_001, "10001 characters; the limit is 10000"),
        (InputSpec(), "a\0b", "NUL"),
        (InputSpec(), "\ud800", "surrogate"),
        (InputSpec(type="int"), True, "whole number"),
        (InputSpec(type="int"), 1.0, "whole number"),
        (InputSpec(type="int"), 2**63, "at most 9223372036854775807"),
        (InputSpec(type="int", choices=[1, 2]), 3, "one of 1, 2"),
        (InputSpec(type="list"), "a", "list of strings"),
        (InputSpec(type="list"), [1], "(item 1) must be a string"),
        (InputSpec(type="list", min_items=1), [], "1 to 1000 items"),
        (InputSpec(type="list", max_items=2), ["a", "b", "c"], "0 to 2 items, not 3"),
    ],
)
def test_refuses(spec: InputSpec, value: object, problem: str) -> None:
    (found,) = problems({"it": spec}, {"it": value})
    assert problem in found


def test_all_inputs_together_have_a_limit() -> None:
    specs = {f"i{at}": InputSpec() for at in range(120)}
    (found,) = problems(specs, dict.fromkeys(specs, "x" * 10_000))
    assert f"the limit is {SIZE_LIMIT} bytes" in found


def test_a_secret_is_not_in_what_is_told() -> None:
    (found,) = problems({"token": TOKEN}, {"token": "hunter2"})
    assert "hunter2" not in found
    with pytest.raises(InputFault) as caught:
        parse_text(InputSpec(type="int", secret=True), "hunter2")
    assert "hunter2" not in str(caught.value)


def test_masks_secrets_and_what_is_not_declared() -> None:
    assert mask({"token": TOKEN, "release": RELEASE}, {"token": "t-1", "release": "f44", "old": 1}) == {
        "token": MASK,
        "release": "f44",
        "old": MASK,
    }


@given(st.dictionaries(st.sampled_from([*SPECS, "other"]), ANY_JSON))
def test_whatever_is_given_is_checked_or_refused(given_values: dict[str, Json]) -> None:
    try:
        values = check_inputs(SPECS, given_values)
    except InputFault:
        return
    assert set(values) == set(SPECS)
    assert check_inputs(SPECS, values) == values
    json.dumps(values).encode()


@pytest.mark.parametrize(
    ("spec", "text", "value"),
    [
        (InputSpec(), " a ", " a "),
        (InputSpec(type="int"), "-12", -12),
        (InputSpec(type="bool"), "Yes", True),
        (InputSpec(type="bool"), "0", False),
        (InputSpec(type="list"), "a, b", ["a", "b"]),
        (InputSpec(type="list"), '["a,b", "c"]', ["a,b", "c"]),
        (InputSpec(type="list"), "", []),
    ],
)
def test_reads_what_a_person_types(spec: InputSpec, text: str, value: Json) -> None:
    assert parse_text(spec, text) == value


@pytest.mark.parametrize(
    ("kind", "text"), [("int", "1.5"), ("int", "٣"), ("int", "9" * 30), ("bool", "maybe"), ("list", "[1")]
)
def test_refuses_what_a_person_mistypes(kind: str, text: str) -> None:
    with pytest.raises(InputFault, match="input 'n' must be"):
        parse_text(InputSpec.model_validate({"type": kind}), text, name="n")


@given(st.sampled_from(["string", "int", "bool", "list"]), st.text())
def test_any_text_is_a_value_or_an_input_fault(kind: str, text: str) -> None:
    spec = InputSpec.model_validate({"type": kind})
    with suppress(InputFault):
        check_inputs({"it": spec.model_copy(update={"max_length": SIZE_LIMIT})}, {"it": parse_text(spec, text)})


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"pattern": "("}, "pattern"),
        ({"type": "int", "pattern": "a"}, "pattern"),
        ({"type": "int", "min": 3, "max": 2}, "max"),
        ({"type": "list", "min_items": 3, "max_items": 2}, "max_items"),
        ({"type": "bool", "choices": ["a"]}, "choices"),
        ({"type": "int", "choices": ["a"]}, "choices"),
        ({"pattern": "a", "choices": ["b"]}, "choices"),
        ({"default": None}, "default"),
        ({"choices": ["a"], "default": "b"}, "default"),
        ({"type": "int", "default": "1"}, "default"),
        ({"type": "list", "default": ["b"], "choices": ["a"]}, "default"),
        ({"secret": True, "default": "hunter2"}, "default"),
    ],
)
def test_declarations_that_contradict_themselves(body: dict[str, object], key: str) -> None:
    assert [found for found, _ in InputSpec.model_validate(body).contradictions()] == [key]


def test_a_declaration_survives_being_stored() -> None:
    for spec in (*SPECS.values(), TOKEN, InputSpec(default="")):
        stored = json.loads(spec.model_dump_json(exclude_defaults=True))
        assert InputSpec.model_validate(stored).required == spec.required
        assert InputSpec.model_validate(stored) == spec
