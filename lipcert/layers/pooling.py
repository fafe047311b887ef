"""Norm-pooling (Qian & Wegman, ICLR 2019, §2.4): pooling that preserves the l2 norm of each window."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.kernels.whole import kept_whole
from lipcert.layers.nonexpansive import copies

DELTA = 1e-12  # √(Σx² + δ) has a gradient at a window of zeros; as the norm of (x, √δ) it is still nonexpansive


@kept_whole("norm_pool2d(Tensor x, int[] kernel, int[] stride, int divisor, float delta) -> Tensor")
def norm_pool2d(x: Tensor, kernel: list[int], stride: list[int], divisor: int, delta: float) -> Tensor:
    """√(Σ_window x²/divisor + delta) per channel: (B, C, H, W) to (B, C, H', W')."""
    return (F.avg_pool2d(x * x, kernel, stride, divisor_override=divisor) + delta).sqrt()


class NormPool2d(nn.Module):
    """y = √(Σ_window x²) per channel, nonexpansive; (B, C, H, W) to (B, C, H', W').

    Overlapping windows count an entry up to ⌈K/S⌉² times, so the input is divided by ⌈K/S⌉.
    """

    def __init__(self, kernel_size: int, stride: int | None = None):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride or kernel_size

    def forward(self, x: Tensor) -> Tensor:
        sides = [self.kernel_size] * 2, [self.stride] * 2
        return norm_pool2d(x, *sides, copies(self.kernel_size, self.stride) ** 2, DELTA)


@kept_whole("global_norm_pool2d(Tensor x, float delta) -> Tensor")
def global_norm_pool2d(x: Tensor, delta: float) -> Tensor:
    return (x.square().sum((2, 3)) + delta).sqrt()


class GlobalNormPool2d(nn.Module):
    """y = √(Σx²) per channel, over all positions; (B, C, H, W) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return global_norm_pool2d(x, DELTA)


def pooling(kind: str, size: int, stride: int | None = None) -> nn.Module:
    """Pooling of `size`×`size` windows, `stride` apart (None: `size`, without overlap): "norm", or "max" for ablations.

    Where windows overlap, "norm" divides by the root of the largest number of windows that an entry is in, and "max",
    which expands by that much, is counted as it is. Raises ValueError for another word.
    """
    if kind == "norm":
        return NormPool2d(size, stride)
    if kind == "max":
        return nn.MaxPool2d(size, stride)
    raise ValueError(f"`model.pooling` must be norm or max, got {kind!r}")
