"""Two-sided nonlinearities x ↦ (f(x), f(x) − x), which lose no information (Qian & Wegman, ICLR 2019, §2.3).

For a nondecreasing f with slope ≤ 1, |Δf| + |Δx − Δf| = |Δx|: they are nonexpansive in every l_p, and preserve l1
distances. (f(x), f(−x)) would not do for the sigmoid and tanh: both slopes are 1 at 0, so that it expands by √2 in l2.
The one-sided x ↦ f(x) keeps the first half alone, which is nonexpansive too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    sides = 2

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

    t > 0 is trainable, and starts at `t`. By default there is one number per entry of `dim`, in each group; `features`
    is the number of entries in a group. With `t_shape`, which is the shape of x without the batch, there is one number
    per entry of x, and with an empty one, a single number.
    """

    function = "sigmoid"

    def __init__(
        self, features: int, dim: int = 1, groups: int = 1, t: float = 1.0, t_shape: Sequence[int] | None = None
    ):
        super().__init__(dim, groups)
        if t <= 0:
            raise ValueError(f"`t` must be positive, got {t}")
        self.whole = t_shape is not None
        size = (groups * features,) if t_shape is None else tuple(t_shape)
        self.raw_t = nn.Parameter(torch.full(size, math.log(t)))

    def scale(self, x: Tensor) -> Tensor:
        t = self.raw_t.exp()
        if t.dim() == 0:
            return t
        if self.whole:
            return t.view(1, *x.shape[1:])
        axes = [1] * x.dim()
        axes[self.dim] = self.groups if self.groups > 1 else -1
        if self.groups > 1:
            axes[self.dim + 1] = -1
        return t.view(axes)


class TwoSidedTanh(TwoSidedSigmoid):
    """x ↦ (s(x), s(x) − x) with s(x) = t·tanh(x/t)."""

    function = "tanh"


class OneSidedSigmoid(TwoSidedSigmoid):
    """x ↦ s(x) = t·sigmoid(4x/t), nonexpansive in every l_p (§2.3); t as for the two-sided one.

    It is frozen as the first half of the two-sided one, whose bound is 1 for any t. As a product of a scale 4/t, a
    sigmoid and a scale t, its bound would be the largest t over the smallest.
    """

    sides = 1

    def __init__(self, features: int, dim: int = 1, t: float = 1.0, t_shape: Sequence[int] | None = None):
        super().__init__(features, dim, 1, t, t_shape)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).narrow(self.dim, 0, x.shape[self.dim])


class OneSidedTanh(OneSidedSigmoid):
    """x ↦ s(x) = t·tanh(x/t)."""

    function = "tanh"


SCALED: dict[str, type[TwoSidedSigmoid]] = {
    "two_sided_sigmoid": TwoSidedSigmoid,
    "two_sided_tanh": TwoSidedTanh,
    "scaled_sigmoid": OneSidedSigmoid,
    "scaled_tanh": OneSidedTanh,
}
NONLINEARITIES = ("two_sided_relu", *SCALED, "relu")
WITH_A_T = ("channel", "neuron", "layer")


def nonlinearity(
    kind: str, features: int, dim: int = 1, groups: int = 1, t_per: str = "channel", shape: Sequence[int] = ()
) -> tuple[nn.Module, int]:
    """The nonlinearity called `kind` for `features` entries of `dim` (per group), and the number of its outputs.

    The sigmoids and the hyperbolic tangents have one t per channel, neuron or layer, as `t_per` says. A neuron is one
    entry of the value of one image, whose `shape` is then needed. Raises ValueError for another word.
    """
    if t_per not in WITH_A_T:
        raise ValueError(f"`model.activation_t` must be one of {', '.join(WITH_A_T)}, got {t_per!r}")
    if kind == "relu":
        return nn.ReLU(), features
    if kind == "two_sided_relu":
        return TwoSidedReLU(dim, groups), 2 * features
    if kind not in SCALED:
        raise ValueError(f"`model.activation` must be one of {', '.join(NONLINEARITIES)}, got {kind!r}")
    layer, t_shape = SCALED[kind], {"channel": None, "neuron": shape, "layer": ()}[t_per]
    if issubclass(layer, OneSidedSigmoid):
        return layer(groups * features, dim, t_shape=t_shape), features
    return layer(features, dim, groups, t_shape=t_shape), 2 * features
