# SPDX-License-Identifier: GPL-3.0-or-later
"""Masking of secret values in whatever leaves an execution, also where a value is cut between two pieces."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from heapq import heapify, heappop, heapreplace
from itertools import accumulate, groupby

from relengq.documents import Json
from relengq.execution.forms import forms

MASK = "********"
_TELLING = 64
"""So many characters of a form are looked for; whatever follows is masked as far as it goes on as the form does."""
_START = 3
"""So many characters tell, of most of a text's end, that no form begins there."""
_WORD = 4
"""Bytes that are compared at once to find out that a text has none of the forms."""
_SHORTEST_BROKEN = 8
"""Shortest value, without its blanks, that is found across breaks of lines."""
_SHORTEST_SQUEEZED = 5
"""What is left at least of such a value, or it is not looked for so: too much would be taken for it."""
_BLANKS = 4096
"""How many blanks are looked past, at most, for a form that the end of a text cuts."""
_LEFT_OUT = " \t\n\r\v\f\x1c\x1d\x1e\x1f\\'\","
"""What tools put into a value: blanks where it is wider than their lines, what quotes it in a shell, in JSON, in Python
and in YAML however often, and what stands between the lines of a list."""
_LEFT_OUT_BYTES = _LEFT_OUT.encode()
_KEPT = re.compile(f"[^{re.escape(_LEFT_OUT)}]+")
_ESCAPES = {
    "\\": ("\\n", "\\r", "\\t", "\\u0027"),
    "&": ("&#39;", "&#34;", "&#039;", "&#x27;", "&#x22;", "&apos;", "&quot;"),
}
"""How blanks and quotes are written in JSON and HTML, by the character that they begin with."""
_BEGUN = {each[:end] for escapes in _ESCAPES.values() for each in escapes for end in range(1, len(each))}
_LONGEST_BEGUN = max(map(len, _BEGUN))

Span = tuple[int, int]


class Mask:
    """Replaces secret values, in each of their ``forms``, and also where lines of output are broken within one or where
    it is quoted and quoted again: longer ones are compared without blanks, quotes and commas as well.

    Of a value with several lines (a private key) each longer line counts as secret too, because output shows
    it indented or line by line.
    """

    def __init__(self, hidden: Iterable[str]) -> None:
        exact: set[str] = set()
        unbroken: set[str] = set()
        for value in set(hidden):
            found = forms(value)
            exact |= found
            unbroken |= _unbroken(value, found)
        self._exact = _Needles(exact)
        self._unbroken = _Needles(unbroken)
        self._empty = not exact

    def text(self, text: str, told: int = 0) -> str:
        """The text with every secret masked; without its first ``told`` characters, which a mask before it covers."""
        if self._empty:
            return text
        return _replaced(text, self._spans(text), len(text), told)[0]

    def json(self, value: Json) -> Json:
        """The value with every secret masked, in keys, strings and numbers alike."""
        if self._empty or value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.json(each) for key, each in value.items()}
        if isinstance(value, list):
            return [each for texts, group in groupby(value, _is_text) for each in self._items(texts, list(group))]
        return MASK if any(self._exact.spans(str(value))) else value

    def stream(self) -> MaskedStream:
        """A masker for text that comes in pieces."""
        return MaskedStream(self)

    def split(self, text: str, told: int = 0) -> tuple[str, str, int]:
        """The masked text that may go out, the rest that could be the beginning of a secret, and what is told of it.

        Of the text, the first ``told`` characters have gone out before, in a mask that reached so far; the last number
        is the same for the rest.
        """
        if self._empty:
            return text, "", 0
        cut = min(self._exact.open_end(text), self._open_end_across(text))
        out, reached = _replaced(text, self._spans(text), cut, told)
        return out, text[cut:], max(0, reached - cut)

    def _items(self, texts: bool, items: list[Json]) -> list[Json]:
        """Neighbours in a list, masked. Texts are masked as lines of one text, too: a secret may be broken there."""
        if not texts:
            return [self.json(each) for each in items]
        lines = [str(each) for each in items]
        spans = self._spans("\n".join(lines))
        if not spans:
            return items
        starts = list(accumulate((len(line) + 1 for line in lines), initial=0))
        touched: list[list[Span]] = [self._spans(line) for line in lines]
        for begin, end in spans:
            for at in range(bisect_right(starts, begin) - 1, bisect_left(starts, end)):
                touched[at].append((max(begin - starts[at], 0), end - starts[at]))
        return [_replaced(line, sorted(within), len(line), 0)[0] for line, within in zip(lines, touched, strict=True)]

    def _spans(self, text: str) -> list[Span]:
        """Where secrets are, in order."""
        return sorted([*self._exact.spans(text), *self._spans_across(text)])

    def _spans_across(self, text: str) -> list[Span]:
        spans = list(self._unbroken.spans(_squeezed(text)))
        if not spans:
            return []
        places = _Places(text)
        return [(places[begin], places[end - 1] + 1) for begin, end in spans]

    def _open_end_across(self, text: str) -> int:
        """Where the earliest secret begins that the end of the text cuts, with breaks left out."""
        text_end = text[-_BLANKS - 2 * self._unbroken.longest :]
        begun = next((end for end in range(_LONGEST_BEGUN, 0, -1) if text[-end:] in _BEGUN), 0)
        first = len(text)
        # An escape that is cut itself is one, or is a part of the secret.
        for end in {text_end, text_end[: len(text_end) - begun]}:
            short = _squeezed(end)
            at = self._unbroken.open_end(short)
            if at < len(short):
                first = min(first, len(text) - len(text_end) + _Places(end)[at])
        return first


class MaskedStream:
    """Masks a text that comes in pieces; holds back no more than what could still become a secret."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._held = ""
        self._told = 0

    def feed(self, text: str) -> str:
        """The masked text that can go out now."""
        out, self._held, self._told = self._mask.split(self._held + text, self._told)
        return out

    def end(self) -> str:
        """The masked rest, when nothing more comes."""
        rest, told = self._held, self._told
        self._held, self._told = "", 0
        return self._mask.text(rest, told)


class _Needles:
    """Texts to look for, all at once, in much text that has none of them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.sorted: list[str] = sorted(texts)
        self.longest = max(map(len, self.sorted), default=0)
        self._short: list[str] = []
        self._by_word: dict[int, set[str]] = {}
        for head in {text[:_TELLING] for text in self.sorted}:
            data = head.encode("utf-8", "surrogatepass")
            if len(data) < 2 * _WORD - 1:
                self._short.append(head)
            for at in range(_WORD if head not in self._short else 0):
                # Wherever it stands, one of its first words is at a multiple of a word's size.
                (word,) = memoryview(data[at : at + _WORD]).cast("I")
                self._by_word.setdefault(word, set()).add(head)
        self._words = frozenset(self._by_word)

    @cached_property
    def _starts(self) -> re.Pattern[str]:
        return re.compile(f"(?={_alternatives(sorted({text[:_START] for text in self.sorted}))})")

    def spans(self, text: str) -> Iterator[Span]:
        """Where each of them is, in order; they may overlap."""
        found = [(text.find(head), head) for head in self._candidates(text)]
        nearest = [each for each in found if each[0] >= 0]
        heapify(nearest)
        while nearest:
            start, head = nearest[0]
            end = start + (self._fits(head, text, start) if len(head) >= _TELLING else len(head))
            yield start, end
            if (following := text.find(head, end)) >= 0:
                heapreplace(nearest, (following, head))
            else:
                heappop(nearest)

    def _candidates(self, text: str) -> Iterable[str]:
        """Those that may be in the text: all that share a word with it, and the short ones."""
        data = text.encode("utf-8", "surrogatepass")
        whole = len(data) - len(data) % _WORD
        shared = self._words.intersection(memoryview(data)[:whole].cast("I"))
        return {*self._short, *(head for word in shared for head in self._by_word[word])}

    def open_end(self, text: str) -> int:
        """The earliest place from which the text's end is the beginning of one of them; else the text's length."""
        if not self.sorted:
            return len(text)
        last = max(0, len(text) - _START + 1)
        begin = max(0, len(text) - self.longest + 1)
        whole = (found.start() for found in self._starts.finditer(text, begin))
        start: int
        for start in (*whole, *range(max(begin, last), len(text))):
            rest = text[start:]
            at = bisect_right(self.sorted, rest)
            if at < len(self.sorted) and self.sorted[at].startswith(rest):
                return start
        return len(text)

    def _fits(self, head: str, text: str, start: int) -> int:
        """How far the text goes on as one of those that begin so."""
        best = len(head)
        for at in range(bisect_left(self.sorted, head), len(self.sorted)):
            needle = self.sorted[at]
            if not needle.startswith(head):
                break
            best = max(best, _common(needle, text[start : start + len(needle)]))
        return best


def _replaced(text: str, spans: Iterable[Span], cut: int, told: int) -> tuple[str, int]:
    """The text from ``told`` up to ``cut`` with the spans masked that begin before it, and how far they reach.

    A span may reach beyond the cut. The text is cut there all the same: a secret may begin within the span.
    """
    parts: list[str] = []
    last = told
    for begin, end in spans:
        if begin >= cut:
            break
        if begin >= last:
            parts += [text[last:begin], MASK]
        last = max(last, end)
    parts.append(text[last:cut])
    return "".join(parts), last


class _Places:
    """Where the characters of a text without what is left out are in the text."""

    def __init__(self, text: str) -> None:
        self._runs = [found.span() for found in _KEPT.finditer(_unescaped(text))]
        self._ends = list(accumulate(end - begin for begin, end in self._runs))

    def __getitem__(self, at: int) -> int:
        run = bisect_right(self._ends, at)
        return self._runs[run][1] - self._ends[run] + at


def _unbroken(value: str, found: set[str]) -> set[str]:
    """What of a value's forms is looked for with everything left out that tools put between."""
    one_line = len(value.splitlines()) == 1 and len("".join(value.split())) >= _SHORTEST_BROKEN
    shortest = _SHORTEST_SQUEEZED if one_line else _SHORTEST_BROKEN
    # A letter after a backslash that is not the secret's own would be left out with it.
    beheaded = {form[1:] for form in found if form[0] in "nrt"}
    return {short for short in map(_squeezed, found | beheaded) if len(short) >= shortest}


def _is_text(value: Json) -> bool:
    return isinstance(value, str)


def _unescaped(text: str) -> str:
    """The text with blanks in place of the escapes of blanks and quotes, as long as it is."""
    for first, escapes in _ESCAPES.items():
        for escape in escapes if first in text else ():
            text = text.replace(escape, " " * len(escape))
    return text


def _squeezed(text: str) -> str:
    """The text without what tools put into a value."""
    data = _unescaped(text).encode("utf-8", "surrogatepass")
    return data.translate(None, _LEFT_OUT_BYTES).decode("utf-8", "surrogatepass")


def _common(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginnings."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _alternatives(words: Sequence[str]) -> str:
    """A regular expression for sorted words that takes the longest, and looks at each character once."""
    if len(words) == 1:
        return re.escape(words[0])
    groups: list[str] = []
    at, optional = 0, ""
    if words and not words[0]:
        at, optional = 1, "?"
    while at < len(words):
        end = at
        while end < len(words) and words[end][0] == words[at][0]:
            end += 1
        shared = _common(words[at], words[end - 1])
        groups.append(re.escape(words[at][:shared]) + _alternatives([word[shared:] for word in words[at:end]]))
        at = end
    return f"(?:{'|'.join(groups)}){optional}"
