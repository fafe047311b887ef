"""Distances to fixed points: neurons of l∞-distance nets (Zhang et al., ICML 2021), prototypes, nearest neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import Arithmetic
from lipcert.frozen.operation import UP, Box, Operation, Shape, expect, largest
from lipcert.kernels import linf_bounds, lp_distance
from lipcert.kernels.convolution import linf_bounds_conv2d, lp_distance_conv2d
from lipcert.kernels.neighbours import class_distances

if TYPE_CHECKING:
    from lipcert.frozen.lipschitz import Walk

ORDERS = {Norm.L1: 1.0, Norm.L2: 2.0, Norm.LINF: math.inf}
ENTRIES = 1 << 24  # of differences that are held at a time


def widening(p: float, norm: Norm, entries: int) -> float:
    """The smallest c with ‖x‖_p ≤ c·‖x‖ in `norm`, rounded up, for x of so many entries."""
    excess = 1 / p - 1 / ORDERS[norm]
    return entries**excess * UP if excess > 0 else 1.0


class _Distances(Operation):
    """The rules that operations of distances in l_p share."""

    weight: Tensor

    @property
    def products(self) -> int:
        return math.prod(self.shape) * self.weight[0].numel()

    p: float

    def one_by_one(self, walk: Walk, part: Tensor | None, need: Tensor | None, seen: int, copies: int) -> Any:
        """The constant of several distances. Each reads `seen` entries of the input and moves by no more than these do
        in l_p; an entry that several of them read counts `copies` times."""
        return walk.product(widening(self.p, walk.norm, seen), walk.copied(copies), walk.constant(self.inputs[0], need))

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        """At p = ∞ a difference rounds once, and the maximum is exact; otherwise powers, sums and roots round too."""
        if self.p == math.inf:
            return arithmetic.safety * arithmetic.unit * size + 8 * arithmetic.tiny
        n = self.weight[0].numel()
        lost = (4 * n + 8) * arithmetic.tiny if self.p == 1 else math.sqrt((4 * n + 8) * arithmetic.tiny)
        own = 8 * arithmetic.gamma(n + 8) * (size + self.spread_of(sizes[0])) + lost
        return own.where(size.square() < arithmetic.largest / 4, math.inf)  # if squares overflow

    def spread_of(self, size: Tensor) -> Tensor:
        """The l_p norm of each input."""
        return torch.linalg.vector_norm(size.flatten(1), self.p, dim=1, keepdim=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class Distance(_Distances):
    """y_i = ‖x − w_i‖_p for the rows w_i of `weight` (m, n); p is 1, 2 or ∞."""

    weight: Tensor
    p: float
    kind: ClassVar[str] = "distance"

    def evaluate(self, *values: Tensor) -> Tensor:
        (x,) = values
        if self.p == math.inf:
            return lp_distance(x, self.weight, self.p)
        return torch.cdist(x, self.weight, self.p, compute_mode="donot_use_mm_for_euclid_dist")

    def result_shape(self, *shapes: Shape) -> Shape:
        expect(self.p in ORDERS.values(), f"p is {self.p}, not 1, 2 or ∞")
        fits = self.weight.dim() == 2 and 0 not in self.weight.shape and shapes[0] == (self.weight.shape[1],)
        expect(fits, f"a weight of {tuple(self.weight.shape)} does not fit {shapes[0]}")
        return (self.weight.shape[0],)

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        copies = self.shape[0] if part is None else int(part.sum())
        return self.one_by_one(walk, part, None, self.weight.shape[1], copies)

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        low, high = boxes[0]
        if self.p == math.inf:
            lower, upper = linf_bounds(low, high, self.weight)
        else:
            lower, upper = self._bounds(low, high)
        return self.rounded_outward(arithmetic, (lower, upper), boxes)

    def _bounds(self, low: Tensor, high: Tensor) -> Box:
        step = max(1, ENTRIES // (len(low) * self.weight.shape[1]))
        lower, upper = [], []
        for points in self.weight.split(step):
            below, above = (points - low[:, None], high[:, None] - points)  # how far a point lies inside
            outside = torch.maximum(-below, -above).clamp_min(0)
            lower.append(torch.linalg.vector_norm(outside, self.p, dim=2))
            upper.append(torch.linalg.vector_norm(torch.maximum(below.abs(), above.abs()), self.p, dim=2))
        return torch.cat(lower, 1), torch.cat(upper, 1)

    def moved(self, *errors: Tensor) -> Tensor:
        if self.p == math.inf:
            return errors[0].amax(1, keepdim=True).expand(-1, *self.shape)
        return errors[0].sum(1, keepdim=True).expand(-1, *self.shape) * UP  # at least the l_p norm


@dataclass(frozen=True, eq=False, kw_only=True)
class DistanceConvolution(_Distances):
    """‖patch − w_i‖_∞ at every position of a zero-padded image, with a weight (C', C/groups, k, k)."""

    weight: Tensor
    stride: int
    padding: int
    groups: int
    kind: ClassVar[str] = "distance_convolution"
    p: ClassVar[float] = math.inf  # type: ignore[misc]

    def evaluate(self, *values: Tensor) -> Tensor:
        return lp_distance_conv2d(values[0], self.weight, self.p, self.stride, self.padding, self.groups)

    def result_shape(self, *shapes: Shape) -> Shape:
        (shape,), weight = shapes, self.weight.shape
        expect(len(weight) == 4 and weight[2] == weight[3] and 0 not in weight, f"a weight of {tuple(weight)}")
        expect(self.stride > 0 and self.padding >= 0 and self.groups > 0, "the geometry is impossible")
        padded = math.prod(shape[:1]) * math.prod(n + 2 * self.padding for n in shape[1:])
        expect(padded < 1 << 31, "the geometry has billions of entries")
        fits = len(shape) == 3 and shape[0] == weight[1] * self.groups and weight[0] % self.groups == 0
        expect(fits, f"a weight of {tuple(weight)} in {self.groups} groups does not fit {shape}")
        sides = tuple((n + 2 * self.padding - weight[2]) // self.stride + 1 for n in shape[1:])
        expect(min(sides) > 0, f"a filter of {weight[2]} does not fit into {shape}")
        return (weight[0], *sides)

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        (channels, *sides), (outputs, per_group, k, _) = walk.shape(self.inputs[0]), self.weight.shape
        chosen = torch.ones(outputs, dtype=torch.bool) if part is None else part.flatten(1).any(1)
        filters = chosen.view(self.groups, -1).sum(1)
        need = (filters > 0).repeat_interleave(per_group)[:, None, None].expand(channels, *sides)
        copies = int(filters.max()) * (-(-k // self.stride)) ** 2
        return self.one_by_one(walk, part, need, per_group * k * k, copies)

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        geometry = (self.stride, self.padding, self.groups)
        return self.rounded_outward(arithmetic, linf_bounds_conv2d(*boxes[0], self.weight, *geometry), boxes)

    def moved(self, *errors: Tensor) -> Tensor:
        return errors[0].flatten(1).amax(1).view(-1, 1, 1, 1).expand(-1, *self.shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class NearestNeighbour(Operation):
    """y_k = −(l2 distance to the nearest of the `images` with label k); −∞ where no image has that label.

    `images` (N, C, H, W) are bytes, from 0 for 0 to 255 for 1; `labels` (N,) are below `classes`.
    """

    images: Tensor
    labels: Tensor
    classes: int
    kind: ClassVar[str] = "nearest_neighbour"
    by_length: ClassVar[bool] = True
    integers: ClassVar[dict[str, torch.dtype]] = {"images": torch.uint8, "labels": torch.int64}

    @property
    def products(self) -> int:
        return self.images.numel()

    def evaluate(self, *values: Tensor) -> Tensor:
        return class_distances(values[0], self.images, self.labels, self.classes)

    def result_shape(self, *shapes: Shape) -> Shape:
        types, own = (self.images.dtype, self.labels.dtype), tuple(self.images.shape[1:])
        expect(types == (torch.uint8, torch.int64), "the images are not bytes, or the labels are not integers")
        expect(self.images.dim() > 1 and own == shapes[0], f"images of {own} do not fit {shapes[0]}")
        expect(self.labels.shape == self.images.shape[:1] and self.classes > 0, "there is not one label for each image")
        inside = len(self.labels) == 0 or (int(self.labels.min()) >= 0 and int(self.labels.max()) < self.classes)
        expect(inside, f"a label is not between 0 and {self.classes - 1}")
        return (self.classes,)

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        """The distance to the nearest of several points moves by no more than the image does."""
        copies = self.classes if part is None else int(part.sum())
        gain = widening(2.0, walk.norm, self.images[0].numel() if len(self.images) else 1)
        return walk.product(gain, walk.copied(copies), walk.constant(self.inputs[0]))

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        low, high = boxes[0]
        middle, reach = self.evaluate((low + high) / 2), ((high - low) / 2).flatten(1).norm(dim=1, keepdim=True)
        if arithmetic.unit:
            reach = (reach + self.rounded(arithmetic, middle, largest(boxes[0])).amax(1, keepdim=True)) * UP
        return middle - reach, middle + reach

    def moved(self, *errors: Tensor) -> Tensor:
        return errors[0].flatten(1).sum(1, keepdim=True).expand(-1, self.classes) * UP

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        return self.rounded_near(arithmetic, torch.zeros_like(size), size, *sizes)

    def rounded_near(self, arithmetic: Arithmetic, least: Tensor, size: Tensor, *sizes: Tensor) -> Tensor:
        """The search compares squared distances, with errors of at most s/2 each. The image that it finds is at most at
        √(d² + s), if the nearest is at d: farther by at most √s, and by at most s/(2d). As √(d² + s) moves by no more
        than d does, the distance d at the centre of a ball is enough. The distance to the image that was found rounds
        as the norm of a vector does, and the stored image, which is divided by 255, rounds too."""
        n = max(1, sizes[0].numel() // len(sizes[0]))
        longest = torch.linalg.vector_norm(sizes[0].flatten(1), dim=1, keepdim=True) * UP + self.longest
        squared = 2 * arithmetic.gamma(n + 8) * longest * longest + (8 * n + 16) * arithmetic.tiny
        farther = torch.minimum(squared.sqrt(), squared / (2 * least)) * UP
        own = arithmetic.safety * arithmetic.gamma(n + 8) * (size.minimum(longest) + farther)
        own = own + farther + 8 * arithmetic.unit * longest + math.sqrt((8 * n + 16) * arithmetic.tiny)
        own = (own + 2e-15) * UP  # it adds 1e-30 under the root
        return own.where(longest * longest < arithmetic.largest / 8, math.inf)  # if squares overflow

    @property
    def longest(self) -> float:
        """The l2 norm of the longest stored image, which is computed once."""
        if "_longest" not in self.__dict__:
            squares = [
                float(part.flatten(1).double().square().sum(1).max()) for part in self.images.split(4096) if len(part)
            ]
            self.__dict__["_longest"] = math.sqrt(max(squares, default=0.0)) / 255 * UP
        return self.__dict__["_longest"]
