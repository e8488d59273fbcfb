# SPDX-License-Identifier: GPL-3.0-or-later
"""Expressions: a border between a site's files and the hostile values of messages and people."""

from __future__ import annotations

import json
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relengq.documents import Json
from relengq.errors import ExpressionFault
from relengq.expressions import condition, is_template, references, render, unwrap, verify, why_false
from relengq.expressions.budget import WORK_LIMIT
from relengq.expressions.filters import REGEX_SUBJECT_LIMIT, ROUND_LIMIT
from relengq.expressions.sandbox import RANGE_LIMIT

HOSTILE = (
    "{{ 7 * 7 }}",
    "{% for x in range(9) %}x{% endfor %}",
    "{{ ''.__class__.__mro__ }}",
    "{0.__class__.__init__.__globals__}",
    "%(x)s %s %d",
    "{# comment",
    "}}{{",
    "' or true or '",
    "__class__",
    "((a+)+)+$",
)
CONTEXT: dict[str, Json] = {
    "inputs": {"release": "f44", "items": [1, 2], "count": 3, "publish": False, "hostile": list(HOSTILE)},
    "outputs": {"gather": {"count": 3, "rpms": {"x86_64": 7}}, "count": 3, "url": None},
    "msg": {"tag": "f44-updates", "get": "mine", "nested": {"a": [{"b": 1}]}},
    "steps": {"gather": {"state": "succeeded", "failed": []}},
}
QUICK = 5.0
"""Seconds of the processor's time on a slow machine. What is not counted before it is done takes minutes."""
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
"""What a database keeps; the rest is refused."""

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.sampled_from(HOSTILE),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | st.sampled_from(HOSTILE), inner, max_size=4),
    max_leaves=15,
)


def holds(text: str) -> bool:
    return condition(text).holds(CONTEXT)


def fault(text: str) -> str:
    with pytest.raises(ExpressionFault) as caught:
        condition(text).holds(CONTEXT)
    return str(caught.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"{{ 'a b' | regex_replace('\s', '') }}", "ab"),
        (r"{{ 'a1' | regex_replace('([a-z])\d', '\\1') }}", "a"),
        (r"{{ 'a\\s' }}", r"a\s"),
        (r"{{ 'tab\t, \x41, \u00e9, it\'s' }}", "tab\t, A, é, it's"),
        (r"{{ '\é\\' }}", "\\é\\"),
    ],
)
def test_a_backslash_of_a_regular_expression_needs_no_other_and_warns_nobody(text: str, value: str) -> None:
    assert render(text, {}) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inputs.release == 'f44' and msg.tag.startswith('f44')", True),
        ("{{ inputs.publish }}", False),
        ("  {{ not inputs.publish }}  ", True),
        ("inputs.items | length == 2", True),
        ("inputs['release'] is match('f[0-9]+$')", True),
        ("inputs.release is search('4') and not inputs.release is match('4')", True),
        ("msg.get == 'mine'", True),
        ("inputs.get('release') == 'f44'", True),
        ("steps.gather.state == 'succeeded' and not steps.gather.failed", True),
        ("outputs.ci.test.result is defined", False),
        ("outputs.ci.test.result | default('none') == 'none'", True),
        ("outputs.url is none", True),
        ("msg.nested.a[0].b == 1", True),
        ("'x' ~ inputs.count == 'x3'", True),
        ("inputs.items | map('string') | join('-') == '1-2'", True),
        ("'2026' | regex_search('[0-9]{2}') == '20'", True),
        ("'a-b' | regex_replace('(a)-(b)', '\\\\2-\\\\1') == 'b-a'", True),
        ("'%03d' | format(7) == '007'", True),
        ("('{\"a\": 1}' | from_json).a == 1", True),
        ("'no'", False),
        ("'False'", False),
        ("''", False),
        ("'0'", False),
        ("'text'", True),
        ("[]", False),
    ],
)  # fmt: skip
def test_conditions(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("inputs.relase == 'f44'", "inputs has no 'relase' (did you mean 'release'?)"),
        ("outputs.ci.test.result == 'passed'", "outputs has no 'ci'"),
        ("outptus.count", "'outptus' is unknown here (did you mean 'outputs'?)"),
        ("inputs.release.nope", "inputs.release has no 'nope'"),
        ("1 / 0", "ZeroDivisionError"),
        ("inputs.release + 1", "TypeError"),
        ("inputs.", "does not compile"),
        ("a b", "more follows where the expression has ended"),
        ("inputs.release | uper", "unknown filter 'uper' (did you mean 'upper'?)"),
        ("inputs is defned", "unknown test 'defned' (did you mean 'defined'?)"),
        ("inputs.release == '{{ x }}'", "has no {{ }} inside"),
        ("{% if x %}", "does not compile"),
    ],
)
def test_faults_say_what_is_wrong_and_what_is_near(text: str, told: str) -> None:
    assert told in fault(text)


@pytest.mark.parametrize(
    "text",
    [
        "inputs.release.__class__",
        "inputs['__class__']",
        "inputs.release['__class__']",
        "inputs | attr('__class__')",
        "[inputs] | map(attribute='__class__') | list",
        "[inputs] | map('attr', '__class__') | list",
        "[inputs] | groupby('__class__')",
        "'{0.__class__}'.format(inputs)",
        "'{x.__class__}'.format_map({'x': inputs})",
        "inputs.release.format('x')",
        "range.__init__",
        "inputs.items.append(3)",
        "inputs.update({'x': 1})",
        "inputs.pop('release')",
        "self._TemplateReference__context",
        "cycler('a')",
        "namespace(a=1)",
        "lipsum()",
        "joiner()",
        "dict(a=1)",
        "config",
        "().__class__.__bases__",
        "(1).__class__",
        "inputs.release.encode('utf-8')",
        "inputs.get.__self__",
        "inputs.get.__func__",
        "range(*[3])",
        "range(**{})",
        "[inputs.hostile[0]] | map(inputs.release) | list",
        "inputs.release is match(inputs.hostile[9])",
        "inputs.release | regex_search(inputs.hostile[9])",
        "['a'] | select('match', inputs.hostile[9]) | list",
        "[{'a': 'b'}] | selectattr('a', 'match', inputs.hostile[9]) | list",
        "inputs.release()",
        "(inputs.release | upper)()",
        "inputs.release | safe",
        "inputs | pprint",
        "[1, 2] | random",
    ],
)
def test_nothing_leads_out_of_the_sandbox(text: str) -> None:
    with pytest.raises(ExpressionFault):
        render("{{ " + text + " }}", CONTEXT)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("'a' * 999999999 == ''", WORK_LIMIT),
        ("999999999 * 'a' == ''", WORK_LIMIT),
        ("[1] * 99999999 == []", WORK_LIMIT),
        ("('a' * 3000) * 3000 == ''", WORK_LIMIT),
        ("'a' | replace('', 'b' * 1000000) | replace('b', 'c' * 1000000) == ''", WORK_LIMIT),
        ("'a'.replace('', 'b' * 1000000).replace('b', 'c' * 1000000) == ''", WORK_LIMIT),
        ("range(10000) | map('replace', '1', 'x' * 100000) | join | length", WORK_LIMIT),
        ("range(10000) | join('x' * 10000) | length", WORK_LIMIT),
        ("('x' * 10000).join(range(10000) | map('string')) | length", WORK_LIMIT),
        (f"('y' * 9000) | regex_replace('y', '{'x' * 9000}') | length", WORK_LIMIT),
        ("range(99999999999999999999) | list", RANGE_LIMIT),
        ("range(-5, 99999, 2) | list", RANGE_LIMIT),
        ("range(20000, 0, -1) | list", RANGE_LIMIT),
        ("10 ** 99999999 == 1", 4096),
        ("(2 ** 4000) * (2 ** 4000) == 1", 4096),
        ("'%99999999d' % 1 == ''", 3),
        ("'%*d' % (99999999, 1) == ''", 3),
        ("'%.99999f' | format(1.0) == ''", 3),
        ("('x' * 10001) is match('x')", REGEX_SUBJECT_LIMIT),
        ("x" * 10_001, 10_000),
        ("not " * 150 + "true", 100),
        (" or ".join(["x"] * 200), 100),
        ("inputs" + ".x" * 200, 100),
    ],
)  # fmt: skip
def test_names_the_limit_before_it_costs_anything(text: str, limit: int) -> None:
    began = time.process_time()
    told = fault(text)
    assert str(limit) in told
    assert "limit" in told
    assert time.process_time() - began < QUICK


BIG: dict[str, Json] = {
    "low": list(range(20_000)),
    "high": list(range(20_000, 40_000)),
    "colliding": [3 + at * (2**61 - 1) for at in range(20_000)],
    "lists": [[at] for at in range(20_000)],
    "other": [[at, at] for at in range(20_000)],
    "text": "a" * 300_000,
    "twin": "a" * 299_999 + "b",
    "breaks": "\n" * 10_000_000,
    "commas": "," * 10_000_000,
    "spaces": " x" * 5_000_000,
    "huge": "x" * 20_000_000,
    "deep": [[[[[[[[list(range(200_000))]]]]]]]],
    "hex": "f" * 1_000_000,
    "format": "%99999999d",
    "thousand": list(range(1000)),
    "same": list(range(1000)),
}


@pytest.mark.parametrize(
    "text",
    [
        "([msg.text] * 100) | string",
        "([msg.text] * 100) | lower",
        "([msg.text] * 100) | title",
        "([msg.text] * 100) | urlencode",
        "([msg.text] * 100) ~ ''",
        "([msg.text] * 100) | join",
        "([[msg.text] * 10] * 10) | join",
        "([msg.text] * 100) | to_json",
        "([[[[[[msg.thousand] * 99] * 99] * 99] * 99] * 99] * 99) | string",
        "([msg.text] * 100) | replace('x', 'y')",
        "([msg.text] * 100) | regex_search('x')",
        "([msg.text] * 100) | split",
        "([msg.text] * 100) is lower",
        "'%s' % ([msg.text] * 100)",
        "'%r' | format([msg.text] * 100)",
        "('%(text)s' * 1000) % msg",
        "('%(text)s' * 1000) | format(text=msg.text)",
        "('%%%(x)999s' * 100000) % {'x': 1}",
        "'%s' % msg",
        "msg.deep | to_json(8)",
        "([msg.text] * 100) | sort",
        "([{'n': msg.text}] * 100) | sort(attribute='n')",
        "([msg.text] * 100) | min",
        "([msg.text] * 100) | max",
        "([[msg.text]] * 100) | groupby('0')",
        "([msg.thousand] * 3000) | sum(start=[])",
        "(([msg.twin] * 900000) + [msg.text]) | select('eq', msg.text ~ '') | list",
        "(msg.text ~ 'b') in (([msg.text ~ 'c'] * 900000))",
        "([msg.text ~ 'c'] * 900000).index(msg.text ~ 'b')",
        "([msg.text ~ 'c'] * 900000).count(msg.text ~ 'b')",
        "([[msg.thousand] * 2000] * 2000) == ([[msg.same] * 2000] * 2000)",
        "([[msg.thousand] * 2000] * 2000) <= ([[msg.same] * 2000] * 2000) == 1",
        "([[msg.thousand] * 2000] * 2000) | unique | list",
        "([[msg.thousand] * 2000] * 2000) | difference(msg.low)",
        "msg.text.rfind('ab' ~ msg.text[:150000])",
        "msg.text.rsplit('ab' ~ msg.text[:150000])",
        "msg.text.rpartition('ab' ~ msg.text[:150000])",
        "msg.text.strip('b' * 200000 ~ 'a')",
        "msg.breaks.splitlines()",
        "msg.commas.split(',')",
        "msg.commas.rsplit(',')",
        "msg.commas | split(',')",
        "msg.huge | list",
        "msg.huge[:]",
        "msg.huge | join(',')",
        "msg.huge | urlencode",
        "msg.huge | title",
        "msg.spaces | wordcount",
        "msg.huge | from_json",
        "msg.huge.upper()",
        "msg.huge | unique | list",
        "('a' * 10000) | regex_replace('(?=(.*))', '\\\\1\\\\1\\\\1')",
        "([1] * 900000) | select | select | select | select | select | list",
        "([1] * 900000) | map('int') | map('int') | map('int') | map('int') | list",
    ],
)
def test_what_is_made_of_messages_is_counted_before_it_is_made(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ExpressionFault, match=f"makes more than the limit of {WORK_LIMIT}"):
        condition(text).holds({"msg": BIG})
    assert time.process_time() - began < QUICK


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("'%(x)300000000s' % {'x': 'a'}", "more than the limit of 3 digits"),
        ("'%((a%)b)300000000s' % {'(a%)b': 'a'}", "more than the limit of 3 digits"),
        ("'%%%-300000000s' % 'a'", "more than the limit of 3 digits"),
        ("'%(x).*f' % {'x': 1}", "more than the limit of 3 digits"),
        ("msg.format is odd", "TypeError"),
        ("msg.format is even", "TypeError"),
        ("msg.format is divisibleby(2)", "TypeError"),
        ("[1] | sum(start=msg.format)", "TypeError"),
        ("msg.huge | round(9, 'ceil')", "TypeError"),
        ("1 | round(999999999, 'ceil')", f"the limit of {ROUND_LIMIT} digits"),
        ("1 | round(-999999999)", f"the limit of {ROUND_LIMIT} digits"),
        ("(msg.hex | int(base=16)) // (msg.hex[1:] | int(base=16))", "the limit of 4096 bits"),
    ],
)
def test_what_would_make_much_of_little_is_refused(text: str, told: str) -> None:
    began = time.process_time()
    with pytest.raises(ExpressionFault, match=told):
        condition(text).holds({"msg": BIG})
    assert time.process_time() - began < QUICK


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("msg.low | difference(msg.high)", 20_000),
        ("msg.low | intersect(msg.high)", 0),
        ("msg.low | union(msg.high)", 40_000),
        ("msg.colliding | union(msg.colliding)", 20_000),
        ("msg.colliding | unique", 20_000),
        ("msg.lists | difference(msg.other)", 20_000),
    ],
)
def test_long_lists_are_compared_in_no_time(text: str, count: int) -> None:
    began = time.process_time()
    assert condition(f"{text} | list | length == {count}").holds({"msg": BIG})
    assert time.process_time() - began < QUICK


@given(st.lists(JSON, max_size=6), st.lists(JSON, max_size=6))
def test_what_lists_have_in_common_is_told_as_python_tells_it(left: list[Json], right: list[Json]) -> None:
    left, right = [*left, *right[:2], 1, {"a": [True]}], [*right, True, {"a": [1]}, 2.0**70, 2**70]
    context = {"left": left, "right": right}
    made = {word: render(f"{{{{ left | {word}(right) }}}}", context) for word in ("difference", "intersect", "union")}
    assert repr(made) == repr(
        {
            "difference": [item for item in left if item not in right],
            "intersect": [item for item in left if item in right],
            "union": [*left, *(item for item in right if item not in left)],
        }
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ 1 < 2 <= 2 != 3 }}", True),
        ("{{ 1 < 2 < 2 }}", False),
        ("{{ 1 not in [2] and 'a' in 'cat' and 'a' in {'a': 1} and 2 in {'a': 2}.values() }}", True),
        ("{{ [1, 2] == [1, 2.0] and [1] != (1,) and {'a': 1} == {'a': True} }}", True),
        ("{{ [3, 1, 2][1:] + [4, 5, 6][::-2] }}", [1, 2, 6, 4]),
        ("{{ 'abcdef'[-2:] ~ 'abc'[:1] }}", "efa"),
        ("{{ ['b', 'A', 'a', 'B'] | unique }}", ["b", "A"]),
        ("{{ ['b', 'A', 'a'] | unique(true) }}", ["b", "A", "a"]),
        ("{{ [{'n': 1}, {'n': 1.0}, {'n': 2}] | unique(attribute='n') | map(attribute='n') }}", [1, 2]),
        ("{{ ['b', 'A', 'c'] | sort(true) ~ (['b', 'A'] | min) ~ ([1, 3] | max) }}", "['c', 'b', 'A']A3"),
        ("{{ [{'n': 'b'}, {'n': 'A'}] | sort(attribute='n') | map(attribute='n') }}", ["A", "b"]),
        ("{{ [{'n': 'b'}, {'m': 'A'}] | groupby('n', default='a') | map(attribute='grouper') }}", ["a", "b"]),
        ("{{ ['ab', 'c'] | difference('abd') }}", ["c"]),
        ("{{ {'b': 1, 'A': 2} | dictsort }}", [["A", 2], ["b", 1]]),
        ("{{ {'b': 1, 'A': 2} | dictsort(by='value') }}", [["b", 1], ["A", 2]]),
        ("{{ [[1], [2, 3]] | sum(start=[0]) }}", [0, 1, 2, 3]),
        ("{{ [{'n': 1}, {'n': 2}] | sum(attribute='n') }}", 3),
        ("{{ '%5.1f|%-3s|%%|%c' % (1.25, 'a', 'x') }}", "  1.2|a  |%|x"),
        ("{{ '%(a)3d%(b)s' % {'a': 1, 'b': [2], 'c': 3} }}", "  1[2]"),
        ("{{ '%s' % {'a': 1} }}", "{'a': 1}"),
        ("{{ 'a,b,c'.split(',', 1) + 'a,b,c'.rsplit(',', maxsplit=1) + ' a  b '.split() }}",
         ["a", "b,c", "a,b", "c", "a", "b"]),
        ("{{ 'a\nb'.splitlines() + [' a '.strip(), 'xax'.strip('x')] }}", ["a", "b", "a", "a"]),
        ("{{ [1, 2, 1].count(1) + [1, 2].index(2) + 'abcb'.rfind('b') }}", 6),
        ("{{ 'abab' | regex_replace('(a)(b)', '\\\\2\\\\1') }}", "baba"),
        ("{{ 42.55 | round(1, 'floor') + (5 | round(-1)) }}", 42.5),
        ("{{ [1, [2]] | to_json(2) }}", "[\n  1,\n  [\n    2\n  ]\n]"),
    ],
)  # fmt: skip
def test_what_is_counted_gives_what_jinja_gives(text: str, value: Json) -> None:
    assert render(text, {}) == value


@pytest.mark.parametrize("text", ["(" * 3000 + "1" + ")" * 3000, "[" * 4000, "- " * 4000 + "1", "9" * 5000])
def test_nesting_is_no_stack_overflow(text: str) -> None:
    assert "does not compile" in fault(text)
    with pytest.raises(ExpressionFault):
        render("{{ " + text + " }}", CONTEXT)


def test_values_from_outside_may_be_nested_deep() -> None:
    deep: Json = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ExpressionFault, match="deeper than the limit"):
        render("{{ msg }}", {"msg": deep})
    assert condition("msg is sequence").holds({"msg": deep})


@given(JSON)
def test_values_are_never_templates(value: Json) -> None:
    context = {"msg": value, "list": [value]}
    assert render("{{ msg }}", context) == value
    assert render({"deep": ["{{ list[0] }}", {"x": "{{ msg }}"}]}, context) == {"deep": [value, {"x": value}]}
    if isinstance(value, str):
        assert render("a {{ msg }} b {{ msg }}", context) == f"a {value} b {value}"
        assert render("{{ '' ~ msg }}", context) == value


ASKED = (
    "msg == 1",
    "msg is defined and msg",
    "msg | string | length > 3",
    "'x' in msg",
    "msg.a.b == 2",
    "msg[0]",
    "msg | int > 1",
    "msg ~ msg == 'x'",
    "msg | sort | first",
)
PIECES = [
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ".",
    "|",
    "~",
    "'a'",
    "1",
    "x",
    "not",
    "in",
    "is",
    "and",
    "{{",
    "}}",
    "{%",
    "range",
]


@given(JSON, st.sampled_from(ASKED))
def test_any_value_gives_an_answer_or_an_expression_fault(value: Json, text: str) -> None:
    with suppress(ExpressionFault):
        assert condition(text).holds({"msg": value}) in (True, False)


@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=20).map(" ".join), st.booleans())
def test_any_text_compiles_or_is_an_expression_fault(text: str, bare: bool) -> None:
    with suppress(ExpressionFault):
        verify(text, bare=bare)
        references(text, bare=bare)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        (7, 7),
        ("{{ inputs.count }}", 3),
        ("{{inputs.count}}", 3),
        ("{{ inputs.count }} ", "3 "),
        ("{{ inputs.count }}-{{ inputs.release }}", "3-f44"),
        ("{{ inputs.items }}", [1, 2]),
        ("x{{ inputs.items }}", "x[1, 2]"),
        ("{{ outputs.url }}", None),
        ("x{{ outputs.url }}", "x"),
        ("{{ (1, 2) }}", [1, 2]),
        ("{{ range(3) }}", [0, 1, 2]),
        ("{{ inputs.items | map('string') }}", ["1", "2"]),
        ("{{ {1: 'a'} }}", {"1": "a"}),
        ("{# only a comment #}", ""),
        ("line\n", "line\n"),
        ({"{{ key }}": [None, "{{ true }}"]}, {"{{ key }}": [None, True]}),
    ],
)
def test_renders(value: Json, expected: Json) -> None:
    assert render(value, CONTEXT) == expected


def test_what_is_rendered_shares_nothing_with_the_context() -> None:
    made = render("{{ inputs.items }}", CONTEXT)
    assert isinstance(made, list)
    made.append(9)
    assert render("{{ inputs.items }}", CONTEXT) == [1, 2]


UNRENDERABLE = [
    "{{ inputs.nope }}",
    "a {{ nope }}",
    "{% set x = 1 %}",
    "{% include 'x' %}",
    "{{ inputs.release.upper }}",
    "{{ 1e308 * 10 }}",
    "{{",
    "{{ }}",
    "{{ [range] }}",
]


@pytest.mark.parametrize("text", UNRENDERABLE)
def test_refuses_to_render(text: str) -> None:
    with pytest.raises(ExpressionFault):
        render({"a": [text]}, CONTEXT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("outputs.ci['x'].y == 1", [("outputs", "ci", "x", "y")]),
        ("msg.items() | length and inputs.a.b.get('c')", [("msg",), ("inputs", "a", "b")]),
        ("inputs[matrix.arch].x", [("inputs",), ("matrix", "arch")]),
        ("range(inputs.n) | map('string') | join(x)", [("inputs", "n"), ("x",)]),
        ("a if b.c else [d, {'e': f}]", [("a",), ("b", "c"), ("d",), ("f",)]),
        ("msg[0].x", [("msg", "0", "x")]),
        ("1 + 2", []),
    ],
)
def test_references(text: str, expected: list[tuple[str, ...]]) -> None:
    assert sorted(references(text, bare=True)) == sorted(expected)
    assert sorted(references("{{ " + text + " }} and {{ 1 }}", bare=False)) == sorted(expected)


def test_plain_text_has_no_references() -> None:
    assert references("inputs.x is text here", bare=False) == []
    assert not is_template("inputs.x")


def test_unwrap_takes_off_one_pair_only() -> None:
    assert unwrap(" {{ a }} ") == "a"
    assert unwrap("{{ a }} == {{ b }}") == "{{ a }} == {{ b }}"


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_what_no_database_keeps_is_refused(text: str) -> None:
    context = {"inputs": {"text": text}}
    for template in ("{{ inputs }}", "{{ inputs.text }}", "about {{ inputs.text }}"):
        with pytest.raises(ExpressionFault, match="has a NUL or half a character, which no database keeps"):
            render(template, context)


def test_results_are_json() -> None:
    made = render({"all": "{{ inputs }}", "n": "{{ 2 ** 100 }}"}, CONTEXT)
    assert json.loads(json.dumps(made)) == made


MESSAGE: dict[str, Json] = {
    "topic": "org.fedoraproject.prod.buildsys.tag",
    "msg": {
        "tag": "f44-build-side-12345",
        "instance": "primary",
        "scratch": True,
        "commitid": None,
        "arches": ["x86_64", {"name": "s390x"}],
        "log": "x" * 1_000_000,
        "rows": [["y" * 1000] * 1000] * 100,
        "odd": "\0\ud800",
        "no": "no",
        "empty": "",
    },
}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("msg.tag == 'f44-updates' and msg.instance == 'primary'", "msg.tag is 'f44-build-side-12345'"),
        ("(msg.instance == 'primary') and (msg.scratch is false)", "msg.scratch is true"),
        ("{{ not msg.scratch }}", "msg.scratch is true"),
        ("msg.tag == 'x' or msg.commitid", "msg.tag is 'f44-build-side-12345', msg.commitid is null"),
        ("msg.instance == 'primary' and msg.release is defined", "msg.release is absent"),
        ("msg.release.name | default('f43') == 'f44'", "msg.release.name is absent"),
        ("msg.tag.startswith('f43')", "msg.tag is 'f44-build-side-12345'"),
        ("msg.arches[1].name == 'x86_64'", "msg.arches.1.name is 's390x'"),
        ("msg.tag[0] == 'e'", "msg.tag.0 is 'f'"),
        ("msg.arches == []", 'msg.arches is ["x86_64", {"name": "s390x"}]'),
        ("topic is search('[.]stg[.]')", "topic is 'org.fedoraproject.prod.buildsys.tag'"),
        ("msg.log == ''", f"msg.log is '{'x' * 60}…'"),
        ("msg.odd == ''", r"msg.odd is '\x00\ud800'"),
        ("msg.no and msg.empty", "msg.empty is ''"),
        ("msg.no", "msg.no is 'no'"),
        ("false", "it is false whatever it is given"),
        ("msg.scratch", ""),
    ],
)
def test_a_false_condition_is_explained_by_the_values_of_its_first_false_part(text: str, why: str) -> None:
    assert why_false(text, MESSAGE) == why
    assert condition(text).holds(MESSAGE) is (why == "")


def test_an_explanation_is_short_however_much_its_part_reads() -> None:
    assert len(why_false("msg.rows == []", MESSAGE)) < 80
    many = why_false(" or ".join(f"msg.absent{n} is defined" for n in range(50)), MESSAGE)
    assert many.startswith("msg.absent0 is absent, ")
    assert many.endswith("msg.absent4 is absent, and 45 more")


@pytest.mark.parametrize("text", ["msg.relase == 'f44'", "msg.instance == 'primary' and 1 / 0", "a b", "(" * 9999])
def test_what_cannot_be_evaluated_has_no_explanation_but_a_fault(text: str) -> None:
    with pytest.raises(ExpressionFault):
        why_false(text, MESSAGE)
