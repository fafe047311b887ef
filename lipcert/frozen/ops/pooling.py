"""Pooling by the largest entry and by the norm, subtraction of a mean, and sorting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import Arithmetic
from lipcert.frozen.operation import UP, Box, Operation, Ordering, Shape, expect, largest, outward
from lipcert.frozen.ops.affine import ones

if TYPE_CHECKING:
    from lipcert.frozen.lipschitz import Walk

MAX_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
ADAPTIVE: dict[int, Any] = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


class _Windows(Operation):
    """Pooling over windows of the last axes, of each channel by itself."""

    def windows(self, sides: Shape) -> list[Tensor]:
        """For each axis, which entries each window sees: (windows, entries)."""
        raise NotImplementedError

    def overlap(self, sides: Shape) -> int:
        """In how many windows one entry lies at most."""
        return math.prod(int(seen.sum(0).max()) for seen in self.windows(sides))

    def pooled(self, walk: Walk, part: Tensor | None, gain: Any) -> Any:
        """`gain` times the channels that the part lies in."""
        (i,) = self.inputs
        if part is not None:
            shape = walk.shape(i)
            part = part.reshape(shape[0], -1).any(1).view(-1, *[1] * (len(shape) - 1)).expand(shape)
        return walk.product(gain, walk.constant(i, part))


class _LargestOfWindows(_Windows, Ordering):
    """Exact, and rising in every entry."""

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        """√n where n windows share an entry at most (Tsuzuku et al., NeurIPS 2018, Theorem 3)."""
        return self.pooled(walk, part, walk.copied(self.overlap(walk.shape(self.inputs[0])[1:])))


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(_LargestOfWindows):
    """The largest entry of each window, per channel; padded with −∞."""

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
        expect(axes in MAX_POOL and len(shape) == axes + 1, f"windows of {self.kernel} on {shape}")
        expect(all(len(values) == axes for values in lists), "a geometry that has not one number an axis")
        expect(min(self.kernel + self.stride + self.dilation) > 0 and min(self.padding) >= 0, "an impossible geometry")
        expect(
            all(2 * p <= k for p, k in zip(self.padding, self.kernel, strict=True)), "more padding than half a window"
        )
        sides = tuple(self._count(k, n) for k, n in enumerate(shape[1:]))
        expect(min(sides) > 0, f"a window of {self.kernel} does not fit {shape}")
        geometry = list(zip(shape[1:], self.kernel, self.padding, self.dilation, strict=True))
        expect(all(d * (k - 1) < n + 8192 for n, k, _, d in geometry), f"a window far wider than {shape}")
        inside = all(p == 0 or d <= n for n, _, p, d in geometry)  # as the padding is at most half the kernel
        expect(inside, f"a window of {self.kernel} sees nothing of {shape} but padding")
        return (shape[0], *sides)

    def _count(self, axis: int, n: int) -> int:
        k, s, p, d = self.kernel[axis], self.stride[axis], self.padding[axis], self.dilation[axis]
        room = n + 2 * p - d * (k - 1) - 1
        if not self.ceil_mode or room < 0:
            return room // s + 1
        count = -(-room // s) + 1
        return count - 1 if (count - 1) * s >= n + p else count  # a window starts in the image or the padding before it

    def windows(self, sides: Shape) -> list[Tensor]:
        seen = []
        for axis, n in enumerate(sides):
            starts = torch.arange(self._count(axis, n)) * self.stride[axis] - self.padding[axis]
            at, step = torch.arange(n) - starts[:, None], self.dilation[axis]
            seen.append((at >= 0) & (at % step == 0) & (at < step * self.kernel[axis]))
        return seen


@dataclass(frozen=True, eq=False, kw_only=True)
class AdaptiveMaxPool(_LargestOfWindows):
    """The largest entry of each window, per channel, `output_size` windows that cover the image evenly."""

    output_size: tuple[int, ...]
    kind: ClassVar[str] = "adaptive_max_pool"

    def evaluate(self, *values: Tensor) -> Tensor:
        return ADAPTIVE[len(self.output_size)](values[0], self.output_size)

    def result_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        fits = len(self.output_size) in ADAPTIVE and len(shape) == len(self.output_size) + 1
        expect(fits, f"{self.output_size} windows of {shape}")
        expect(min(self.output_size) > 0, "as many windows as there are positions, at least 1")
        return (shape[0], *self.output_size)

    def windows(self, sides: Shape) -> list[Tensor]:
        seen = []
        for n, out in zip(sides, self.output_size, strict=True):
            at, k = torch.arange(n), torch.arange(out)[:, None]
            seen.append((at >= k * n // out) & (at < -(-(k + 1) * n // out)))
        return seen


@dataclass(frozen=True, eq=False, kw_only=True)
class NormPool(_Windows):
    """√(Σ x²/divisor + delta) over each window, per channel (Qian & Wegman, ICLR 2019, §2.4); two axes, no padding."""

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
        expect(len(shape) == 3 and len(self.kernel) == len(self.stride) == 2, f"windows of {self.kernel} on {shape}")
        possible = min(self.kernel + self.stride) > 0 and self.divisor > 0 and 0 < self.delta < math.inf
        expect(possible, "windows, a divisor and a delta above 0 are due")
        sides = tuple((n - k) // s + 1 for n, k, s in zip(shape[1:], self.kernel, self.stride, strict=True))
        expect(min(sides) > 0, f"a window of {self.kernel} does not fit {shape}")
        return (shape[0], *sides)

    def windows(self, sides: Shape) -> list[Tensor]:
        seen = []
        for n, k, s, out in zip(sides, self.kernel, self.stride, self.shape[1:], strict=True):
            at, start = torch.arange(n), torch.arange(out)[:, None] * s
            seen.append((at >= start) & (at < start + k))
        return seen

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        """A window's norm moves by no more than the window's own movement in l2, over √divisor."""
        copies = self.overlap(walk.shape(self.inputs[0])[1:])
        squared = {Norm.L2: copies, Norm.LINF: math.prod(self.kernel), Norm.L1: copies**2}[walk.norm]
        gain = 1.0 if squared == self.divisor else math.sqrt(squared / self.divisor) * UP
        return self.pooled(walk, part, gain)

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        low, high = boxes[0]
        nearest = torch.maximum(low, -high).clamp_min(0)
        least, most = self.evaluate(nearest), self.evaluate(largest((low, high)))
        if not arithmetic.unit:
            return least, most
        return outward(least, most, 2 * self.rounded(arithmetic, most, largest(boxes[0])))

    def moved(self, *errors: Tensor) -> Tensor:
        """At most the sum over a window, over √divisor: no square that could underflow."""
        return self._mean(errors[0]) * math.sqrt(self.divisor) * UP

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        """Squares, their sum, δ, the division and the root; squares that underflow count with 1/√δ. Infinite where they
        may overflow."""
        taps = math.prod(self.kernel)
        lost = (2 * taps + 6) * arithmetic.tiny / math.sqrt(self.delta)
        own = 4 * arithmetic.gamma(taps + 4) * (size + math.sqrt(self.delta)) + lost + 4 * arithmetic.tiny
        most = float(sizes[0].max())
        return own if most * most * taps < arithmetic.largest / 4 else torch.full_like(own, math.inf)

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: float) -> float:
        if norm is not Norm.L2:
            return math.inf
        taps, spread = math.prod(self.kernel), ones(self.shape, norm)
        copies = math.prod(-(-k // s) for k, s in zip(self.kernel, self.stride, strict=True))
        reach = math.sqrt(copies / self.divisor) * lengths[0] + 2 * math.sqrt(self.delta) * spread
        lost = (2 * taps + 6) * arithmetic.tiny / math.sqrt(self.delta) + 4 * arithmetic.tiny
        return (4 * arithmetic.gamma(taps + 4) * reach + lost * spread) * UP


@dataclass(frozen=True, eq=False, kw_only=True)
class SubtractMean(Operation):
    """x minus its own mean over `axes`: a projection, where the difference of two operations would count twice."""

    axes: tuple[int, ...]
    kind: ClassVar[str] = "subtract_mean"

    def evaluate(self, *values: Tensor) -> Tensor:
        return values[0] - self._mean(values[0])

    def _mean(self, x: Tensor) -> Tensor:
        return x.mean([axis + 1 for axis in self.axes], keepdim=True)

    def result_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        expect(len(set(self.axes)) == len(self.axes) > 0, f"axes {self.axes}")
        expect(all(0 <= axis < len(shape) for axis in self.axes), f"axes {self.axes} of {shape}")
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
        """(1 − 1/n)·x minus the share of all others: each end by the ends that matter to it."""
        (low, high), n = boxes[0], self._entries()
        least = low - self._mean(high) + (high - low) / n
        most = high - self._mean(low) - (high - low) / n
        if not arithmetic.unit:
            return least, most
        return outward(least, most, 4 * self.rounded(arithmetic, most, largest(boxes[0])))

    def moved(self, *errors: Tensor) -> Tensor:
        return (errors[0] + self._mean(errors[0])) * UP

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        n = self._entries()
        reach = sizes[0] + self._mean(sizes[0])
        return 8 * arithmetic.gamma(n + 3) * reach * UP + 4 * (n + 2) * arithmetic.tiny

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: float) -> float:
        n = self._entries()
        below = 4 * (n + 2) * arithmetic.tiny * ones(self.shape, norm)
        return (16 * arithmetic.gamma(n + 3) * lengths[0] + below) * UP


@dataclass(frozen=True, eq=False, kw_only=True)
class Sort(Ordering):
    """The entries of each line along `axis` in order (GroupSort): a permutation at every point."""

    axis: int
    descending: bool
    kind: ClassVar[str] = "sort"

    def evaluate(self, *values: Tensor) -> Tensor:
        return values[0].sort(self.axis + 1, descending=self.descending).values

    def result_shape(self, *shapes: Shape) -> Shape:
        expect(0 <= self.axis < len(shapes[0]), f"axis {self.axis} of {shapes[0]}")
        return shapes[0]

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        if part is not None:
            part = part.any(self.axis, keepdim=True).expand(self.shape)
        return walk.constant(self.inputs[0], part)

    def moved(self, *errors: Tensor) -> Tensor:
        return errors[0].amax(self.axis + 1, keepdim=True).expand_as(errors[0])
