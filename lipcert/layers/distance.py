"""Neurons that compute a distance, ‖x − w‖_∞ (Zhang, Cai, Lu, He & Wang, ICML 2021), and its l_p relaxation.

At p = ∞ each neuron is 1-Lipschitz in l_inf whatever its weights. At a finite p it is only n^(1/p)-Lipschitz for n
inputs, which is for training and never certified. A new layer has p = ∞; a schedule may drive its `p`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.kernels import lp_distance
from lipcert.kernels.convolution import lp_distance_conv2d

IDENTITY = -10.0  # a weight so far from all inputs that |x + 10| is the largest difference: the neuron passes x on


class _Distance(nn.Module):
    """What the layers below share: weights from N(0, 1), one row per neuron, and the p of their distances."""

    bias: Tensor | None

    def __init__(self, shape: tuple[int, ...], bias: bool, p: float):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.p = p

    @property
    def p(self) -> float:
        return self._p

    @p.setter
    def p(self, value: float) -> None:
        if not value >= 1:
            raise ValueError(f"the `p` of a distance layer must be at least 1, got {value}")
        self._p = float(value)
        self.weight.p = self._p  # type: ignore[attr-defined] # an optimizer's weight decay may follow it


class DistanceLinear(_Distance):
    """y_i = ‖x − w_i‖_p + b_i; (B, in) to (B, out).

    With `identity`, neuron i starts as x_{i mod in} + 10 (§5.1).
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = False, identity: bool = False, p: float = math.inf
    ):
        super().__init__((out_features, in_features), bias, p)
        self.in_features, self.out_features = in_features, out_features
        if identity:
            rows = torch.arange(out_features)
            self.weight.data[rows, rows % in_features] = IDENTITY

    def forward(self, x: Tensor) -> Tensor:
        y = lp_distance(x, self.weight, self.p)
        return y if self.bias is None else y + self.bias


class DistanceConv2d(_Distance):
    """The distances of every k×k patch of a zero-padded image to each filter; (B, C, H, W) to (B, C', H', W').

    With G groups, a filter sees the C/G channels of its group. With `identity`, filter i starts as channel i mod C/G at
    the centre of the patch, plus 10.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = False,
        identity: bool = False,
        p: float = math.inf,
    ):
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"{groups} groups must divide the {in_channels} and {out_channels} channels")
        super().__init__((out_channels, in_channels // groups, kernel_size, kernel_size), bias, p)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.groups = stride, padding, groups
        if identity:
            filters, middle = torch.arange(out_channels), kernel_size // 2
            self.weight.data[filters, filters % (in_channels // groups), middle, middle] = IDENTITY

    def forward(self, x: Tensor) -> Tensor:
        y = lp_distance_conv2d(x, self.weight, self.p, self.stride, self.padding, self.groups)
        return y if self.bias is None else y + self.bias[:, None, None]


class Negate(nn.Module):
    """x ↦ −x: the nearest prototype has the largest logit."""

    def forward(self, x: Tensor) -> Tensor:
        return -x


class ScaledLinear(nn.Linear):
    """x ↦ Wx/√in + b, with W from N(0, 1) and b = 0 at the start (the NTK parametrisation).

    Weight decay applies to the unscaled W.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__(in_features, out_features, bias)
        nn.init.normal_(self.weight)
        if bias:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / math.sqrt(self.in_features), self.bias)
