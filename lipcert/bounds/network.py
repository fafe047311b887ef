"""The bound as a tool by itself, for any network of known parts."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn

from lipcert.bounds.calculus import Walk, image_signal, note_costs
from lipcert.contracts import Norm
from lipcert.layers import fold


class LipschitzBound(NamedTuple):
    """The outputs move by at most `lipschitz` while the input moves by 1. `layers` has a row a linear layer: `layer`,
    its operator `norm`, the bound up to it (`lipschitz`), and its `cost`: the bound over what it would be at norm 1."""

    lipschitz: float
    layers: list[dict[str, Any]]


def lipschitz_bound(model: nn.Module, input_shape: tuple[int, ...], norm: str = "l2") -> LipschitzBound:
    """A proved bound of how far the outputs of `model`, in evaluation, move while one input of `input_shape` (no batch
    axis) moves, both in `norm`: l2 or linf. Measured on a copy in float64, rounded up.

    ValueError, naming it, where a module or an operation has no rule.
    """
    network = fold(copy.deepcopy(model).cpu().double().eval())
    walk, start = Walk(), image_signal(tuple(input_shape), norm=Norm(norm))
    with torch.no_grad():
        lipschitz = walk(network, start).merged().lipschitz
        note_costs(walk.rows, walk, network, start)
    return LipschitzBound(float(lipschitz), walk.rows)
