"""Two-sided nonlinearities: x ↦ (f(x), f(x) − x), which keep what f throws away (Qian & Wegman, ICLR 2019, §2.3).

For f nondecreasing with slope ≤ 1, |Δf| + |Δx − Δf| = |Δx|: nonexpansive in every l_p, and lossless in l1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.contracts import Signal


class TwoSidedReLU(nn.Module):
    """x ↦ (relu(x), relu(−x)) along `dim`, which doubles; with `groups`, a group of channels keeps its own halves."""

    def __init__(self, dim: int = 1, groups: int = 1):
        super().__init__()
        self.dim, self.groups = dim, groups

    def sides(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.relu(x), F.relu(-x)

    def forward(self, x: Tensor) -> Tensor:
        if self.groups == 1:
            return torch.cat(self.sides(x), self.dim)
        grouped = x.unflatten(self.dim, (self.groups, -1))
        return torch.cat(self.sides(grouped), self.dim + 1).flatten(self.dim, self.dim + 1)

    def widened(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        at = self.dim - 1  # `shape` has no batch axis
        return (*shape[:at], 2 * shape[at], *shape[at + 1 :])

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        return signal.after(self.widened(signal.shape))  # no rounding: each entry is kept or replaced by 0


class TwoSidedSigmoid(TwoSidedReLU):
    """x ↦ (s(x), s(x) − x) with s(x) = t·sigmoid(4x/t), t > 0 trainable per entry of `dim`: slope at most 1 (eq. 8)."""

    def __init__(self, features: int, dim: int = 1, groups: int = 1, t: float = 1.0):
        super().__init__(dim, groups)
        if t <= 0:
            raise ValueError(f"`t` must be positive, got {t}")
        self.raw_t = nn.Parameter(torch.full((features,), math.log(t)))

    def sides(self, x: Tensor) -> tuple[Tensor, Tensor]:
        axes = [1] * x.dim()
        at = self.dim if self.groups == 1 else self.dim + 1
        axes[at] = -1
        if self.groups > 1:
            axes[self.dim] = self.groups
        t = self.raw_t.exp().view(axes)
        s = t * torch.sigmoid(4 * x / t)
        return s, s - x

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        # s(0) = t/2 on both sides. exp, division, sigmoid, products and the difference: fewer than 16 roundings, each
        # relative to a size below |x| + 2t.
        entries = math.prod(signal.shape) / self.raw_t.numel()
        t = float(self.raw_t.detach().exp().norm()) * math.sqrt(entries)
        return signal.after(self.widened(signal.shape), offset=t, roundings=16, local=signal.rounding(32) * t)


NONLINEARITIES = ("two_sided_relu", "two_sided_sigmoid", "relu")


def nonlinearity(kind: str, features: int, dim: int = 1, groups: int = 1) -> tuple[nn.Module, int]:
    """The nonlinearity of that name behind `features` entries of `dim` (a group), and how many entries it gives."""
    if kind == "relu":
        return nn.ReLU(), features
    if kind == "two_sided_relu":
        return TwoSidedReLU(dim, groups), 2 * features
    if kind == "two_sided_sigmoid":
        return TwoSidedSigmoid(features, dim, groups), 2 * features
    raise ValueError(f"`model.activation` must be one of {', '.join(NONLINEARITIES)}, got {kind!r}")
