"""Questions about an exported graph that have nothing to do with what its nodes become."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from lipcert.frozen.capture.refusals import operation_name


def whole_again(graph: fx.Graph) -> None:
    """Joins the parts of soft shrinking, which torch.export writes as several steps that jump, into one operation."""

    def inputs(node: Any, name: str, count: int = 2) -> tuple[Any, ...]:
        named = isinstance(node, fx.Node) and node.op == "call_function" and operation_name(node.target) == name
        return tuple(node.args) if named and len(node.args) == count else (None,) * count

    for node in graph.nodes:
        condition, moved, nothing = inputs(node, "where", 3)
        (size, cut), (x, shift) = inputs(condition, "gt"), inputs(moved, "sub")
        sign, same_cut = inputs(shift, "mul")
        zero = inputs(nothing, "mul") == (x, 0)
        same = zero and cut == same_cut and inputs(size, "abs", 1) == inputs(sign, "sign", 1) == (x,)
        if same and isinstance(cut, float):
            node.target, node.args = torch.ops.aten.softshrink.default, (x, cut)


def needed(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that the result of a graph depends on, and the image's, in the order of the graph."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op in ("output", "placeholder") or node in found:
            found |= {node, *node.all_input_nodes}
    return [node for node in graph.nodes if node in found]


def results_of(node: fx.Node) -> list[Tensor]:
    """The tensors that a node computes, as torch.export describes them: symbols in place of numbers."""
    described = node.meta.get("val")
    several = described if isinstance(described, list | tuple) else [described]
    return [v for v in several if isinstance(v, Tensor) and tuple(v.shape) != (0,)]


def in_order(target: Any, args: list[Any], options: dict[str, Any]) -> list[Any]:
    """All positional arguments of an operation: those given, those removed from `options`, and defaults."""
    schema = [a for a in target._schema.arguments if not a.kwarg_only]
    given = list(args)
    for argument in schema[len(args) :]:
        default = argument.default_value if argument.has_default_value() else None
        given.append(options.pop(argument.name, default))
    return given


def same_size(a: Any, b: Any) -> bool:
    """Whether two sizes are one and the same symbol. A size that is a fixed number is no symbol."""
    if isinstance(a, int) or isinstance(b, int):
        return False
    return a.node.expr == b.node.expr
