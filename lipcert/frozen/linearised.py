"""A network without its activations: the product of its weight matrices, joined as it joins them. A diagnostic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from lipcert.frozen.network import Network
from lipcert.frozen.operation import Operation
from lipcert.frozen.ops.joins import Concatenate, MinMax
from lipcert.frozen.ops.moves import Reshape
from lipcert.frozen.ops.pointwise import LeakyReLU, Pointwise
from lipcert.frozen.training import LiveNetwork

Either = TypeVar("Either", Network, LiveNetwork)


def linearised(network: Either) -> Either:
    """The network with every nonlinear function of one entry, and every sorting of pairs, replaced by the identity."""

    def linear(operation: Operation) -> Operation:
        plain: dict[str, Any] = {"inputs": operation.inputs, "shape": operation.shape, "name": operation.name}
        if isinstance(operation, Pointwise | LeakyReLU):
            return Reshape(**plain)
        return Concatenate(**plain, axis=operation.axis) if isinstance(operation, MinMax) else operation

    return replace(network, operations=tuple(linear(operation) for operation in network.operations))


def evaluated(operations: Sequence[Operation], images: Tensor) -> Tensor:
    """The value (B, K) of the last operation at images (B, *shape), differentiable by images and constants."""
    values = [images]
    for operation in operations:
        values.append(operation.evaluate(*(values[i] for i in operation.inputs)))
    return values[-1]
