# SPDX-License-Identifier: GPL-3.0-or-later
"""The values that workflow files are made of: names, conditions, templates, topics, axes of a matrix."""

from __future__ import annotations

import keyword
import re
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from relengq import queues
from relengq.documents import Json
from relengq.errors import ExpressionFault
from relengq.expressions import is_template, unwrap

INSTANCE_LIMIT = 256
"""How many instances a step's matrix may give."""
TOPIC_LIMIT = 255
"""Bytes of a topic: AMQP 0-9-1 keeps routing keys in a short string."""

_RESERVED_VARIABLES = frozenset(
    """
group_names groups hostvars inventory_dir inventory_file inventory_hostname inventory_hostname_short
omit play_hosts playbook_dir role_name role_names role_path vars environment
action any_errors_fatal args async become become_exe become_flags become_method become_user block
changed_when check_mode collections connection debugger delay delegate_facts delegate_to diff
failed_when gather_facts handlers hosts ignore_errors ignore_unreachable local_action lookup loop
loop_control max_fail_percentage module_defaults name namespace no_log notify now poll port post_tasks
pre_tasks query range register remote_user rescue retries roles run_once serial strategy tags tasks
throttle timeout until vars_files vars_prompt when
relengq
""".split()  # noqa: SIM905  # one name a line would fill the screen
)
"""Names that Ansible gives a meaning of its own (its "special variables" and playbook keywords), and ours."""

_WORD = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
_TOPIC_WORD = re.compile(r"[^.*#\s]+|\*|#")


def _condition(value: object) -> str:
    """A condition; a list of conditions means that all hold, as in Ansible."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, list) and value and all(isinstance(item, str | bool) for item in value):
        return " and ".join(f"({unwrap(_condition(item))})" for item in value)
    raise ValueError("a condition is an expression in a string, true, false, or a list of them")


def _condition_or_bool(value: object) -> bool | str:
    return value if isinstance(value, bool) else _condition(value)


def _template(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a string that is not empty; it may have {{ … }}")
    return value


def queue_name(value: object) -> str:
    """The value as a queue's name. Raises ExpressionFault when it is none: expressions may render anything."""
    text = value if isinstance(value, str) else str(value)
    try:
        return queues.checked(text)
    except ValueError as error:
        raise ExpressionFault(f"'{text[:100]}' is no name of a queue: {error}.") from None


def _queue(value: object) -> str:
    text = _template(value)
    return text if is_template(text) else queues.checked(text)


def _topic_pattern(value: str) -> str:
    words = value.split(".")
    if len(value.encode()) > TOPIC_LIMIT:
        raise ValueError(f"a topic has at most {TOPIC_LIMIT} bytes")
    if not all(_TOPIC_WORD.fullmatch(word) for word in words):
        raise ValueError("no topic pattern: words with dots between; '*' is one whole word, '#' any number of them")
    return value


def _topic(value: object) -> str:
    text = _template(value)
    if not is_template(text) and ({"*", "#"} & set(_topic_pattern(text))):
        raise ValueError("a topic that is announced has no '*' or '#'")
    return text


def topic_name(value: object, prefix: int = 0) -> str:
    """The value as a topic to send to, below a prefix of so many bytes. Raises ExpressionFault when it is none."""
    text = value if isinstance(value, str) else str(value)
    if not all(_TOPIC_WORD.fullmatch(word) and word not in ("*", "#") for word in text.split(".")):
        raise ExpressionFault(f"'{text[:100]}' is no topic: words with dots between, without '*', '#' and blanks.")
    if prefix + len(text.encode()) > TOPIC_LIMIT:
        raise ExpressionFault(f"the topic '{text[:100]}…' is longer than {TOPIC_LIMIT} bytes with the bus's prefix.")
    return text


def _inside(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("a path here is relative to playbooks/ and stays inside of it")
    return value


def _playbook(value: str) -> str:
    if not value.endswith((".yml", ".yaml")):
        raise ValueError("a playbook is a file whose name ends with .yml")
    return _inside(value)


def _variable(name: str) -> str:
    if not re.fullmatch(_WORD, name) or keyword.iskeyword(name):
        raise ValueError(f"'{name}' is no name for a variable: letters, digits and '_' only")
    if name.startswith("ansible_") or name in _RESERVED_VARIABLES:
        raise ValueError(f"the name '{name}' is reserved: Ansible or relengq gives it a meaning of its own")
    return name


def _axis(value: object) -> list[Json] | str:
    if isinstance(value, str) and is_template(value):
        return value
    if not isinstance(value, list) or not value or len(value) > INSTANCE_LIMIT:
        raise ValueError(f"must be a list of 1 to {INSTANCE_LIMIT} values, or '{{{{ … }}}}' that gives a list")
    if not all(isinstance(item, str | int | float) for item in value):
        raise ValueError("the values of a matrix are strings, numbers, true or false")
    if twice := next((item for at, item in enumerate(value) if item in value[:at]), None):
        raise ValueError(f"duplicate value {twice!r}")
    return value


_CONDITION_SCHEMA = {"type": ["string", "boolean", "array"], "items": {"type": ["string", "boolean"]}}
_TEXT = WithJsonSchema({"type": "string", "minLength": 1})

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
Word = Annotated[str, Field(pattern=_WORD)]
Group = Annotated[str, Field(min_length=1, max_length=200)]
Condition = Annotated[str, PlainValidator(_condition), WithJsonSchema(_CONDITION_SCHEMA)]
Template = Annotated[str, PlainValidator(_template), _TEXT]
Queue = Annotated[str, PlainValidator(_queue), _TEXT]
TopicPattern = Annotated[
    str, Field(min_length=1, examples=["org.fedoraproject.*.buildsys.tag"]), AfterValidator(_topic_pattern)
]
Axis = Annotated[
    list[Json] | str,
    PlainValidator(_axis),
    WithJsonSchema({"type": ["array", "string"], "items": {"type": ["string", "number", "boolean"]}}),
]


Event = Annotated[str, Field(pattern=r"^[a-z]+(\.[a-z]+)*$", max_length=100)]
Topic = Annotated[str, PlainValidator(_topic), _TEXT]
PlaybookFile = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_playbook)]
Inside = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_inside)]
Variable = Annotated[str, AfterValidator(_variable)]
Tag = Annotated[str, Field(pattern=r"^[^,\s]+$", max_length=100)]
BoolOrCondition = Annotated[bool | str, PlainValidator(_condition_or_bool), WithJsonSchema(_CONDITION_SCHEMA)]


def topic_matches(pattern: str, topic: str) -> bool:
    """Whether the topic fits the pattern, as AMQP 0-9-1 (3.1.3.3) defines it for topic exchanges."""
    words = topic.split(".") if topic else []
    fits = [True, *[False] * len(words)]  # whether the pattern so far fits the topic's first words
    for part in pattern.split("."):
        longer = [part == "#" and fits[0]]
        for at, word in enumerate(words):
            longer.append(fits[at + 1] or longer[at] if part == "#" else fits[at] and part in ("*", word))
        fits = longer
    return fits[-1]
