# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether every requirement of a set of packages is answered inside the set, as dnf's repoclosure asks."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import createrepo_c as cr
from ansible.module_utils.rpm_versions import ANY, Evr, Range

_DEPTH = 32
_COMPARISON = re.compile(r"\s*(<=|>=|=|<|>)\s*([^\s)]+)")
_WORD = re.compile(r"\s*(\w+)\s")
# Stands among providers for "nothing has to provide it".
_NOTHING_NEEDED = -1

Providers = frozenset[int]


class Requirement(NamedTuple):
    """A requirement as text and, unless it is a rich one, its name and versions."""

    name: str
    range: Range

    def __str__(self) -> str:
        return f"{self.name}{self.range}"


class Universe:
    """The packages that requirements are looked up in."""

    def __init__(self, packages: Iterable[cr.Package]) -> None:
        self.packages = list(packages)
        self._provides: defaultdict[str, list[tuple[int, Range]]] = defaultdict(list)
        self._files: defaultdict[str, set[int]] = defaultdict(set)
        for number, package in enumerate(self.packages):
            for name, flags, epoch, version, release, _pre in package.provides:
                self._provides[name].append((number, Range.of(flags, epoch, version, release)))
            for _kind, directory, name, *_digest in package.files:
                self._files[directory.rstrip("/") + "/" + name].add(number)

    def unresolved(self) -> Iterator[tuple[cr.Package, str]]:
        """Each package with each requirement of its that nothing in the universe answers."""
        for package in self.packages:
            for name, flags, epoch, version, release, _pre in package.requires:
                if name.startswith("rpmlib("):
                    continue
                wanted = Requirement(name, Range.of(flags, epoch, version, release))
                if not self.providers(wanted):
                    yield package, str(wanted)

    def providers(self, wanted: Requirement) -> Providers:
        """Which packages answer a requirement, plain or rich; empty when none does."""
        if not wanted.name.startswith("("):
            return self._plain(wanted)
        try:
            return _RichDependency(wanted.name, self).providers()
        except ValueError:
            return frozenset()

    def _plain(self, wanted: Requirement) -> Providers:
        found = {number for number, offered in self._provides.get(wanted.name, ()) if offered.overlaps(wanted.range)}
        if wanted.name.startswith("/"):
            found |= self._files.get(wanted.name, set())
        return frozenset(found)


class _RichDependency:
    """Reads and evaluates ``(a op b …)`` in one go; the grammar is rpm's "Boolean Dependencies"."""

    def __init__(self, text: str, universe: Universe) -> None:
        self._text = text
        self._at = 0
        self._universe = universe

    def providers(self) -> Providers:
        found = self._group(depth=0)
        if self._text[self._at :].strip():
            raise ValueError("text after the dependency")
        return found

    def _group(self, depth: int) -> Providers:
        if depth > _DEPTH:
            raise ValueError("nested too deeply")
        self._expect("(")
        found = self._operand(depth)
        while not self._accept(")"):
            word = self._word()
            other = self._operand(depth)
            if word in ("if", "unless"):
                instead = self._operand(depth) if self._accept("else ") else frozenset({_NOTHING_NEEDED})
                found = _conditional(word, found, other, instead)
            else:
                found = _combined(word, found, other)
        return found

    def _operand(self, depth: int) -> Providers:
        self._skip_space()
        if self._text.startswith("(", self._at):
            return self._group(depth + 1)
        name = self._name()
        versions = _COMPARISON.match(self._text, self._at)
        if versions is None:
            return self._universe.providers(Requirement(name, ANY))
        self._at = versions.end()
        return self._universe.providers(Requirement(name, Range(versions[1], Evr.parse(versions[2]))))

    def _name(self) -> str:
        """A name may hold parentheses, as in ``libsap(x86-64)``."""
        start, depth = self._at, 0
        while self._at < len(self._text) and not self._text[self._at].isspace():
            depth += {"(": 1, ")": -1}.get(self._text[self._at], 0)
            if depth < 0:
                break
            self._at += 1
        if start == self._at:
            raise ValueError("a name is missing")
        return self._text[start : self._at]

    def _word(self) -> str:
        word = _WORD.match(self._text, self._at)
        if word is None:
            raise ValueError("an operator is missing")
        self._at = word.end()
        return word[1]

    def _skip_space(self) -> None:
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1

    def _accept(self, text: str) -> bool:
        self._skip_space()
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise ValueError(f"{text} is missing")


def _combined(word: str, left: Providers, right: Providers) -> Providers:
    if word == "and":
        return left | right if left and right else frozenset()
    if word == "or":
        return left | right
    if word == "with":
        return left & right
    if word == "without":
        return left - right
    raise ValueError(f"{word} is no operator")


def _conditional(word: str, wanted: Providers, condition: Providers, instead: Providers) -> Providers:
    """What the set can do: a condition that nothing provides never holds; one that is provided may hold."""
    if word == "if":
        return wanted if condition else instead
    return wanted | (instead if condition else frozenset())
