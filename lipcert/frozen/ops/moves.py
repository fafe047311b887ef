"""Operations that copy entries of their input: reshaping, permuting, slicing, padding and repeating."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lipcert.frozen.operation import UP, Ordering, Shape, expect, expect_axis

if TYPE_CHECKING:
    from lipcert.frozen.lipschitz import Walk


@dataclass(frozen=True, eq=False, kw_only=True)
class Move(Ordering):
    """Each entry is one entry of the input, or 0. All rules follow from the value for an input of numbered entries."""

    permutes: ClassVar[bool] = False  # whether every entry of the input appears exactly once

    def sources(self, shape: Shape) -> Tensor:
        """For each entry the number of the entry of the input that it copies, or −1 for 0; of `self.shape`."""
        return self.evaluate(torch.arange(math.prod(shape)).view(1, *shape))[0]

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        """An entry that is copied c times counts with a factor: √c in l2, c in l1, and 1 in l∞."""
        (i,) = self.inputs
        if self.permutes and part is None:
            return walk.constant(i, None)
        shape = walk.shape(i)
        copied = count(self.sources(shape), part, math.prod(shape))
        return walk.product(walk.copied(int(copied.max())), walk.constant(i, (copied > 0).view(shape)))

    def pull_back(self, shape: Shape, weights: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
        at, entries = self.sources(shape).flatten(), math.prod(shape)

        def add(rows: Tensor) -> Tensor:
            sums = torch.zeros(len(rows), entries + 1, dtype=rows.dtype)
            return sums.index_add_(1, at.where(at >= 0, entries), rows.flatten(1))[:, :entries].view(-1, *shape)

        if self.permutes:
            return add(weights), add(errors)
        relative = 4 * (len(at) + 2) * 2.0**-53
        return add(weights), add(errors) * UP + relative * add(weights.abs())


def count(sources: Tensor, part: Tensor | None, entries: int) -> Tensor:
    """How often each entry of the input appears in a part, (entries,)."""
    at = sources.flatten() if part is None else sources[part]
    return torch.bincount(at[at >= 0], minlength=entries)


@dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Move):
    """The same entries in the same order, in another shape: flatten, unflatten, view, squeeze, unsqueeze."""

    kind: ClassVar[str] = "reshape"
    permutes: ClassVar[bool] = True

    def evaluate(self, *values: Tensor) -> Tensor:
        return values[0].reshape(-1, *self.shape)

    def result_shape(self, *shapes: Shape) -> Shape:
        expect(min(self.shape, default=1) > 0, f"the shape {self.shape} has a side that is not positive")
        expect(math.prod(self.shape) == math.prod(shapes[0]), f"{shapes[0]} cannot become {self.shape}")
        return self.shape

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        return walk.constant(self.inputs[0], None if part is None else part.reshape(walk.shape(self.inputs[0])))


@dataclass(frozen=True, eq=False, kw_only=True)
class Permute(Move):
    """The same entries with their axes in another order; `axes` are counted without the batch axis."""

    axes: tuple[int, ...]
    kind: ClassVar[str] = "permute"
    permutes: ClassVar[bool] = True

    def evaluate(self, *values: Tensor) -> Tensor:
        return values[0].permute(0, *(axis + 1 for axis in self.axes))

    def result_shape(self, *shapes: Shape) -> Shape:
        expect(sorted(self.axes) == list(range(len(shapes[0]))), f"{self.axes} are not the axes of {shapes[0]}")
        return tuple(shapes[0][axis] for axis in self.axes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice(Move):
    """Every `step`-th entry along `axis`, from `start` to before `stop`."""

    axis: int
    start: int
    stop: int
    step: int
    kind: ClassVar[str] = "slice"

    def evaluate(self, *values: Tensor) -> Tensor:
        before = (slice(None),) * (self.axis + 1)
        return values[0][(*before, slice(self.start, self.stop, self.step))]

    def result_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        expect_axis(self.axis, shape)
        inside = 0 <= self.start < self.stop <= shape[self.axis] and self.step > 0
        expect(inside, f"{shape[self.axis]} entries have no slice {self.start}:{self.stop}:{self.step}")
        return (*shape[: self.axis], len(range(self.start, self.stop, self.step)), *shape[self.axis + 1 :])


@dataclass(frozen=True, eq=False, kw_only=True)
class Rearrange(Move):
    """Entry k is entry `index[k]` of the flattened input, or 0 where that is −1: repeating, flipping, rolling, padding
    (with zeros, reflected, replicated, circular), nearest upsampling, pixel shuffling."""

    index: Tensor
    kind: ClassVar[str] = "rearrange"
    integers: ClassVar[dict[str, torch.dtype]] = {"index": torch.int64}

    def evaluate(self, *values: Tensor) -> Tensor:
        flat, at = values[0].flatten(1), self.index.flatten()
        out = flat.index_select(1, at.clamp_min(0))
        if bool((at < 0).any()):
            out = out.where(at >= 0, torch.zeros((), dtype=out.dtype, device=out.device))
        return out.view(-1, *self.index.shape)

    def result_shape(self, *shapes: Shape) -> Shape:
        numbers = not self.index.is_floating_point() and self.index.numel() > 0
        expect(numbers, "the index does not hold integers")
        inside = int(self.index.min()) >= -1 and int(self.index.max()) < math.prod(shapes[0])
        expect(inside, f"the index has a number outside of {shapes[0]}")
        return tuple(self.index.shape)

    def sources(self, shape: Shape) -> Tensor:
        return self.index
