# SPDX-License-Identifier: GPL-3.0-or-later
"""Inputs that a trigger gives, against those that the workflow declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from relengq.documents import Document, Json, Loc
from relengq.errors import Fault, InputFault, did_you_mean
from relengq.expressions import is_template
from relengq.inputs import check_inputs
from relengq.site.files import WorkflowFile


def check(
    workflow: WorkflowFile, given: Mapping[str, Json], document: Document, loc: Loc, *, templates: bool
) -> Iterator[Fault]:
    """Unknown, missing and unfit inputs of a trigger whose ``inputs`` stand at ``loc``.

    With ``templates``, strings with ``{{ }}`` are left alone: what they give is not known yet.
    """
    for name, value in given.items():
        place = (*loc, "inputs", name)
        if name not in workflow.input_names:
            message = f"the workflow '{workflow.name}' has no input '{name}'"
            yield document.fault(place, message, did_you_mean(name, workflow.input_names), key=True)
        elif name in workflow.sound_specs and not (templates and _open(value)):
            try:
                check_inputs({name: workflow.sound_specs[name]}, {name: value})
            except InputFault as fault:
                yield document.fault(place, fault.problems[0])
    for name, spec in workflow.specs.items():
        if spec.required and name not in given:
            message = f"the input '{name}' of the workflow '{workflow.name}' is missing"
            yield document.fault((*loc, "inputs"), message, "it has no default")


def _open(value: Json) -> bool:
    if isinstance(value, list):
        return any(_open(item) for item in value)
    return isinstance(value, str) and is_template(value)
