"""Two-sided nonlinearities x ↦ (f(x), f(x) − x), which lose no information (Qian & Wegman, ICLR 2019, §2.3).

For a nondecreasing f with slope ≤ 1, |Δf| + |Δx − Δf| = |Δx|: they are nonexpansive in every l_p, and preserve l1
distances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.kernels.whole import kept_whole


@kept_whole("two_sided(Tensor x, Tensor? t, str function, int dim) -> Tensor")
def two_sided(x: Tensor, t: Tensor | None, function: str, dim: int) -> Tensor:
    """(f(x), f(x) − x) along `dim`, for f the ReLU, t·sigmoid(4x/t) or t·tanh(x/t); t broadcasts to x."""
    if t is None:
        return torch.cat((F.relu(x), F.relu(-x)), dim)
    s = t * (torch.sigmoid(4 * x / t) if function == "sigmoid" else torch.tanh(x / t))
    return torch.cat((s, s - x), dim)


class TwoSidedReLU(nn.Module):
    """x ↦ (relu(x), relu(−x)) along `dim`, whose size doubles; with `groups`, each group's halves stay together."""

    function = "relu"

    def __init__(self, dim: int = 1, groups: int = 1):
        super().__init__()
        self.dim, self.groups = dim, groups

    def scale(self, x: Tensor) -> Tensor | None:
        """t, of a shape that broadcasts to x."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        if self.groups == 1:
            return two_sided(x, self.scale(x), self.function, self.dim)
        grouped = x.unflatten(self.dim, (self.groups, -1))
        both = two_sided(grouped, self.scale(grouped), self.function, self.dim + 1)
        return both.flatten(self.dim, self.dim + 1)


class TwoSidedSigmoid(TwoSidedReLU):
    """x ↦ (s(x), s(x) − x) with s(x) = t·sigmoid(4x/t), whose slope is at most 1 (eq. 8).

    t > 0 is trainable, one number per entry of `dim`, in each group; `features` is the number of entries in a group.
    """

    function = "sigmoid"

    def __init__(self, features: int, dim: int = 1, groups: int = 1, t: float = 1.0):
        super().__init__(dim, groups)
        if t <= 0:
            raise ValueError(f"`t` must be positive, got {t}")
        self.raw_t = nn.Parameter(torch.full((groups * features,), math.log(t)))

    def scale(self, x: Tensor) -> Tensor:
        axes = [1] * x.dim()
        axes[self.dim] = self.groups if self.groups > 1 else -1
        if self.groups > 1:
            axes[self.dim + 1] = -1
        return self.raw_t.exp().view(axes)


class TwoSidedTanh(TwoSidedSigmoid):
    """x ↦ (s(x), s(x) − x) with s(x) = t·tanh(x/t)."""

    function = "tanh"


NONLINEARITIES = ("two_sided_relu", "two_sided_sigmoid", "two_sided_tanh", "relu")


def nonlinearity(kind: str, features: int, dim: int = 1, groups: int = 1) -> tuple[nn.Module, int]:
    """The nonlinearity called `kind` for `features` entries of `dim` (per group), and the number of its outputs."""
    if kind == "relu":
        return nn.ReLU(), features
    if kind == "two_sided_relu":
        return TwoSidedReLU(dim, groups), 2 * features
    if kind == "two_sided_sigmoid":
        return TwoSidedSigmoid(features, dim, groups), 2 * features
    if kind == "two_sided_tanh":
        return TwoSidedTanh(features, dim, groups), 2 * features
    raise ValueError(f"`model.activation` must be one of {', '.join(NONLINEARITIES)}, got {kind!r}")
