"""How the constants of a captured network are computed from the parameters and buffers of its module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor or number that depends on no image: its present value, and the node that computes it again."""

    value: Any
    node: fx.Node


class Constants:
    """Computes constants and records how, so that the same can be done later with other parameters."""

    def __init__(self) -> None:
        self.graph, self.literals = fx.Graph(), torch.nn.Module()
        self.sources: list[str] = []  # parameters and buffers, in the order of the graph's placeholders

    def source(self, name: str, value: Tensor) -> Constant:
        """A parameter or buffer of the module."""
        self.sources.append(name)
        return Constant(value, self.graph.placeholder(f"source_{len(self.sources)}"))

    def literal(self, value: Any) -> Constant:
        """A tensor, or a number, that depends on no parameter."""
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
        name = f"literal_{len(self.literals._buffers)}"
        self.literals.register_buffer(name, tensor)
        return Constant(tensor, self.graph.get_attr(name))

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Constant:
        """The value of `function` for constants and plain values."""
        now = [map_constants(a, lambda c: c.value) for a in (arguments, options)]
        nodes = [map_constants(a, lambda c: c.node) for a in (arguments, options)]
        return Constant(function(*now[0], **now[1]), self.graph.call_function(function, tuple(nodes[0]), nodes[1]))

    def program(self, needed: Sequence[Constant]) -> Callable[..., tuple[Tensor, ...]]:
        """One function that computes the values of `needed` from the values of the sources."""
        self.graph.output(tuple(constant.node for constant in needed))
        self.graph.eliminate_dead_code()
        return fx.GraphModule(self.literals, self.graph).forward


def map_constants(value: Any, change: Callable[[Constant], Any]) -> Any:
    """`value` with every Constant in its lists, tuples and dictionaries replaced by `change` of it."""
    if isinstance(value, Constant):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_constants(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_constants(item, change) for item in value)
    return value
