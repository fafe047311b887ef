"""A network without its activations: the product of its weight matrices, joined as it joins them. A diagnostic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lipcert.frozen.gradients import jacobians
from lipcert.frozen.network import Network
from lipcert.frozen.operation import Operation
from lipcert.frozen.ops.joins import Concatenate, MinMax
from lipcert.frozen.ops.moves import Reshape
from lipcert.frozen.ops.pointwise import LeakyReLU, Pointwise


def linearised(network: Network) -> Network:
    """The network with every nonlinear function of one entry, and every sorting of pairs, replaced by the identity."""

    def linear(operation: Operation) -> Operation:
        plain: dict[str, Any] = {"inputs": operation.inputs, "shape": operation.shape, "name": operation.name}
        if isinstance(operation, Pointwise | LeakyReLU):
            return Reshape(**plain)
        return Concatenate(**plain, axis=operation.axis) if isinstance(operation, MinMax) else operation

    return replace(network, operations=tuple(linear(operation) for operation in network.operations))


def linearised_norm(network: Network) -> float:
    """The spectral norm of `linearised(network)`, a float64 network, on one image.

    Finlay, Oberman & Abbasi (2018, Lemma 3.3) take it to bound ‖J‖₂ of the network. It does not: [1, −1]·[1; 1] is 0,
    and with a ReLU between them the slope is 1 wherever just one of the two units is on. ValueError where what is left
    is not linear: max-pooling, say.
    """
    plain = linearised(network)
    images = torch.rand(2, *network.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    here, there = jacobians(plain, images)[1]
    if not torch.allclose(here, there, rtol=1e-9, atol=1e-12):
        raise ValueError("the network is not linear without its activations: it has no product of weights")
    return float(torch.linalg.matrix_norm(here, 2))
