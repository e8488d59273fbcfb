# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML files with the line and column of each value, and with limits.

The events come from PyYAML's C parser; the tree is built here with a stack of our own, so neither deep
nesting nor a "billion laughs" file costs more than its limit. Plain values follow the core schema of YAML 1.2
(``on`` is a word, as editors and JSON Schema validators read it); what YAML 1.1, and with it Ansible,
would read otherwise must be quoted, so that no file means two things.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import JsonValue as Json
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.reader import ReaderError

from relengq.errors import Fault, SiteFault

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

__all__ = ["Document", "Json", "load", "parse", "read"]

SIZE_LIMIT = 1024 * 1024
"""Bytes of the largest file."""
DEPTH_LIMIT = 50
"""How many lists and mappings may stand inside each other."""
_TOO_DEEP = f"values are nested deeper than the limit of {DEPTH_LIMIT}"
NODE_LIMIT = 50_000
"""How many values a file may have, with every alias counted as what it stands for."""

Loc = tuple[str | int, ...]
Mark = tuple[int, int]

_TAG = "tag:yaml.org,2002:"
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = {"", "~", "null", "Null", "NULL"}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_JSON = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_OLD_BOOL = re.compile(r"yes|no|on|off", re.IGNORECASE)
_OLD_NUMBER = re.compile(r"[-+]?0[0-9_]+|[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+", re.ASCII)


@dataclass(slots=True)
class Document:
    """What a YAML file says (``data``), where it says it (``mark``), and what is wrong with it (``faults``).

    ``data`` is None when the file cannot be used at all; ``faults`` then says why.
    """

    name: str
    data: Json = None
    faults: list[Fault] = field(default_factory=list)
    marks: dict[int, dict[str | int, tuple[Mark, Mark]]] = field(default_factory=dict)

    def mark(self, loc: Loc, *, key: bool = False) -> Mark:
        """Line and column, from 1, of the value (or key) at ``loc``; when it is absent, of what is around."""
        node: Json = self.data
        found: Mark = (1, 1)
        for part in loc:
            marks = self.marks.get(id(node), {})
            if part not in marks:
                break
            at_key, at_value = marks[part]
            found = at_key if key else at_value
            node = node[part]  # type: ignore[index]  # the marks have only parts that exist
        return found

    def fault(self, loc: Loc, message: str, hint: str | None = None, *, key: bool = False) -> Fault:
        """A fault at the place of ``loc``."""
        return Fault(self.name, *self.mark(loc, key=key), message, hint)


class _Stop(Exception):  # the end of reading, not an error that leaves this module
    """The file cannot be read further; carries the last fault."""

    def __init__(self, mark: Mark, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.mark, self.message, self.hint = mark, message, hint


@dataclass(slots=True)
class _Open:
    """A list or mapping that is not closed yet."""

    value: list[Json] | dict[str, Json]
    marks: dict[str | int, tuple[Mark, Mark]]
    start: Mark
    anchor: str | None
    own: set[str] = field(default_factory=set)
    key: str | None = None
    merges: bool = False
    """Whether the key is a plain ``<<``."""
    key_mark: Mark = (1, 1)
    nodes: int = 1
    height: int = 1


def load(path: Path, *, name: str | None = None) -> Document:
    """The YAML file at ``path``; raises SiteFault with all of its faults."""
    document = read(path, name=name)
    if document.faults:
        raise SiteFault("; ".join(map(str, document.faults)), document.faults)
    return document


def read(path: Path, *, name: str | None = None) -> Document:
    """The YAML file at ``path`` (called ``name`` in faults); what is wrong is in the result's ``faults``."""
    document = Document(name or str(path))
    try:
        mode = path.stat()
        if not stat.S_ISREG(mode.st_mode):
            kind = "a directory" if stat.S_ISDIR(mode.st_mode) else "no regular file"
            raise _Stop((1, 1), f"this is {kind}, not a YAML file", "move it away or give it another name")
        if mode.st_size > SIZE_LIMIT:
            raise _Stop((1, 1), f"the file has {mode.st_size} bytes; the limit is {SIZE_LIMIT} bytes")
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT + 1)
        return parse(_decode(content), name=document.name)
    except OSError as error:
        document.faults.append(Fault(document.name, 1, 1, f"the file cannot be read: {error.strerror}"))
    except _Stop as stop:
        document.faults.append(Fault(document.name, *stop.mark, stop.message, stop.hint))
    return document


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise _Stop((line, column), "the file is not UTF-8", "save it as UTF-8") from None


def parse(text: str, *, name: str) -> Document:
    """The YAML in ``text``, called ``name`` in faults; what is wrong is in the result's ``faults``."""
    document = Document(name)
    try:
        if len(text) > SIZE_LIMIT or len(text.encode("utf-8", "surrogatepass")) > SIZE_LIMIT:
            raise _Stop((1, 1), f"the text is larger than the limit of {SIZE_LIMIT} bytes")
        _Builder(document).build(_events(text))
    except _Stop as stop:
        document.data = None
        document.faults.append(Fault(name, *stop.mark, stop.message, stop.hint))
    return document


def _events(text: str) -> Iterator[Event]:
    try:
        yield from yaml.parse(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        marks = [mark for mark in (error.problem_mark, error.context_mark) if mark is not None]
        at = (marks[0].line + 1, marks[0].column + 1) if marks else (1, 1)
        what = ", ".join(part for part in (error.context, error.problem) if part)
        if "nesting depth" in what:  # the parser has a limit of its own, far beyond ours
            raise _Stop(at, _TOO_DEEP) from None
        raise _Stop(at, f"this is not YAML: {what}") from None
    except (ReaderError, UnicodeEncodeError):
        position = next((at for at, char in enumerate(text) if _unprintable(char)), 0)
        before = text[:position]
        at = (before.count("\n") + 1, position - before.rfind("\n"))
        raise _Stop(at, "this is not YAML: a control character stands here") from None


def _unprintable(char: str) -> bool:
    """Whether YAML forbids the character (YAML 1.2.2, 5.1)."""
    code = ord(char)
    if code < 0x20:
        return char not in "\t\n\r"
    return (0x7F <= code <= 0x9F and code != 0x85) or 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF)


class _Builder:
    """Makes the tree out of events, without recursion, and counts."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Json, int, int]] = {}
        self._nodes = 0
        self._documents = 0

    def build(self, events: Iterator[Event]) -> None:
        for event in events:
            start = event.start_mark
            at = (start.line + 1, start.column + 1) if start is not None else (1, 1)
            if isinstance(event, DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    raise _Stop(at, "a second document ('---') begins here; a file has one")
            elif isinstance(event, MappingEndEvent | SequenceEndEvent):
                self._close()
            elif isinstance(event, NodeEvent):
                self._node(event, at)

    def _fault(self, at: Mark, message: str, hint: str | None = None) -> None:
        self._document.faults.append(Fault(self._document.name, *at, message, hint))

    def _node(self, event: NodeEvent, at: Mark) -> None:
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            top.key, top.key_mark = self._key(event, at), at
            top.merges = top.key == "<<" and isinstance(event, ScalarEvent) and event.implicit[0]
            self._count(1, at)
        elif isinstance(event, AliasEvent):
            self._alias(event, at)
        elif isinstance(event, ScalarEvent):
            value = self._scalar(event, at)
            if event.anchor:
                self._anchors[event.anchor] = (value, 1, 0)
            self._put(value, at, 1, 0)
        elif isinstance(event, MappingStartEvent | SequenceStartEvent):
            self._open(event, at)

    def _count(self, nodes: int, at: Mark) -> None:
        self._nodes += nodes
        if self._nodes > NODE_LIMIT:
            raise _Stop(at, f"more values than the limit of {NODE_LIMIT} (aliases count in full)")

    def _open(self, event: MappingStartEvent | SequenceStartEvent, at: Mark) -> None:
        kind = "map" if isinstance(event, MappingStartEvent) else "seq"
        if event.tag not in (None, "!", _TAG + kind):
            self._fault(at, f"the tag {event.tag} means nothing here", "leave it out")
        if len(self._stack) >= DEPTH_LIMIT:
            raise _Stop(at, _TOO_DEEP)
        self._count(1, at)
        value: list[Json] | dict[str, Json] = {} if kind == "map" else []
        self._stack.append(_Open(value, {}, at, event.anchor))
        if event.anchor:
            self._anchors.pop(event.anchor, None)

    def _close(self) -> None:
        done = self._stack.pop()
        self._document.marks[id(done.value)] = done.marks
        if done.anchor:
            self._anchors[done.anchor] = (done.value, done.nodes, done.height)
        self._put(done.value, done.start, done.nodes, done.height, counted=True)

    def _alias(self, event: AliasEvent, at: Mark) -> None:
        if any(level.anchor == event.anchor for level in self._stack):
            raise _Stop(at, f"cycle: the alias *{event.anchor} stands inside of what it names")
        if event.anchor not in self._anchors:
            hint = f"put &{event.anchor} before a value above"
            raise _Stop(at, f"the alias *{event.anchor} names nothing", hint)
        value, nodes, height = self._anchors[event.anchor]
        if len(self._stack) + height > DEPTH_LIMIT:
            raise _Stop(at, _TOO_DEEP)
        self._count(nodes, at)
        self._put(value, at, nodes, height, counted=True)

    def _put(self, value: Json, at: Mark, nodes: int, height: int, *, counted: bool = False) -> None:
        """Hand a finished value to what it stands in."""
        if not counted:
            self._count(nodes, at)
        if not self._stack:
            self._document.data = value
            return
        top = self._stack[-1]
        top.nodes += nodes
        top.height = max(top.height, height + 1)
        if isinstance(top.value, list):
            top.marks[len(top.value)] = (at, at)
            top.value.append(value)
            return
        key, top.key = top.key or "", None
        if top.merges:
            self._merge(top, value, at)
        elif key in top.own:
            line = top.marks[key][0][0]
            self._fault(top.key_mark, f"duplicate key '{key}'", f"it stands in line {line} already")
        else:
            top.own.add(key)
            top.value[key] = value
            top.marks[key] = (top.key_mark, at)

    def _merge(self, top: _Open, value: Json, at: Mark) -> None:
        """The ``<<`` key: take what the named mappings have and this one has not."""
        for other in value if isinstance(value, list) else [value]:
            if not isinstance(other, dict):
                self._fault(at, "'<<' takes a mapping or a list of mappings")
                continue
            marks = self._document.marks.get(id(other), {})
            for key, item in other.items():
                if isinstance(top.value, dict) and key not in top.value:
                    top.value[key] = item
                    top.marks[key] = marks.get(key, (at, at))

    def _key(self, event: NodeEvent, at: Mark) -> str:
        if not isinstance(event, ScalarEvent):
            raise _Stop(at, "a key is a word, not an alias, a list or a mapping")
        if event.value == "":
            raise _Stop(at, "a key is empty")
        if event.implicit[0] and not isinstance(_plain(event.value), str):
            self._fault(at, f"the key {event.value} is not a word", f'write "{event.value}" in quotes')
        return event.value

    def _scalar(self, event: ScalarEvent, at: Mark) -> Json:
        text = event.value
        if event.tag and event.tag not in ("!", _TAG + "str"):
            self._fault(at, f"the tag {event.tag} means nothing here", "leave it out")
            return text
        if not event.implicit[0]:
            return text
        if _OLD_BOOL.fullmatch(text):
            means = "true" if text.lower() in ("yes", "on") else "false"
            message = f"{text} is a word to some readers of YAML and {means} to others"
            self._fault(at, message, f"write {means}, or '{text}' in quotes")
        elif _OLD_NUMBER.fullmatch(text) and text != "0":
            message = f"{text} is read as different numbers by different readers of YAML"
            self._fault(at, message, f"write '{text}' in quotes, or a plain number")
        try:
            return _plain(text)
        except ValueError as error:
            self._fault(at, str(error), "put it in quotes")
            return text


def _plain(text: str) -> str | int | float | bool | None:
    """A plain scalar by the core schema of YAML 1.2 (10.3.2); raises ValueError for what JSON cannot hold."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        number = int(text, 0 if text.startswith(("0x", "0o")) else 10) if len(text) <= 24 else 1 << 64
        if not -(1 << 63) <= number < 1 << 63:
            raise ValueError("this number is beyond 64 bits")
        return number
    if _NOT_JSON.fullmatch(text) or (_FLOAT.fullmatch(text) and float(text) in (float("inf"), float("-inf"))):
        raise ValueError("this number cannot be written as JSON")
    return float(text) if _FLOAT.fullmatch(text) else text
