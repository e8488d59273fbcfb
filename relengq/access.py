# SPDX-License-Identifier: GPL-3.0-or-later
"""Who somebody is on this machine, and whether a workflow lets them do something.

On the command line a person is the user of the operating system, with the groups that the system gives them (files,
LDAP, SSSD: whatever ``id`` shows) and those that ``[groups]`` in relengq.toml adds. Whoever became root through sudo
is still the person who called sudo. What is decided here keeps colleagues from mistakes; what keeps strangers out are
the rights on the database, since whoever may write to it can do everything.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass

from relengq.errors import NotAllowed
from relengq.settings import Settings


@dataclass(frozen=True)
class Person:
    """A person and the groups that they are in."""

    name: str
    groups: frozenset[str] = frozenset()


def person(settings: Settings) -> Person:
    """The person who calls."""
    name = _user()
    added = {group for group, members in settings.groups.items() if name in members}
    return Person(name, frozenset(_system_groups(name) | added))


def allowed(someone: Person, settings: Settings, groups: Sequence[str] | None) -> bool:
    """Whether they are in one of the groups. None: everybody may. Admins may everything."""
    if groups is None or any(name == someone.name or name in someone.groups for name in settings.admins):
        return True
    return not someone.groups.isdisjoint(groups)


def require(someone: Person, settings: Settings, groups: Sequence[str] | None, what: str) -> None:
    """Raise NotAllowed unless they may; ``what`` is what they want to do, as in ``start workflow x``."""
    if allowed(someone, settings, groups):
        return
    needed = " or ".join(groups) if groups else "nobody but admins"
    own = ", ".join(sorted(someone.groups)) or "none"
    raise NotAllowed(
        f"{someone.name} may not {what}: it needs group {needed}, and {someone.name} is in: {own}.",
        hint="Membership comes from the operating system (see 'id') and from [groups] in relengq.toml.",
    )


def _user() -> str:
    """The name of the user, or of the one who became root with sudo."""
    uid = os.getuid()
    if uid == 0 and (behind := os.environ.get("SUDO_USER")):
        return behind
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"  # a container's user need not have a name


def _system_groups(name: str) -> set[str]:
    """The names of the groups that the operating system knows the user in."""
    try:
        numbers = os.getgrouplist(name, pwd.getpwnam(name).pw_gid)
    except KeyError:
        numbers = [os.getgid(), *os.getgroups()]
    names = set()
    for number in numbers:
        try:
            names.add(grp.getgrgid(number).gr_name)
        except KeyError:
            continue  # a group without a name cannot be written in a workflow either
    return names
