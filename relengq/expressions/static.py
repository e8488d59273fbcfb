# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be said of an expression before it is evaluated: its names, and what it must not have."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from jinja2 import TemplateSyntaxError, nodes
from jinja2.visitor import NodeTransformer

from relengq.errors import did_you_mean
from relengq.expressions.sandbox import Sandbox

NESTING_LIMIT = 100
"""How deep an expression's parts may be nested."""

Path = tuple[str, ...]

_REGEX = frozenset(("regex_search", "regex_replace", "match", "search"))
_APPLIERS = frozenset(("map", "select", "reject", "selectattr", "rejectattr"))


def prepare(sandbox: Sandbox, expression: nodes.Expr) -> nodes.Expr:
    """Check the expression's parts and put metered ones in place of those that could not be metered.

    Raises TemplateSyntaxError for what is unknown, not allowed, or nested too deep.
    """
    for node in _walk(expression):
        if isinstance(node, nodes.Filter):
            _known("filter", node.name, sandbox.filters, node.lineno)
            _check_arguments(node)
        elif isinstance(node, nodes.Test):
            _known("test", node.name, sandbox.tests, node.lineno)
            _check_arguments(node)
        elif isinstance(node, nodes.Call) and (node.dyn_args or node.dyn_kwargs):
            raise TemplateSyntaxError("a call with * or ** is not allowed", node.lineno)
    return _Metered().visit(expression)  # type: ignore[no-any-return]


class _Metered(NodeTransformer):
    """Puts what counts what it makes, or looks at, in place of what would be plain Python."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802  # the names are Jinja2's
        """``a ~ b`` becomes the ``join`` filter."""
        self.generic_visit(node)
        items = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(items, "join", [], [], None, None, lineno=node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        """``a < b`` becomes a call of ``Sandbox.compare``."""
        self.generic_visit(node)
        rest = [part for operand in node.ops for part in (nodes.Const(operand.op), operand.expr)]
        return _call("compare", [node.expr, *rest], node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """``a[1:2]`` becomes a call of ``Sandbox.part``."""
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _call("part", [node.node, *(bound or nodes.Const(None) for bound in bounds)], node.lineno)


def _call(name: str, values: list[nodes.Expr], line: int) -> nodes.Node:
    function = nodes.EnvironmentAttribute(name, lineno=line)
    return nodes.Call(function, values, [], None, None, lineno=line)


def paths(expression: nodes.Expr) -> tuple[Path, ...]:
    """The dotted names that the expression reads, each as far as the text tells, without what it calls."""
    found: dict[Path, None] = {}
    pending: list[nodes.Node] = [expression]
    while pending:
        node = pending.pop()
        if isinstance(node, nodes.Call):
            pending += [*node.args, *node.kwargs]
            if isinstance(node.node, nodes.Getattr):
                pending.append(node.node.node)
            elif not isinstance(node.node, nodes.Name):
                pending.append(node.node)
            continue
        path = _path(node)
        if path is not None:
            found[path] = None
        else:
            pending += node.iter_child_nodes()
    return tuple(reversed(found))


def _path(node: nodes.Node) -> Path | None:
    """The dotted name that the node is; None when it is anything else, or when only values tell a part."""
    parts: list[str] = []
    while True:
        if isinstance(node, nodes.Name):
            return (node.name, *reversed(parts))
        if isinstance(node, nodes.Getattr):
            parts.append(node.attr)
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
            parts.append(str(node.arg.value))
        else:
            return None
        node = node.node


def _walk(root: nodes.Node) -> Iterator[nodes.Node]:
    pending = [(root, 1)]
    while pending:
        node, depth = pending.pop()
        if depth > NESTING_LIMIT:
            raise TemplateSyntaxError(f"it is nested deeper than the limit of {NESTING_LIMIT}", node.lineno)
        yield node
        pending += [(child, depth + 1) for child in node.iter_child_nodes()]


def _known(kind: str, name: str, known: Collection[str], line: int) -> None:
    if name not in known:
        hint = did_you_mean(name, known)
        raise TemplateSyntaxError(f"unknown {kind} '{name}'" + (f" ({hint})" if hint else ""), line)


def _check_arguments(node: nodes.Filter | nodes.Test) -> None:
    """A pattern, and the name of a filter that is mapped, stand in the file: they are never a value's."""
    values = [arg.value if isinstance(arg, nodes.Const) else None for arg in node.args]
    fixed = all(isinstance(arg, nodes.Const) for arg in node.args)
    applied = node.name in _APPLIERS and node.args
    named = {"selectattr": 1, "rejectattr": 1}.get(node.name, 0)
    if applied and len(values) > named and values[named] is None:
        raise TemplateSyntaxError(f"'{node.name}' needs the name that it applies in quotes", node.lineno)
    if (node.name in _REGEX or (applied and _REGEX.intersection(map(str, values)))) and not fixed:
        raise TemplateSyntaxError("a regular expression must stand in quotes, not come from a value", node.lineno)
