"""What bounds and estimates need to know about a linear map; and matrices as such a map.

Convolutions are in `convolution_operators`. Each operator consists of `groups` maps side by side (one, except for
branches and grouped convolutions), and has one norm per group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.norms.matrix import largest_row_sum, matrix_norm
from lipcert.norms.power import MatrixStep, normalised
from lipcert.norms.rounding import UNIT, times_up


class Operator(Protocol):
    """x ↦ (W_g x_g)_g, linear. ValueError from any method where the fields describe no such map."""

    @property
    def weight(self) -> Tensor:
        """The parameters, in their own precision."""

    @property
    def groups(self) -> int:
        """The number G of maps side by side."""

    @property
    def domain(self) -> tuple[int, ...]:
        """The shape of one input, whose first axis is divided among the groups."""

    @property
    def fan_in(self) -> int:
        """The largest number of products that an output sums."""

    def matrices(self) -> Tensor:
        """The weight in float64 as (G, m, n): the map at each position, or its adjoint for a transposed convolution."""

    def tiles(self) -> int:
        """The number of positions that share an entry. The l2 norms are at most √tiles times those of `matrices`."""

    def scaled(self, rows: Tensor) -> Operator:
        """This map with each output channel (or feature) multiplied by its number in `rows`."""

    def norms(self, norm: Norm) -> Tensor:
        """The operator norms (G,) in `norm`: proved upper bounds in float64, inf for a weight that is not finite."""

    def apply(self, u: Tensor) -> Tensor:
        """The results of the map for a batch (B, *domain)."""

    def transpose(self, v: Tensor) -> Tensor:
        """The adjoint of `apply`, from a batch in the shape of its results to (B, *domain)."""

    def power_step(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """One step of power iteration from u of shape `domain`, in which each group's part has length 1.

        Returns (‖W_g u_g‖₂ (G,), differentiable in the weight; the u of the next step). Except for rounding, these
        lengths are at most the l2 norms.
        """


def growth(operator: Operator, norm: Norm, steps: int = 4) -> Tensor:
    """Upper bounds (G,) of the norms of |W|, the map of magnitudes, by which rounding errors grow in a product.

    In l1 and l_inf these are the operator norms of W; in l2 the smaller one of two bounds, ‖|W|‖₂ ≤ √(‖W‖₁·‖W‖_∞)
    (Higham, *Accuracy and Stability of Numerical Algorithms*, §6.2) and `_by_a_vector`, which is of all groups and
    takes some steps of power iteration.
    """
    if norm is not Norm.L2:
        return operator.norms(norm)
    schur = times_up(operator.norms(Norm.L1).sqrt(), operator.norms(Norm.LINF).sqrt())
    return torch.minimum(schur, _by_a_vector(operator, steps)) if steps else schur


def _by_a_vector(operator: Operator, steps: int) -> Tensor:
    """max_i √((|W|ᵀ|W|v)_i/v_i) ≥ ‖|W|‖₂ for any v > 0 (Collatz, 1942; Wielandt, 1950), here for vectors that power
    iteration finds; one number for all groups, and infinite where products of entries may underflow."""
    weight = operator.weight.detach().double().abs()
    most = float(weight.max()) if weight.numel() else 0.0
    best = weight.new_tensor(math.inf)
    if not 1e-290 < most < 1e290:
        return best
    sizes: Any = replace(operator, weight=weight / most)  # type: ignore[type-var]
    v = weight.new_ones(1, *operator.domain)
    for _ in range(steps):
        w = sizes.transpose(sizes.apply(v))
        best = torch.minimum(best, (w / v).max())
        v = w / w.max() + 1e-6
    terms = weight.numel() + v.numel()  # no sum has more
    best = times_up(best.sqrt() * (1 + 2 * (terms + 4) * UNIT), most)
    return best if float(best) > 1e-100 * most else weight.new_tensor(math.inf)


@dataclass(frozen=True)
class Matrices:
    """One matrix per group, on vectors (G, n): `weight` is (G, m, n)."""

    weight: Tensor

    @property
    def groups(self) -> int:
        return len(self.weight)

    @property
    def domain(self) -> tuple[int, ...]:
        return (self.groups, self.weight.shape[-1])

    @property
    def fan_in(self) -> int:
        return self.weight.shape[-1]

    def matrices(self) -> Tensor:
        return self.weight.detach().double()

    def tiles(self) -> int:
        return 1

    def scaled(self, rows: Tensor) -> Matrices:
        return replace(self, weight=self.weight * rows.view(self.groups, -1, 1))

    def norms(self, norm: Norm) -> Tensor:
        if norm is Norm.L2:
            return matrix_norm(self.weight)
        return largest_row_sum(self.weight if norm is Norm.LINF else self.weight.mT)

    def apply(self, u: Tensor) -> Tensor:
        return (self.weight @ u[..., None])[..., 0]

    def transpose(self, v: Tensor) -> Tensor:
        return (self.weight.mT @ v[..., None])[..., 0]

    def power_step(self, u: Tensor) -> tuple[Tensor, Tensor]:
        sigma, back = MatrixStep.apply(self.weight, u.clone()[..., None])
        return sigma, normalised(back[..., 0])
