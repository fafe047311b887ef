"""Lipschitz constants of differences of logits, which certified radii are computed from."""

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
ENTRIES = 1 << 24  # functionals are pulled back as long as they have no more entries than this together


@dataclass(frozen=True)
class PairBounds:
    """Lipschitz constants of y_t − y_i, in `matrices` by the name of the bound, each (K, K) and 0 on the diagonal.

    vector  √2·L in l2, 2·L in l∞, L in l1, if L is the constant of the vector of logits (Tsuzuku et al., NeurIPS 2018,
            Proposition 1)
    logits  L_t + L_i, each logit with its own constant
    rows    of the difference as one functional: the dual norm of w_t − w_i times the constant of the input of the last
            linear layer (Proposition 2), or the same of the functional pulled back further

    `of_vector` is the constant of the logits as one vector; `of_logits` (K,) has that of each logit.
    """

    of_vector: float
    of_logits: Tensor
    matrices: dict[str, Tensor] = field(default_factory=dict)

    def smallest(self, bounds: Sequence[str] = BOUNDS) -> Tensor:
        """For each pair the smallest of the named bounds, (K, K)."""
        return torch.stack([self.matrices[name] for name in bounds]).amin(0)

    def winners(self, bounds: Sequence[str] = BOUNDS) -> dict[str, int]:
        """For how many pairs each of the named bounds is the smallest; of equal bounds the first one counts."""
        classes = len(self.of_logits)
        first, second = torch.triu_indices(classes, classes, 1)
        best = torch.stack([self.matrices[name][first, second] for name in bounds]).argmin(0)
        return {name: int((best == k).sum()) for k, name in enumerate(bounds)}


def pair_bounds(walk: Walk, bounds: Sequence[str] = BOUNDS) -> PairBounds:
    """The named bounds of the differences of logits of the network that `walk` is on."""
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
    """Lipschitz constants (R,) of the functionals ⟨weights_r, value⟩, for weights of (R, *shape).

    The functionals are pulled back through all operations that are affine in one input. The result is the smallest,
    over the values on the way, of the dual norm of the weights times the constant of the entries with nonzero weights.
    `errors` bounds the rounding error of the weights; a weight is surely 0 where both are 0.
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
