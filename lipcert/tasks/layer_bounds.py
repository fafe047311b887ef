"""A network's proved norms, layer by layer, beside the bounds of them that others use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.bounds import Convolution, Operator, Walk, image_signal, matrix_norm
from lipcert.bounds.comparison import parseval_norm, peck_norm
from lipcert.contracts import Norm


def proved(operator: Operator, norm: Norm) -> Tensor:
    return operator.norms(norm)


def corollary1(operator: Operator, norm: Norm) -> Tensor:
    return matrix_norm(operator.matrices()) * math.sqrt(operator.tiles()) * (1 + 2.0**-51)


def parseval(operator: Operator, norm: Norm) -> Tensor:
    if not isinstance(operator, Convolution):
        return matrix_norm(operator.matrices())
    return torch.stack([parseval_norm(kernel) for kernel in operator.weight.chunk(operator.groups)])


def peck(operator: Operator, norm: Norm) -> Tensor:
    if not isinstance(operator, Convolution):
        return matrix_norm(operator.matrices().flatten(1)[:, None])
    geometry = (operator.stride, operator.padding, operator.size, operator.dilation)
    return torch.stack([peck_norm(kernel, *geometry) for kernel in operator.weight.chunk(operator.groups)])


MEASURES: dict[str, Callable[[Operator, Norm], Tensor]] = {
    "proved": proved,
    "corollary1": corollary1,
    "parseval": parseval,
    "peck": peck,
}


def layer_bounds(network: nn.Module, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """A row a linear layer: its name, its l2 norm by each of `MEASURES`, and what the proved ones join to up to there.
    The last row is of the whole network. Each number is an upper bound of the truth.
    """
    walks = {name: Walk(measure=measure) for name, measure in MEASURES.items()}
    ends = {name: float(walk(network, image_signal(shape)).lipschitz.max()) for name, walk in walks.items()}
    rows = [
        {
            "layer": own["layer"],
            **{name: walk.rows[i]["norm"] for name, walk in walks.items()},
            "upto": own["lipschitz"],
        }
        for i, own in enumerate(walks["proved"].rows)
    ]
    return [*rows, {"layer": "network", **ends, "upto": ends["proved"]}]
