"""Neurons that compute a distance, ‖x − w‖_∞ (Zhang, Cai, Lu, He & Wang, ICML 2021), and its l_p relaxation.

At p = ∞ each is 1-Lipschitz in l_inf whatever its weights. At a finite p it is only n^(1/p)-Lipschitz for n inputs:
good to train with, never certified. A new layer is at p = ∞; a schedule may drive its `p`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.contracts import Norm, Signal
from lipcert.kernels import linf_bounds, lp_distance
from lipcert.kernels.convolution import linf_bounds_conv2d, lp_distance_conv2d
from lipcert.layers.intervals import affine, outward

IDENTITY = -10.0  # a weight so far out that |x + 10| exceeds every other difference: the neuron passes x on


class _Distance(nn.Module):
    """What the layers below share: weights ~ N(0, 1), one row a neuron, and the p of all its distances."""

    norms = (Norm.LINF,)
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

    def _check(self, name: str) -> None:
        if math.isfinite(self.p):
            raise ValueError(
                f"`{name}` is at p = {self.p:g}, where a distance layer is not 1-Lipschitz in l_inf: only p = inf is "
                "certified; train to the end of a schedule that gets there"
            )

    def _after(self, signal: Signal, shape: tuple[int, ...]) -> Signal:
        """One rounding of each difference; the largest of them is exact, and one more rounding adds the bias."""
        offset = float(self.weight.detach().abs().max())
        bias = 0.0 if self.bias is None else float(self.bias.detach().abs().max())
        return signal.after(shape, offset=offset + bias, roundings=2)

    def _box(self, lower: Tensor, upper: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        lower, upper = outward(lower, upper, unit)
        if self.bias is None:
            return lower, upper
        bias = self.bias.view(-1, *[1] * (lower.dim() - 2))
        return outward(lower + bias, upper + bias, unit)


class DistanceLinear(_Distance):
    """y_i = ‖x − w_i‖_p + b_i; (B, in) to (B, out). `identity`: neuron i starts as x_{i mod in} + 10 (its §5.1)."""

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

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        self._check(name)
        if signal.shape != (self.in_features,):
            raise ValueError(f"`{name}`: {self.in_features} features expected, {signal.shape} found")
        return self._after(signal, (self.out_features,))

    def interval(self, low: Tensor, high: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        self._check(type(self).__name__)
        return self._box(*linf_bounds(low, high, self.weight), unit)


class DistanceConv2d(_Distance):
    """The same on every k×k patch of a zero-padded image; (B, C, H, W) to (B, C', H', W'). With G groups, filters see
    the C/G channels of their own. `identity`: filter i starts as channel i mod C/G of its patch's centre, plus 10."""

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
        self.geometry = {"stride": stride, "padding": padding, "groups": groups}
        if identity:
            filters, middle = torch.arange(out_channels), kernel_size // 2
            self.weight.data[filters, filters % (in_channels // groups), middle, middle] = IDENTITY

    def forward(self, x: Tensor) -> Tensor:
        y = lp_distance_conv2d(x, self.weight, self.p, **self.geometry)
        return y if self.bias is None else y + self.bias[:, None, None]

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        self._check(name)
        c, *sides = signal.shape
        stride, padding = self.geometry["stride"], self.geometry["padding"]
        shape = (self.out_channels, *((n + 2 * padding - self.kernel_size) // stride + 1 for n in sides))
        if c != self.in_channels or min(shape) < 1:
            k = self.kernel_size
            raise ValueError(
                f"`{name}`: {self.in_channels} channels of at least {k}×{k} expected, {signal.shape} found"
            )
        return self._after(signal, shape)

    def interval(self, low: Tensor, high: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        self._check(type(self).__name__)
        return self._box(*linf_bounds_conv2d(low, high, self.weight, **self.geometry), unit)


class Negate(nn.Module):
    """x ↦ −x: the nearest prototype has the largest logit."""

    norms = (Norm.L2, Norm.LINF)

    def forward(self, x: Tensor) -> Tensor:
        return -x

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        return signal.after()

    def interval(self, low: Tensor, high: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        return -high, -low


class ScaledLinear(nn.Linear):
    """x ↦ Wx/√in + b with W ~ N(0, 1), b = 0 (the NTK parametrisation): weight decay sees the unscaled W."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__(in_features, out_features, bias)
        nn.init.normal_(self.weight)
        if bias:
            nn.init.zeros_(self.bias)

    def constrained_weight(self) -> Tensor:
        """The weight of the plain layer that this one is."""
        return self.weight / math.sqrt(self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.constrained_weight(), self.bias)

    def interval(self, low: Tensor, high: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        weight = self.constrained_weight().abs()
        return affine(low, high, self, lambda r: F.linear(r, weight), unit, self.in_features + 2)

    def fold(self) -> nn.Linear:
        """The plain layer that this one computes."""
        plain = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, self.weight.device, self.weight.dtype
        )
        plain.weight.data.copy_(self.constrained_weight())
        if self.bias is not None:
            plain.bias.data.copy_(self.bias)
        return plain.requires_grad_(False)
