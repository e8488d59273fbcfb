# SPDX-License-Identifier: GPL-3.0-or-later
"""The instances that a step's matrix fans out to."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from relengq.documents import Json
from relengq.errors import ExpressionFault
from relengq.expressions import render
from relengq.workflows import INSTANCE_LIMIT

_LABEL_CHARACTERS = 200


def instances(matrix: Mapping[str, Json], context: Mapping[str, Json]) -> list[dict[str, Json]]:
    """One map of names to values for each combination, in the order written; equal ones once.

    Raises ExpressionFault when an axis is not a list or there are too many combinations.
    """
    axes: list[list[tuple[str, Json]]] = []
    count = 1
    for name, values in matrix.items():
        given = render(values, context)
        if not isinstance(given, list):
            raise ExpressionFault(f"matrix.{name} must be a list, not {type(given).__name__}.")
        axes.append([(name, value) for value in given])
        count *= len(given)
        if count > INSTANCE_LIMIT:
            raise ExpressionFault(f"the matrix has more than {INSTANCE_LIMIT} instances.")
    made: dict[str, dict[str, Json]] = {}
    for combination in product(*axes):
        values_of = dict(combination)
        made.setdefault(label(values_of), values_of)
    return list(made.values())


def label(values: Mapping[str, Json]) -> str:
    """How an instance is named: its values, with commas between (``x86_64, server``)."""
    text = ", ".join(value if isinstance(value, str) else str(value) for value in values.values())
    return text[:_LABEL_CHARACTERS] or "-"
