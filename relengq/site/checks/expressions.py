# SPDX-License-Identifier: GPL-3.0-or-later
"""Expressions that do not compile, or read something that cannot be there."""

from __future__ import annotations

from collections.abc import Iterator

from relengq.errors import ExpressionFault, Fault, did_you_mean
from relengq.expressions import Path, readable, references
from relengq.site.checks.uses import STEP, Use, uses
from relengq.site.files import StepPart, WorkflowFile

_OF_STEP = ("state", "failed", "succeeded", "skipped", "message")
_OF_THE_STEP = ("name", "instance", "state", "message")
_OF_RUN = (
    "id", "workflow", "state", "result", "reason", "revision", "trigger", "who", "created_at", "started_at"
)  # fmt: skip
_OF_RUN_AT_START = ("workflow", "trigger", "who")
_OF_SITE = ("path", "state_dir")
_OF_APPROVAL = ("approved", "by", "note", "at", "timed_out")

Found = tuple[str, str | None]
"""What is wrong, and what to do."""


def check(file: WorkflowFile) -> Iterator[Fault]:
    """The faults of all expressions of the file."""
    for use in uses(file):
        try:
            paths = references(use.text, bare=use.bare)
        except ExpressionFault as fault:
            yield file.document.fault(use.loc, fault.message.removesuffix("."), fault.hint)
            paths = readable(use.text, bare=use.bare)
        for message, hint in dict.fromkeys(found for path in paths for found in _problems(file, use, path)):
            yield file.document.fault(use.loc, message, hint)


def _problems(file: WorkflowFile, use: Use, path: Path) -> Iterator[Found]:
    root = path[0]
    if root not in use.roots:
        yield _unknown_root(file, use, path)
    elif root == "inputs":
        yield from _input(file, use, path)
    elif root == "steps" and len(path) > 1:
        yield from _steps(file, use, path)
    elif root == "outputs" and len(path) > 1:
        yield from _outputs(file, use, path)
    elif root == "secrets" and use.step:
        yield from _secret(file, use.step, path)
    elif root == "matrix" and use.step:
        yield from _member("the matrix", path, list(use.step.axes))
    elif root == "run":
        yield from _member("run", path, list(_OF_RUN if use.roots.issuperset(STEP) else _OF_RUN_AT_START))
    elif root == "step":
        yield from _member("step", path, list(_OF_THE_STEP))
    elif root == "site":
        yield from _member("site", path, list(_OF_SITE))


def _unknown_root(file: WorkflowFile, use: Use, path: Path) -> Found:
    root = path[0]
    if root == "secrets":
        return f"secrets cannot be part of {use.shown or 'what starts a run'}", "use them in a step's vars"
    if root == "matrix":
        return "'matrix' is unknown here", "the step has no matrix" if use.step else "only a step with one knows it"
    if "inputs" in use.roots and root in file.input_names:
        return f"'{root}' is unknown here", f"did you mean 'inputs.{root}'?"
    return f"'{root}' is unknown here", f"known: {', '.join(sorted(use.roots))}"


def _member(what: str, path: Path, valid: list[str]) -> Iterator[Found]:
    if len(path) > 1 and path[1] not in valid:
        yield f"{what} has no '{path[1]}'", did_you_mean(path[1], valid)


def _input(file: WorkflowFile, use: Use, path: Path) -> Iterator[Found]:
    secrets = [name for name, spec in file.specs.items() if spec.secret]
    if len(path) > 1 and path[1] not in file.input_names:
        yield f"unknown input '{path[1]}'", did_you_mean(path[1], file.input_names)
    elif use.shown and (path[1] in secrets if len(path) > 1 else secrets):
        name = path[1] if len(path) > 1 else secrets[0]
        yield f"the input '{name}' is secret and cannot be part of {use.shown}", "use it in vars"


def _secret(file: WorkflowFile, step: StepPart, path: Path) -> Iterator[Found]:
    given = file.secrets_of(step)
    if len(path) > 1 and path[1] not in given:
        if path[1] in file.secrets:
            yield f"the step does not get the secret '{path[1]}'", "add it to the step's 'secrets'"
        else:
            hint = did_you_mean(path[1], given) or "the workflow's key 'secrets' has the names of those that it needs"
            yield f"unknown secret '{path[1]}'", hint


def _steps(file: WorkflowFile, use: Use, path: Path) -> Iterator[Found]:
    earlier = _earlier(file, use)
    if order := _order(file, use, path[1]):
        yield order
    elif path[1] not in [step.name for step in earlier]:
        yield f"unknown step '{path[1]}'", did_you_mean(path[1], [step.name for step in earlier])
    elif len(path) > 2 and path[2] not in _OF_STEP:
        yield f"steps.{path[1]} has no '{path[2]}'", did_you_mean(path[2], _OF_STEP)


def _outputs(file: WorkflowFile, use: Use, path: Path) -> Iterator[Found]:
    earlier = _earlier(file, use)
    keys = [_keys(step) for step in earlier]
    named = next((step for step in earlier if step.name == path[1]), None)
    if named is not None:
        valid = _keys(named)
        at = 3 if named.axes else 2
        if valid is not None and len(path) > at and path[at] not in valid:
            yield f"the step '{named.name}' has no output '{path[at]}'", did_you_mean(path[at], valid)
    elif order := _order(file, use, path[1]):
        yield order
    elif not earlier:
        yield f"there is no output '{path[1]}'", "no step before this one could have set it"
    elif None not in keys:
        known = [key for some in keys for key in some or ()]
        if path[1] not in known:
            hint = did_you_mean(path[1], [*known, *(step.name for step in earlier)])
            yield f"no earlier step declares an output '{path[1]}'", hint


def _order(file: WorkflowFile, use: Use, name: str) -> Found | None:
    """A fault when the name is the step's own or a later step's."""
    if use.step is None or name not in [step.name for step in file.steps if step.position >= use.step.position]:
        return None
    if name in [step.name for step in _earlier(file, use)]:
        return None
    if name == use.step.name:
        return f"the step '{name}' reads itself", "it can read what earlier steps have left"
    return f"the step '{name}' comes later", f"move it before '{use.step.name}'"


def _earlier(file: WorkflowFile, use: Use) -> list[StepPart]:
    """The steps that have ended when the expression is evaluated."""
    own_announcement = use.step is not None and "announce" in use.loc
    return [
        step
        for step in file.steps
        if step.name
        and (use.step is None or step.position < use.step.position or (own_announcement and step == use.step))
    ]


def _keys(step: StepPart) -> list[str] | None:
    """The outputs that the step can have; None when that is open."""
    if step.kind == "approval":
        return [*_OF_APPROVAL, *(step.declared or ())]
    if step.kind == "wait_for" and step.declared is not None:
        return ["timed_out", *step.declared]
    return step.declared
