# SPDX-License-Identifier: GPL-3.0-or-later
"""Who somebody is on this machine, and what they may do."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from relengq import access
from relengq.access import Person
from relengq.errors import NotAllowed
from relengq.settings import Settings

ALICE = Person("alice", frozenset({"releng"}))


def test_without_groups_everybody_may() -> None:
    assert access.allowed(Person("nobody"), Settings(), None)


def test_an_empty_list_lets_nobody_but_admins() -> None:
    assert not access.allowed(ALICE, Settings(), [])
    assert access.allowed(ALICE, Settings(admins=["alice"]), [])


@pytest.mark.parametrize(
    ("groups", "may"), [(["releng"], True), (["qa", "releng"], True), (["qa"], False), (["alice"], False)]
)
def test_one_of_the_groups_is_enough(groups: list[str], may: bool) -> None:
    assert access.allowed(ALICE, Settings(), groups) is may


@pytest.mark.parametrize("admins", [["alice"], ["releng"]])
def test_admins_by_name_or_group_may_everything(admins: list[str]) -> None:
    assert access.allowed(ALICE, Settings(admins=admins), ["qa"])


def test_a_refusal_says_who_needs_what_and_where_it_comes_from() -> None:
    with pytest.raises(NotAllowed) as refused:
        access.require(ALICE, Settings(), ["qa", "leads"], "start workflow nightly")
    text = str(refused.value)
    assert "alice may not start workflow nightly" in text
    assert "qa or leads" in text
    assert "alice is in: releng" in text
    assert "[groups] in relengq.toml" in text
    assert refused.value.exit_code == 4


def test_a_person_is_the_user_with_system_groups_and_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    me = pwd.getpwuid(os.getuid()).pw_name
    found = access.person(Settings(groups={"releng": [me], "qa": ["somebody"]}))
    assert found.name == me
    assert grp.getgrgid(os.getgid()).gr_name in found.groups
    assert "releng" in found.groups
    assert "qa" not in found.groups


def test_behind_sudo_is_the_person_who_called_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "daemon")
    found = access.person(Settings())
    assert found.name == "daemon"
    assert grp.getgrgid(pwd.getpwnam("daemon").pw_gid).gr_name in found.groups
    assert "root" not in found.groups


def test_sudo_user_means_nothing_for_others_than_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: pwd.getpwnam("daemon").pw_uid)
    monkeypatch.setenv("SUDO_USER", "root")
    assert access.person(Settings()).name == "daemon"


def test_a_user_without_a_name_is_known_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1_234_567)
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert access.person(Settings()).name == "uid 1234567"
