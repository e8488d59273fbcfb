# SPDX-License-Identifier: GPL-3.0-or-later
"""What a workflow's file declares against itself: inputs that contradict themselves, names that come twice."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from relengq.errors import Fault
from relengq.site.files import WorkflowFile
from relengq.workflows import INSTANCE_LIMIT


def check(file: WorkflowFile) -> Iterator[Fault]:
    """Inputs, steps and matrices."""
    for name, spec in file.specs.items():
        for key, message in spec.contradictions():
            yield file.document.fault(("inputs", name, key), message)
    seen: dict[str, int] = {}
    for step in file.steps:
        if not step.name:
            continue
        if step.name in seen:
            hint = f"the step in line {seen[step.name]} has it already"
            yield file.document.fault((*step.loc, "name"), f"duplicate step name '{step.name}'", hint)
        else:
            seen[step.name] = file.document.mark((*step.loc, "name"))[0]
    for step in file.steps:
        count = prod(len(values) for values in step.axes.values() if isinstance(values, list))
        if count > INSTANCE_LIMIT:
            message = f"the matrix gives {count} instances; the limit is {INSTANCE_LIMIT}"
            yield file.document.fault((*step.loc, "matrix"), message)
