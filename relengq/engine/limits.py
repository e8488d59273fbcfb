# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts a step is limited to, and that no value makes more of them than the workflow's file means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from relengq.errors import AttemptFault

_EXPRESSION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_CONSTANT = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_BETWEEN = re.compile(r"[\s,]+|:(?![^\[\]]*\])")
"""What separates patterns; a ':' in brackets is one of a range of hosts."""
_SIGNS = "!&~*?["
"""What makes a pattern of a name. An '@', which would have Ansible read a file, no limit may have at all."""


def checked(text: str, template: str, offered: Iterable[str] = ()) -> str:
    """What a ``limit`` has rendered to. Raises AttemptFault when that would be other hosts than the file means.

    Ansible takes a limit without any pattern for no limit, and one that only leaves hosts out for all others. Values
    name hosts and groups: what means more than a name has to be in the text of the file, in the template or in what
    the file has ``offered`` for its inputs.
    """
    if text.startswith("-"):
        raise AttemptFault(f"limit is '{text}': a value that begins with '-' would be an option of ansible-playbook")
    patterns = list(_patterns(text))
    if not patterns:
        raise AttemptFault("limit is empty: that would be all hosts")
    if not all(pattern.lstrip("!&~") for pattern in patterns):
        raise AttemptFault(f"limit is '{text}': it has a pattern without a name")
    if _names_hosts(_EXPRESSION.sub("x", template)) and not _names_hosts(text):
        raise AttemptFault(f"limit is '{text}', which only leaves hosts out: that would be all others")
    if more := sorted(_signs(text) - _signs(" ".join([_own(template), *offered]))):
        signs = " or ".join(more)
        raise AttemptFault(f"limit is '{text}', and the workflow's file does not say {signs}: a value is only a name")
    return text


def _patterns(text: str) -> Iterator[str]:
    return (pattern for pattern in _BETWEEN.split(text) if pattern)


def _names_hosts(text: str) -> bool:
    """Whether any pattern adds hosts."""
    return any(not pattern.startswith(("!", "&")) for pattern in _patterns(text))


def _signs(text: str) -> set[str]:
    return {f"'{sign}'" for sign in _SIGNS if sign in text} | {"'all'" for word in _patterns(text) if word == "all"}


def _own(template: str) -> str:
    """What the file itself says: around its expressions, and the texts in them."""
    constants = (
        found[1] or found[2] or "" for each in _EXPRESSION.findall(template) for found in _CONSTANT.finditer(each)
    )
    return " ".join([_EXPRESSION.sub(" ", template), *constants])
