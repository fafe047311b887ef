"""How fast differences of logits move: what radii rest on, and the bounds that it is the smallest of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.operation import UP
from lipcert.frozen.ops.affine import length

BOUNDS = ("vector", "logits", "rows")
ENTRIES = 1 << 24  # functionals are pulled back while all of them have no more entries than this


@dataclass(frozen=True)
class PairBounds:
    """Bounds of how fast y_t − y_i moves while the image moves by 1, each (K, K) and 0 on the diagonal.

    vector  √2·L in l2, 2·L in l∞, L in l1, where the vector of logits is L-Lipschitz (Tsuzuku et al., 2018, Prop. 1)
    logits  L_t + L_i, each logit with its own constant
    rows    of the difference itself: the dual norm of w_t − w_i times what the last linear layer sees (Prop. 2), or of
            what these functionals are further back in the network

    `of_vector` is the constant of the logits as one vector, `of_logits` (K,) those of each.
    """

    of_vector: float
    of_logits: Tensor
    matrices: dict[str, Tensor] = field(default_factory=dict)

    def smallest(self, bounds: Sequence[str] = BOUNDS) -> Tensor:
        """Pair by pair the smallest of the bounds named, (K, K)."""
        return torch.stack([self.matrices[name] for name in bounds]).amin(0)

    def winners(self, bounds: Sequence[str] = BOUNDS) -> dict[str, int]:
        """For how many pairs each of the bounds named is the smallest; the first of equals counts."""
        classes = len(self.of_logits)
        first, second = torch.triu_indices(classes, classes, 1)
        best = torch.stack([self.matrices[name][first, second] for name in bounds]).argmin(0)
        return {name: int((best == k).sum()) for k, name in enumerate(bounds)}


def pair_bounds(walk: Walk, bounds: Sequence[str] = BOUNDS) -> PairBounds:
    """The bounds named, of a network's logits, by `walk`."""
    last = len(walk.network.operations)
    classes = walk.shape(last)[0]
    identity = torch.eye(classes, dtype=torch.float64)
    vector = walk.constant(last)
    logits = functionals(walk, last, identity, torch.zeros_like(identity))
    found = PairBounds(vector, logits)
    both = {Norm.L2: math.sqrt(2) * UP, Norm.LINF: 2.0, Norm.L1: 1.0}[walk.norm]
    off = 1 - identity
    if "vector" in bounds:
        found.matrices["vector"] = vector * both * UP * off
    if "logits" in bounds:
        found.matrices["logits"] = (logits[:, None] + logits) * UP * off
    if "rows" in bounds:
        rows = torch.zeros(classes, classes, dtype=torch.float64)
        for t in range(classes - 1):
            differences = identity[t] - identity[t + 1 :]
            rows[t, t + 1 :] = functionals(walk, last, differences, torch.zeros_like(differences))
        found.matrices["rows"] = rows + rows.T
    return found


def functionals(walk: Walk, value: int, weights: Tensor, errors: Tensor) -> Tensor:
    """(R,): how fast each ⟨weights_r, value⟩ moves: the least, over all places on the way back through operations that
    are affine in one input, of the dual norm of the weights times what the entries that they see move by.

    `errors` bounds by how much rounding may have falsified the weights; where both are 0, they surely are.
    """
    size = (weights.abs() + errors).flatten(1) * UP
    supports, which = (size > 0).unique(dim=0, return_inverse=True)
    shape = walk.shape(value)
    moved = torch.tensor([float(walk.constant(value, s.view(shape))) for s in supports], dtype=torch.float64)[which]
    dual = torch.tensor([length(row, DUAL[walk.norm]) for row in size], dtype=torch.float64)
    best = torch.where((dual > 0) & (moved > 0), (dual * moved * UP).clamp_min(2.0**-1022), 0.0)
    operation = walk.operation(value)
    if operation is None or len(operation.inputs) != 1:
        return best
    (before,) = operation.inputs
    if len(weights) * math.prod(walk.shape(before)) > ENTRIES:
        return best
    pulled = operation.pull_back(walk.shape(before), weights, errors)
    return best if pulled is None else torch.minimum(best, functionals(walk, before, *pulled))


DUAL = {Norm.L2: Norm.L2, Norm.LINF: Norm.L1, Norm.L1: Norm.LINF}
