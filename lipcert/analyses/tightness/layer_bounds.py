"""A network's proved norms, layer by layer, beside the bounds of them that others use."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lipcert.analyses.tightness.pools import pool_bounds, pools_in
from lipcert.contracts import Norm
from lipcert.frozen import Network
from lipcert.frozen.lipschitz import Measure, Walk, proved
from lipcert.frozen.ops.convolution import Convolution as ConvolutionLayer
from lipcert.frozen.ops.linear import Linear
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
    """A row a layer: its name, its l2 norm by each of `MEASURES`, and `upto`, what the proved ones join to up to there.

    The layers are the linear ones and those that pool or average, in the order of evaluation. Rows of the latter have
    the keys of `pools.pool_bounds`. The last row is of the whole network, to which pooling counts as proved in every
    measure. Each number but `reached` is an upper bound of the truth.
    """
    walks = {name: Walk(network, Norm.L2, measure) for name, measure in MEASURES.items()}
    ends = {name: walk.constant(len(network.operations)) for name, walk in walks.items()}
    tables = {name: layer_rows(walk) for name, walk in walks.items()}
    linear = [k for k, o in enumerate(network.operations, 1) if isinstance(o, Linear | ConvolutionLayer)]
    rows: dict[int, dict[str, Any]] = {}
    for i, (number, own) in enumerate(zip(linear, tables["proved"], strict=True)):
        norms = {name: table[i]["norm"] for name, table in tables.items()}
        rows[number] = {"layer": own["layer"], **norms, "upto": own["lipschitz"]}
    for first, last in pools_in(network):
        name = network.operations[first - 1].name or f"operation {first}"
        bounds = pool_bounds(network, first, last)
        rows[first] = {"layer": name, **bounds, "upto": walks["proved"].constant(last)}
    return [*(rows[number] for number in sorted(rows)), {"layer": "network", **ends, "upto": ends["proved"]}]
