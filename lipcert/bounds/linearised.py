"""A network without its activations: the product of its weight matrices, joined as it joins them. A diagnostic."""

from __future__ import annotations

import copy

import torch
from torch import nn

from lipcert.bounds.gradients import jacobians
from lipcert.layers import MinMax, ScaledTanh

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.Softplus,
    nn.Sigmoid,
    nn.Tanh,
    nn.GELU,
    nn.SiLU,
    MinMax,
    ScaledTanh,
)


def linearised(model: nn.Module) -> nn.Module:
    """A copy of `model` with every activation module replaced by the identity."""
    network = copy.deepcopy(model)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ACTIVATIONS):
                setattr(parent, name, nn.Identity())
    return network


def linearised_norm(model: nn.Module, shape: tuple[int, ...]) -> float:
    """The spectral norm of `linearised(model)`, a float64 network in evaluation, on one image of `shape`.

    Finlay, Oberman & Abbasi (2018, Lemma 3.3) take it to bound ‖J‖₂ of the network. It does not: [1, −1]·[1; 1] is 0,
    and with a ReLU between them the slope is 1 wherever just one of the two units is on. ValueError where what is left
    is not linear: max-pooling, say, or an activation that is called as a function.
    """
    network = linearised(model).cpu()
    images = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    here, there = jacobians(network, images)[1]
    if not torch.allclose(here, there, rtol=1e-9, atol=1e-12):
        raise ValueError(f"{type(model).__name__} is not linear without its activations: it has no product of weights")
    return float(torch.linalg.matrix_norm(here, 2))
