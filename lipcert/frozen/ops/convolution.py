"""Convolutions and transposed convolutions along one to three axes, zero-padded."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert import norms
from lipcert.frozen.operation import Shape, expect
from lipcert.frozen.ops.affine import LinearMap

if TYPE_CHECKING:
    from lipcert.frozen.lipschitz import Walk

FORWARD: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(LinearMap):
    """From images (C, *size) to (C', *size'), with a weight (C', C/groups, *kernel) and a bias (C',). Padding that is
    not by zeros is a separate operation before it."""

    weight: Tensor
    bias: Tensor | None
    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    kind: ClassVar[str] = "convolution"

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return FORWARD[len(self.size)](x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def operator(self, weight: Tensor, groups: int) -> norms.Operator:
        return norms.Convolution(weight, self.size, self.stride, self.padding, self.dilation, groups)

    def takes_claims(self, count: int) -> bool:
        """For all groups, or for each of them."""
        return count in (1, self.groups)

    def linear(self, x: Tensor) -> Tensor:
        return self.apply(x, self.weight, None)

    def magnitudes(self, x: Tensor) -> Tensor:
        return self.apply(x, self.weight.abs(), None)

    def evaluate(self, *values: Tensor) -> Tensor:
        return self.apply(values[0], self.weight, self.bias)

    def offset(self) -> Tensor | None:
        return None if self.bias is None else self.bias.view(-1, *[1] * len(self.size))

    @property
    def fan_in(self) -> int:
        return self.weight[0].numel()

    @property
    def channels(self) -> int:
        """The number of input channels in each group."""
        return self.weight.shape[1]

    def row_axis(self) -> int:
        return 0

    def whole(self) -> norms.Operator:
        return self.operator(self.weight, self.groups)

    def input_shape(self) -> Shape:
        return (self.channels * self.groups, *self.size)

    def result_shape(self, *shapes: Shape) -> Shape:
        (shape,), axes = shapes, len(self.size)
        self._check(shape, axes)
        geometry = zip(self.size, self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        sides = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in geometry)
        expect(min(sides) > 0, f"a kernel of {tuple(self.weight.shape[2:])} does not fit into {shape}")
        return (self.weight.shape[0], *sides)

    def _check(self, shape: Shape, axes: int) -> None:
        lists = (self.size, self.stride, self.padding, self.dilation)
        fits = axes in FORWARD and self.weight.dim() == axes + 2 and 0 not in self.weight.shape
        expect(fits, "the weight is not that of a convolution")
        each = all(len(values) == axes for values in lists)
        expect(each, "stride, padding and dilation do not have one number for each axis")
        possible = self.groups > 0 and min(self.stride + self.dilation) > 0 and min(self.padding) >= 0
        expect(possible, "the geometry is impossible")
        geometry = zip(self.size, self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        reach = math.prod(n + s + 2 * p + d * k for n, k, s, p, d in geometry)  # what bounds of its norm go through
        expect(reach < 1 << 31, "the geometry has billions of entries")
        expect(shape == self.input_shape(), f"it takes images of {self.input_shape()}, not {shape}")
        expect(self.weight.shape[0] % self.groups == 0, f"{self.groups} groups of {self.weight.shape[0]} channels")
        outputs = self.result_channels()
        expect(self.bias is None or self.bias.shape == (outputs,), "the bias does not fit the weight")

    def result_channels(self) -> int:
        return self.weight.shape[0]

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        return self.scaled_lipschitz(walk, number, part)

    def scaled_lipschitz(
        self, walk: Walk, number: int, part: Tensor | None, rows: Tensor | None = None, by: int = 0
    ) -> Any:
        """The constant of this operation and the scaling of its output channels by `rows`, which is the `by`-th
        operation, measured as one operator. A part counts as all positions of its channels."""
        blocks = []
        for group, kept in self._kept(part):

            def operator(group: int = group, kept: Tensor | None = kept) -> norms.Operator:
                own = self.operator(self._kernel(group, None), 1)
                scale = None if rows is None else rows.view(self.groups, -1)[group]
                own = own if scale is None else own.scaled(scale)
                return own if kept is None else replace(own, weight=self._rows(own.weight, kept))  # type: ignore

            norm = walk.measured(number, group if self.groups > 1 else None, kept, operator, by)
            blocks.append((norm, self._needed(walk, group, kept)))
        return walk.side_by_side(number, blocks)

    def _kept(self, part: Tensor | None) -> list[tuple[int, Tensor | None]]:
        """The groups that a part lies in, each with those of its output channels that the part needs (None: all)."""
        if part is None:
            return [(group, None) for group in range(self.groups)]
        channels = part.reshape(self.groups, self.result_channels() // self.groups, -1).any(2)
        return [(g, None if bool(own.all()) else own) for g, own in enumerate(channels) if bool(own.any())]

    def _kernel(self, group: int, kept: Tensor | None) -> Tensor:
        weight = self.weight.chunk(self.groups)[group] if self.groups > 1 else self.weight
        return weight if kept is None else self._rows(weight, kept)

    def _rows(self, weight: Tensor, kept: Tensor) -> Tensor:
        return weight[kept]

    def _columns(self, weight: Tensor) -> Tensor:
        """The weight as (everything else, input channels)."""
        return weight.movedim(1, -1).reshape(-1, weight.shape[1])

    def _needed(self, walk: Walk, group: int, kept: Tensor | None) -> Tensor | None:
        shape = self.input_shape()
        seen = walk.support(self._columns(self._kernel(group, kept)))
        if self.groups == 1:
            return None if seen is None else seen.view(-1, *[1] * len(self.size)).expand(shape)
        need = torch.zeros(shape, dtype=torch.bool)
        count = shape[0] // self.groups
        need[group * count : (group + 1) * count] = (
            True if seen is None else seen.view(-1, *[1] * len(self.size)).expand(count, *self.size)
        )
        return need


@dataclass(frozen=True, eq=False, kw_only=True)
class TransposedConvolution(Convolution):
    """The adjoint of a convolution: weight (C, C'/groups, *kernel), images (C, *size) to (C', *size')."""

    output_padding: tuple[int, ...]
    kind: ClassVar[str] = "transposed_convolution"

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        transpose = TRANSPOSED[len(self.size)]
        return transpose(x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)

    def operator(self, weight: Tensor, groups: int) -> norms.Operator:
        geometry = (self.stride, self.padding, self.dilation, groups, self.output_padding)
        return norms.TransposedConvolution(weight, self.size, *geometry)

    @property
    def fan_in(self) -> int:
        return self.weight.numel() // self.weight.shape[1] // self.groups

    @property
    def channels(self) -> int:
        return self.weight.shape[0] // self.groups

    def result_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    def result_shape(self, *shapes: Shape) -> Shape:
        (shape,), axes = shapes, len(self.size)
        self._check(shape, axes)
        expect(len(self.output_padding) == axes and min(self.output_padding) >= 0, "the output padding is impossible")
        limits = zip(self.output_padding, self.stride, self.dilation, strict=True)
        expect(all(o < max(s, d) for o, s, d in limits), "the output padding is not below the stride or the dilation")
        lists = (self.size, self.weight.shape[2:], self.stride, self.padding, self.dilation, self.output_padding)
        sides = tuple((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, d, o in zip(*lists, strict=True))
        expect(min(sides) > 0, f"the padding leaves nothing of {shape}")
        return (self.result_channels(), *sides)

    def _rows(self, weight: Tensor, kept: Tensor) -> Tensor:
        return weight[:, kept]

    def _columns(self, weight: Tensor) -> Tensor:
        return weight.flatten(1).mT
