"""The result of a capture: operations whose constants are functions of a module's parameters and buffers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.frozen.capture import activations, arithmetic, joins, layers, linear, moves, pooling
from lipcert.frozen.capture.export import export
from lipcert.frozen.capture.lowering import RULES, Lowering, Step
from lipcert.frozen.capture.refusals import Refused, operation_name
from lipcert.frozen.operation import Operation, Shape

TABLES = (activations, arithmetic, joins, layers, linear, moves, pooling)  # importing them fills the rules


@dataclass(frozen=True)
class Program:
    """The operations of a network on images of `shape`, and the function that computes their constants.

    sources    the names of the parameters and buffers that the constants depend on
    compute    the function of their values that returns the values of all constants
    steps      for each operation its class, its plain fields, and the place of each constant among those values
    """

    shape: Shape
    sources: tuple[str, ...]
    compute: Callable[..., tuple[Tensor, ...]]
    steps: tuple[tuple[type[Operation], dict[str, Any], dict[str, int | None]], ...]

    def operations(self, state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> tuple[Operation, ...]:
        """The operations, with constants that are computed from `state`: the parameters and buffers by name.

        `dtype` is the precision of the constants; None leaves them in that of the state.
        """
        values = self.compute(*(state[name] for name in self.sources))
        if dtype is not None:
            values = tuple(v.to(dtype) if v.is_floating_point() else v for v in values)
        return tuple(
            kind(**fields, **{name: None if at is None else values[at] for name, at in places.items()})  # type: ignore
            for kind, fields, places in self.steps
        )

    @cached_property
    def normalisations(self) -> frozenset[str]:
        """The names of the modules that keep running statistics."""
        owners = (name.rpartition(".") for name in self.sources)
        return frozenset(owner for owner, _, last in owners if last in ("running_mean", "running_var"))


def capture(module: nn.Module, shape: Shape, dtype: torch.dtype) -> Program:
    """The Program of a module in evaluation mode on images of `shape`; its parameters are in `dtype`.

    Raises Refused, which names the layer and the way out, where the module computes what is not in the table of
    operations.
    """
    exported = export(module, shape, dtype, {*RULES, "sym_size", operation_name(operator.getitem)})
    lowering = Lowering(exported, shape)
    logits = lowering.run()
    if len(logits.shape) != 1:
        raise Refused(f"a network returns logits (K,) for each image, this module {logits.shape}: add flatten(1)")
    if logits.number == 0:
        raise Refused("the module returns its image and computes nothing")
    steps = live(lowering.steps, logits.number)
    needed = list(dict.fromkeys(c for step in steps for c in step.constants.values() if c is not None))
    place = {id(constant): at for at, constant in enumerate(needed)}
    bound = []
    for step in steps:
        fields = {"inputs": step.inputs, "shape": step.shape, "name": step.name, **step.attributes}
        places = {name: None if c is None else place[id(c)] for name, c in step.constants.items()}
        bound.append((step.kind, fields, places))
    compute = lowering.constants.program(needed)
    return Program(tuple(shape), tuple(lowering.constants.sources), compute, tuple(bound))


def live(steps: list[Step], last: int) -> list[Step]:
    """The steps that the value `last` depends on, numbered anew."""
    needed = {last}
    for number in range(last, 0, -1):
        if number in needed:
            needed |= set(steps[number - 1].inputs)
    order = {number: k for k, number in enumerate(sorted(needed | {0}))}
    return [replace(steps[n - 1], inputs=tuple(order[i] for i in steps[n - 1].inputs)) for n in sorted(needed - {0})]
