# SPDX-License-Identifier: GPL-3.0-or-later
"""Durations as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relengq.durations import LONGEST, human, kept, parse


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1w", 604800),
        ("1y", 31536000),
        ("250ms", 0.25),
        ("1.5h", 5400),
        (90, 90),
        (0, 0),
    ],
)
def test_reads(text: object, seconds: float) -> None:
    assert parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5 m",
        "m5",
        "-5m",
        "5x",
        "1h 30m",
        None,
        True,
        [],
        "9999w",
        1e300,
        float("nan"),
        -1,
        "٣s",
        "1e3s",
        10**400,
    ],
)
def test_refuses(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration is written|is not between"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("", 0), ("0", 0), (0, 0), ("90", 90), (" 7 ", 7), ("30d", 2592000), ("2y", 63072000)]
)
def test_nothing_and_0_keep_for_ever(text: object, seconds: float) -> None:
    assert kept(text) == seconds


@pytest.mark.parametrize("text", ["soon", "-1", -1, "99y", None, "9" * 30])
def test_refuses_to_keep(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration is written|is not between"):
        kept(text)


@given(st.integers(0, LONGEST))
def test_what_is_shown_can_be_read_and_is_near(seconds: int) -> None:
    assert parse(human(seconds)) == pytest.approx(seconds, rel=1 / 24, abs=0.5)


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        assert 0 <= parse(text) <= LONGEST
    except ValueError:
        return


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.42, "0.4s"), (9.96, "10s"), (59.6, "1m"), (90, "1m30s"), (3600, "1h"), (90061, "1d1h"), (-5, "-5s")],
)
def test_shows(seconds: float, text: str) -> None:
    assert human(seconds) == text
