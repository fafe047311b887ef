"""The bound layer by layer: the norm of each linear layer, the bound up to it, and its share in the whole bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.lipschitz import Walk, proved
from lipcert.frozen.operation import UP, Operation
from lipcert.frozen.ops.affine import Affine, per_row
from lipcert.frozen.ops.convolution import Convolution
from lipcert.frozen.ops.linear import Linear
from lipcert.frozen.training import TensorWalk
from lipcert.norms import Matrices, Operator, matrix_norm

TOLERANCE = 1e-8  # relative; a norm of 1 + 1e-12 where 1 is claimed is a rounding error, not a broken claim


class ClaimedWalk(Walk):
    """The walk with the norms that layers claim by their construction, where these are larger than those measured."""

    def measured(
        self, value: int, group: int | None, rows: Tensor | None, operator: Callable[[], Operator], fused: int = 0
    ) -> float:
        norm = super().measured(value, group, rows, operator, fused)
        claim = self.network.operations[value - 1].claim
        if not claim or fused:
            return norm
        if len(claim) > 1 and group is None:  # one for each block of rows; the norms of blocks add up in l2
            claims = torch.tensor(claim, dtype=torch.float64)
            kept = claims if rows is None else claims[rows.view(len(claim), -1).any(1)]
            return max(norm, float(kept.norm()) * UP)
        return max(norm, claim[group or 0])


class _CostWalk(TensorWalk):
    """The walk with norms that are already measured, each of which the result can be differentiated by."""

    def __init__(self, walk: Walk):
        super().__init__(walk.network, walk.norm, walk.measure)
        self.walk = walk
        self.gains: dict[int, list[Tensor]] = {}

    def computed(self, key: tuple, operator: Callable[[], Operator]) -> Tensor:
        norm = torch.tensor(self.walk.once(key, operator), dtype=torch.float64, requires_grad=True)
        self.gains.setdefault(key[0], []).append(norm)
        return norm

    def fixed(self, value: int, operator: Callable[[], Operator]) -> float:
        return self.walk.fixed(value, operator)


def layer_rows(walk: Walk) -> list[dict[str, Any]]:
    """A row for each linear layer of the network that `walk` is on, in the order of evaluation.

    layer         its name; `a+b` if the scaling b after it is measured with it as one operator
    norm          its operator norm, the largest of its groups
    lipschitz     the constant of all its outputs as one vector
    cost          the factor by which the constant of the logits would be smaller if the norm of this layer were 1
    claim         the norm that its construction promises; this and the next two only where there is one
    gram_slack    claim over the best claim for the reshaped weight: the loss to bounding a norm by the Gram matrix
    tiling_slack  that best claim over the norm: the loss to treating a convolution as tiles of a matrix

    Raises ValueError, which names the layer, where a norm is larger than the layer claims.
    """
    costs = layer_costs(walk)
    rows = []
    for number, operation in enumerate(walk.network.operations, 1):
        if not isinstance(operation, Linear | Convolution):
            continue
        name, behind = operation.name or f"operation {number}", scaled_behind(walk, number)
        if behind:
            name = f"{name}+{walk.network.operations[behind - 1].name.rpartition('.')[2]}"
        row: dict[str, Any] = {"layer": name, "norm": 0.0, "lipschitz": walk.constant(behind or number)}
        norms = group_norms(walk, number, operation, fused=behind or 0)
        row["norm"] = max(norms)
        if operation.claim and not behind and walk.measure is proved:
            row |= claimed_row(operation, name, norms, walk.norm)
        if number in costs:
            row["cost"] = costs[number]
        rows.append(row)
    return rows


def scaled_behind(walk: Walk, number: int) -> int | None:
    """The operation that scales a layer's rows, if nothing else reads the layer: both are measured as one operator."""
    users = [(k, o) for k, o in enumerate(walk.network.operations, 1) if number in o.inputs]
    if len(users) != 1:
        return None
    k, affine = users[0]
    if not isinstance(affine, Affine) or affine.scale is None:
        return None
    return k if per_row(affine.scale, affine.shape, walk.network.operations[number - 1]) is not None else None


def operator_of(operation: Operation) -> Operator:
    """The linear operator of a layer, with one map for each group, or for each block of rows that has its own claim."""
    if isinstance(operation, Convolution):
        return operation.operator(operation.weight, operation.groups)
    assert isinstance(operation, Linear)
    if operation.weight.dim() == 2 and len(operation.claim) > 1:
        return Matrices(operation.weight.view(len(operation.claim), -1, operation.weight.shape[1]))
    return operation.matrices


def group_norms(walk: Walk, number: int, operation: Operation, fused: int) -> list[float]:
    """The norms of a layer's groups, which the walk has measured, or of the blocks of rows with their own claims."""
    if isinstance(operation, Linear) and operation.weight.dim() == 2 and len(operation.claim) > 1:
        return [n * UP for n in walk.measure(operator_of(operation), walk.norm).tolist()]
    return [norm for key, norm in walk.norms.items() if key[0] == number and key[2:] == (None, fused)]


def claimed_row(operation: Operation, name: str, norms: list[float], norm: Norm) -> dict[str, float]:
    """The columns of a layer with a claim; raises ValueError where a norm is larger than the layer claims."""
    claim = list(operation.claim) * (len(norms) if len(operation.claim) == 1 else 1)
    excess, measured, due = max((n / c if c else math.inf, n, c) for n, c in zip(norms, claim, strict=True))
    if norm is Norm.L2 and not excess <= 1 + TOLERANCE:
        raise ValueError(
            f"layer `{name}` has operator norm {measured:.9g}, above the {due:.9g} it claims: nothing built on that "
            "claim can be certified"
        )
    operator = operator_of(operation)
    reshaped = matrix_norm(operator.matrices()) * math.sqrt(operator.tiles())  # the best claim of this kind for W
    claims, measures = torch.tensor(claim, dtype=torch.float64), torch.tensor(norms, dtype=torch.float64)
    return {
        "claim": max(claim),
        "gram_slack": float((claims / reshaped).max()),
        "tiling_slack": float((reshaped / measures).max()),
    }


def layer_costs(walk: Walk) -> dict[int, float]:
    """For each linear layer, the constant of the logits over what it would be if the layer's norm were 1. As the
    constant is a sum of products of norms, its derivatives are enough to compute that."""
    with torch.enable_grad():
        again = _CostWalk(walk)
        bound = again.constant(len(walk.network.operations))
        if not isinstance(bound, Tensor) or not again.gains:
            return {}
        gains = [(number, gain) for number, several in again.gains.items() for gain in several]
        slopes = torch.autograd.grad(bound, [gain for _, gain in gains], allow_unused=True)
    saved: dict[int, float] = {}
    for (number, gain), slope in zip(gains, slopes, strict=True):
        if slope is not None:
            saved[number] = saved.get(number, 0.0) + float(slope * (gain.detach() - 1))
    total = float(bound.detach())
    return {number: total / (total - part) if total > part else math.inf for number, part in saved.items()}
