"""Pooling by the largest entry or the norm of windows, subtraction of a mean, and sorting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import Arithmetic
from lipcert.frozen.operation import UP, Box, Operation, Ordering, Shape, expect, expect_axis, largest
from lipcert.frozen.ops.affine import ones, top

if TYPE_CHECKING:
    from lipcert.frozen.lipschitz import Walk

MAX_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
ADAPTIVE: dict[int, Any] = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


class _Windows(Operation):
    """Pooling over windows of all axes but the first, each channel by itself."""

    def windows(self, sides: Shape) -> list[Tensor]:
        """For each axis, which entries each window reads: a mask (windows, entries)."""
        raise NotImplementedError

    def overlap(self, sides: Shape) -> int:
        """The largest number of windows that read the same entry."""
        return math.prod(int(seen.sum(0).max()) for seen in self.windows(sides))

    def pooled(self, walk: Walk, part: Tensor | None, gain: Any) -> Any:
        """`gain` times the constant of the channels that the part lies in."""
        (i,) = self.inputs
        if part is not None:
            shape = walk.shape(i)
            part = part.reshape(shape[0], -1).any(1).view(-1, *[1] * (len(shape) - 1)).expand(shape)
        return walk.product(gain, walk.constant(i, part))


class _LargestOfWindows(_Windows, Ordering):
    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        """√n, if at most n windows read the same entry (Tsuzuku et al., NeurIPS 2018, Theorem 3)."""
        return self.pooled(walk, part, walk.copied(self.overlap(walk.shape(self.inputs[0])[1:])))


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(_LargestOfWindows):
    """The largest entry of each window, for each channel; padded with −∞."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool
    kind: ClassVar[str] = "max_pool"

    def evaluate(self, *values: Tensor) -> Tensor:
        pool = MAX_POOL[len(self.kernel)]
        return pool(values[0], self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)

    def result_shape(self, *shapes: Shape) -> Shape:
        (shape,), axes = shapes, len(self.kernel)
        lists = (self.stride, self.padding, self.dilation)
        expect(axes in MAX_POOL and len(shape) == axes + 1, f"windows of {self.kernel} do not fit {shape}")
        expect(all(len(values) == axes for values in lists), "the geometry does not have one number for each axis")
        possible = min(self.kernel + self.stride + self.dilation) > 0 and min(self.padding) >= 0
        expect(possible, "the geometry is impossible")
        halves = all(2 * p <= k for p, k in zip(self.padding, self.kernel, strict=True))
        expect(halves, "the padding is more than half of a window")
        sides = tuple(self._count(k, n) for k, n in enumerate(shape[1:]))
        expect(min(sides) > 0, f"a window of {self.kernel} does not fit into {shape}")
        geometry = list(zip(shape[1:], self.kernel, self.padding, self.dilation, strict=True))
        expect(all(d * (k - 1) < n + 8192 for n, k, _, d in geometry), f"a window is far wider than {shape}")
        inside = all(p == 0 or d <= n for n, _, p, d in geometry)  # as the padding is at most half the kernel
        expect(inside, f"a window of {self.kernel} reads nothing but padding of {shape}")
        return (shape[0], *sides)

    def _count(self, axis: int, n: int) -> int:
        k, s, p, d = self.kernel[axis], self.stride[axis], self.padding[axis], self.dilation[axis]
        room = n + 2 * p - d * (k - 1) - 1
        if not self.ceil_mode or room < 0:
            return room // s + 1
        count = -(-room // s) + 1
        return count - 1 if (count - 1) * s >= n + p else count  # a window starts before the image ends

    def windows(self, sides: Shape) -> list[Tensor]:
        seen = []
        for axis, n in enumerate(sides):
            starts = torch.arange(self._count(axis, n)) * self.stride[axis] - self.padding[axis]
            at, step = torch.arange(n) - starts[:, None], self.dilation[axis]
            seen.append((at >= 0) & (at % step == 0) & (at < step * self.kernel[axis]))
        return seen


@dataclass(frozen=True, eq=False, kw_only=True)
class AdaptiveMaxPool(_LargestOfWindows):
    """The largest entry of each of `output_size` windows that cover the image evenly, for each channel."""

    output_size: tuple[int, ...]
    kind: ClassVar[str] = "adaptive_max_pool"

    def evaluate(self, *values: Tensor) -> Tensor:
        return ADAPTIVE[len(self.output_size)](values[0], self.output_size)

    def result_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        fits = len(self.output_size) in ADAPTIVE and len(shape) == len(self.output_size) + 1
        expect(fits, f"{self.output_size} windows do not fit {shape}")
        expect(min(self.output_size) > 0, "there is not at least one window")
        return (shape[0], *self.output_size)

    def windows(self, sides: Shape) -> list[Tensor]:
        seen = []
        for n, out in zip(sides, self.output_size, strict=True):
            at, k = torch.arange(n), torch.arange(out)[:, None]
            seen.append((at >= k * n // out) & (at < -(-(k + 1) * n // out)))
        return seen


@dataclass(frozen=True, eq=False, kw_only=True)
class NormPool(_Windows):
    """√(Σ x²/divisor + delta) over each window of two axes, for each channel (Qian & Wegman, ICLR 2019, §2.4)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    divisor: int
    delta: float
    kind: ClassVar[str] = "norm_pool"

    def evaluate(self, *values: Tensor) -> Tensor:
        return (self._mean(values[0] * values[0]) + self.delta).sqrt()

    def _mean(self, squares: Tensor) -> Tensor:
        return F.avg_pool2d(squares, self.kernel, self.stride, divisor_override=self.divisor)

    def result_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        fits = len(shape) == 3 and len(self.kernel) == len(self.stride) == 2
        expect(fits, f"windows of {self.kernel} do not fit {shape}")
        possible = min(self.kernel + self.stride) > 0 and self.divisor > 0 and 0 < self.delta < math.inf
        expect(possible, "the windows, the divisor and delta are not all positive")
        sides = tuple((n - k) // s + 1 for n, k, s in zip(shape[1:], self.kernel, self.stride, strict=True))
        expect(min(sides) > 0, f"a window of {self.kernel} does not fit into {shape}")
        return (shape[0], *sides)

    def windows(self, sides: Shape) -> list[Tensor]:
        seen = []
        for n, k, s, out in zip(sides, self.kernel, self.stride, self.shape[1:], strict=True):
            at, start = torch.arange(n), torch.arange(out)[:, None] * s
            seen.append((at >= start) & (at < start + k))
        return seen

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        """The norm of a window moves by no more than the window does in l2, over √divisor."""
        copies = self.overlap(walk.shape(self.inputs[0])[1:])
        squared = {Norm.L2: copies, Norm.LINF: math.prod(self.kernel), Norm.L1: copies**2}[walk.norm]
        gain = 1.0 if squared == self.divisor else math.sqrt(squared / self.divisor) * UP
        return self.pooled(walk, part, gain)

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        low, high = boxes[0]
        nearest = torch.maximum(low, -high).clamp_min(0)
        least, most = self.evaluate(nearest), self.evaluate(largest((low, high)))
        return self.rounded_outward(arithmetic, (least, most), boxes)

    def moved(self, *errors: Tensor) -> Tensor:
        """At most the sum over a window, over √divisor, which has no squares that could underflow."""
        return self._mean(errors[0]) * math.sqrt(self.divisor) * UP

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        """The errors of squares, sum, delta, division and root; squares that underflow count with 1/√delta. Infinite
        where squares may overflow."""
        taps = math.prod(self.kernel)
        lost = (2 * taps + 6) * arithmetic.tiny / math.sqrt(self.delta)
        own = 4 * arithmetic.gamma(taps + 4) * (size + math.sqrt(self.delta)) + lost + 4 * arithmetic.tiny
        return own.where(top(sizes[0]).square() * taps < arithmetic.largest / 16, math.inf)

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: Any) -> Any:
        if norm is not Norm.L2:
            return math.inf
        taps, spread = math.prod(self.kernel), ones(self.shape, norm)
        copies = math.prod(-(-k // s) for k, s in zip(self.kernel, self.stride, strict=True))
        reach = math.sqrt(copies / self.divisor) * lengths[0] + 2 * math.sqrt(self.delta) * spread
        lost = (2 * taps + 6) * arithmetic.tiny / math.sqrt(self.delta) + 4 * arithmetic.tiny
        own = torch.as_tensor((4 * arithmetic.gamma(taps + 4) * reach + lost * spread) * UP)
        overflows = torch.as_tensor(lengths[0] * lengths[0] * taps >= arithmetic.largest / 16)
        return own.masked_fill(overflows, math.inf)


@dataclass(frozen=True, eq=False, kw_only=True)
class SubtractMean(Operation):
    """x minus its own mean over `axes`. This is a projection; as the difference of two operations it would expand."""

    axes: tuple[int, ...]
    kind: ClassVar[str] = "subtract_mean"

    def evaluate(self, *values: Tensor) -> Tensor:
        return values[0] - self._mean(values[0])

    def _mean(self, x: Tensor) -> Tensor:
        return x.mean([axis + 1 for axis in self.axes], keepdim=True)

    def result_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        expect(len(set(self.axes)) == len(self.axes) > 0, f"the axes {self.axes} are not distinct")
        expect(all(0 <= axis < len(shape) for axis in self.axes), f"{shape} has no axes {self.axes}")
        return shape

    def _entries(self) -> int:
        return math.prod(self.shape[axis] for axis in self.axes)

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        need = None
        if part is not None:
            need = part
            for axis in self.axes:
                need = need.any(axis, keepdim=True).expand(self.shape)
        gain = 1.0 if walk.norm is Norm.L2 else 2 * (1 - 1 / self._entries()) * UP
        return walk.product(gain, walk.constant(self.inputs[0], need))

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        """(1 − 1/n)·x minus the mean share of all other entries: each end is that of the right ends of these."""
        (low, high), n = boxes[0], self._entries()
        least = low - self._mean(high) + (high - low) / n
        most = high - self._mean(low) - (high - low) / n
        return self.rounded_outward(arithmetic, (least, most), boxes, 4)

    def moved(self, *errors: Tensor) -> Tensor:
        return (errors[0] + self._mean(errors[0])) * UP

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        n = self._entries()
        reach = sizes[0] + self._mean(sizes[0])
        return 8 * arithmetic.gamma(n + 3) * reach * UP + 4 * (n + 2) * arithmetic.tiny

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: Any) -> Any:
        n = self._entries()
        below = 4 * (n + 2) * arithmetic.tiny * ones(self.shape, norm)
        return (16 * arithmetic.gamma(n + 3) * lengths[0] + below) * UP


@dataclass(frozen=True, eq=False, kw_only=True)
class Sort(Ordering):
    """The entries of each line along `axis`, sorted (GroupSort): a permutation at every point."""

    axis: int
    descending: bool
    kind: ClassVar[str] = "sort"

    def evaluate(self, *values: Tensor) -> Tensor:
        return values[0].sort(self.axis + 1, descending=self.descending).values

    def result_shape(self, *shapes: Shape) -> Shape:
        expect_axis(self.axis, shapes[0])
        return shapes[0]

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        if part is not None:
            part = part.any(self.axis, keepdim=True).expand(self.shape)
        return walk.constant(self.inputs[0], part)

    def moved(self, *errors: Tensor) -> Tensor:
        return errors[0].amax(self.axis + 1, keepdim=True).expand_as(errors[0])
