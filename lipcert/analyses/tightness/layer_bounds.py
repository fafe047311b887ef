"""A network's proved norms, layer by layer, beside the bounds of them that others use."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen import Network
from lipcert.frozen.lipschitz import Measure, Walk, proved
from lipcert.frozen.report import layer_rows
from lipcert.norms import Convolution, Operator, matrix_norm
from lipcert.norms.comparison import parseval_norm, peck_norm


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


MEASURES: dict[str, Measure] = {"proved": proved, "corollary1": corollary1, "parseval": parseval, "peck": peck}


def layer_bounds(network: Network) -> list[dict[str, Any]]:
    """A row a linear layer: its name, its l2 norm by each of `MEASURES`, and what the proved ones join to up to there.
    The last row is of the whole network. Each number is an upper bound of the truth.
    """
    walks = {name: Walk(network, Norm.L2, measure) for name, measure in MEASURES.items()}
    ends = {name: walk.constant(len(network.operations)) for name, walk in walks.items()}
    tables = {name: layer_rows(walk) for name, walk in walks.items()}
    rows = [
        {
            "layer": own["layer"],
            **{name: table[i]["norm"] for name, table in tables.items()},
            "upto": own["lipschitz"],
        }
        for i, own in enumerate(tables["proved"])
    ]
    return [*rows, {"layer": "network", **ends, "upto": ends["proved"]}]
