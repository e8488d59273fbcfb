# SPDX-License-Identifier: GPL-3.0-or-later
"""What a step's ``limit`` may render to: hosts and groups, and never more of them than the file means."""

from __future__ import annotations

import pytest

from relengq.engine.limits import checked
from relengq.errors import AttemptFault

VALUE = "{{ inputs.host }}"


@pytest.mark.parametrize("text", ["", " ", ",", " , ", ":", "::,\n"])
def test_a_limit_of_nothing_is_not_all_hosts(text: str) -> None:
    with pytest.raises(AttemptFault, match="limit is empty: that would be all hosts"):
        checked(text, VALUE)


@pytest.mark.parametrize(
    ("text", "template", "says"),
    [
        (":!staging", "{{ inputs.host }}:!staging", "which only leaves hosts out"),
        ("!web1:!staging", "{{ inputs.host }}:!staging", "which only leaves hosts out"),
        ("web:&", "web:&{{ inputs.region }}", "a pattern without a name"),
        ("!", "!{{ inputs.bad }}", "a pattern without a name"),
        ("--list-hosts", VALUE, "would be an option"),
    ],
)
def test_an_empty_value_does_not_make_more_hosts_of_a_pattern(text: str, template: str, says: str) -> None:
    with pytest.raises(AttemptFault, match=says):
        checked(text, template)


@pytest.mark.parametrize(
    ("text", "sign"),
    [("all", "all"), ("web1,all", "all"), ("*", "*"), ("w?b", "?"), ("all[0:]", "["), ("~.", "~"), ("web1:&eu", "&"),
     ("web:!web1", "!"), ("['web1', 'web2']", "[")],
)  # fmt: skip
def test_a_value_names_hosts_and_is_no_pattern_of_its_own(text: str, sign: str) -> None:
    with pytest.raises(AttemptFault, match="the workflow's file does not say ") as raised:
        checked(text, VALUE)
    assert f"'{sign}'" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("web1", VALUE),
        ("web1.example.org, web-2:db_3", VALUE),
        ("2001:db8::1", VALUE),
        ("all-images", VALUE),
        ("web1,", "web1,{{ inputs.more }}"),
        ("!staging", "!staging"),
        ("!web1", "!{{ inputs.bad }}"),
        ("web*:!web1", "{{ inputs.group }}*:!{{ inputs.bad }}"),
        ("all", "all"),
        ("all", "{{ 'all' if inputs.everywhere else inputs.host }}"),
        ("web[0:2]", "{{ inputs.group }}[0:2]"),
        ("~web[0-9]", "~web[0-9]"),
    ],
)
def test_what_the_file_says_and_names_are_passed_on_as_they_are(text: str, template: str) -> None:
    assert checked(text, template) == text


def test_a_value_may_be_a_pattern_that_the_file_offers_for_an_input() -> None:
    assert checked("all", "{{ inputs.host }}", ["all"]) == "all"
    assert checked("web*", "{{ inputs.host }}", ["web*", "db1"]) == "web*"
    with pytest.raises(AttemptFault, match="does not say '~'"):
        checked("~web", "{{ inputs.host }}", ["web*"])
