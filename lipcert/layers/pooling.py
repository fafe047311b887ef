"""Norm-pooling (Qian & Wegman, ICLR 2019, §2.4): pooling that keeps the length of what it pools."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.contracts import Signal
from lipcert.layers.nonexpansive import copies

DELTA = 1e-12  # √(Σx² + δ) has a gradient at an all-zero window, and is the norm of (x, √δ): still nonexpansive


class NormPool2d(nn.Module):
    """y = √(Σ_window x²) per channel, nonexpansive; (B, C, H, W) to (B, C, H', W').

    Overlapping windows count an entry ⌈K/S⌉² times, so the input is divided by ⌈K/S⌉.
    """

    def __init__(self, kernel_size: int, stride: int | None = None):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride or kernel_size

    def overlap(self) -> int:
        return copies(self.kernel_size, self.stride) ** 2

    def forward(self, x: Tensor) -> Tensor:
        squares = F.avg_pool2d(x * x, self.kernel_size, self.stride, divisor_override=self.overlap())
        return (squares + DELTA).sqrt()

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        c, h, w = signal.shape
        shape = (c, *((n - self.kernel_size) // self.stride + 1 for n in (h, w)))
        if min(shape) < 1:
            raise ValueError(f"`{name}`: a {self.kernel_size}×{self.kernel_size} window does not fit {h}×{w}")
        # a sum of K² squares, δ, the division and the root: relative error γ_{K²+4}
        return signal.after(shape, offset=math.sqrt(DELTA * math.prod(shape)), roundings=self.kernel_size**2 + 4)


class GlobalNormPool2d(nn.Module):
    """y = √(Σ over the whole map of x²) per channel; (B, C, H, W) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.square().sum((2, 3)) + DELTA).sqrt()

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        c, h, w = signal.shape
        return signal.after((c,), offset=math.sqrt(DELTA * c), roundings=h * w + 4)


def pooling(kind: str, size: int) -> nn.Module:
    """Non-overlapping pooling of that name: "norm", or the ablation's "max"."""
    if kind == "norm":
        return NormPool2d(size)
    if kind == "max":
        return nn.MaxPool2d(size)
    raise ValueError(f"`model.pooling` must be norm or max, got {kind!r}")
