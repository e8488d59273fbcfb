# SPDX-License-Identifier: GPL-3.0-or-later
"""The instances that a step's matrix fans out to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product

from relengq.documents import Json
from relengq.errors import ExpressionFault
from relengq.expressions import render
from relengq.workflows import INSTANCE_LIMIT

_LABEL_CHARACTERS = 200


def instances(matrix: Mapping[str, Json], context: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """One map of names to values for each combination, by its label, in the order written; equal ones once.

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
        name = base = label(values_of)
        again = 1
        # Other values may read the same (1 and "1", or what was cut): nobody's work is left out for that.
        while name in made and _exact(made[name]) != _exact(values_of):
            again += 1
            name = f"{base[: _LABEL_CHARACTERS - 10]} ~{again}"
        made.setdefault(name, values_of)
    return made


def label(values: Mapping[str, Json]) -> str:
    """How an instance is named: its values, with commas between (``x86_64, server``)."""
    text = ", ".join(value if isinstance(value, str) else json.dumps(value) for value in values.values())
    return text[:_LABEL_CHARACTERS] or "-"


def _exact(values: Mapping[str, Json]) -> str:
    return json.dumps(values, sort_keys=True)
