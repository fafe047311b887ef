"""Operations on several values: sums, concatenations, the larger of two, and the split and merge of residual blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import Arithmetic
from lipcert.frozen.operation import UP, Box, Operation, Ordering, Shape, expect, expect_axis, expect_broadcast
from lipcert.frozen.ops.affine import ones

if TYPE_CHECKING:
    from lipcert.frozen.lipschitz import Walk


def expect_same(shapes: tuple[Shape, ...]) -> None:
    """Raises ValueError where two inputs differ in shape: nothing broadcasts."""
    expect(shapes[0] == shapes[1], f"{shapes[0]} and {shapes[1]} are not the same shape")


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Operation):
    """x + y, or x − y with `minus`."""

    minus: bool
    kind: ClassVar[str] = "add"
    arity: ClassVar[int | None] = 2

    def evaluate(self, *values: Tensor) -> Tensor:
        return values[0] - values[1] if self.minus else values[0] + values[1]

    def result_shape(self, *shapes: Shape) -> Shape:
        expect_same(shapes)
        return shapes[0]

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        return walk.total([walk.constant(i, part) for i in self.inputs])

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        (a, b), (c, d) = boxes
        low, high = (a - d, b - c) if self.minus else (a + c, b + d)
        return self.rounded_outward(arithmetic, (low, high), boxes, 1)

    def moved(self, *errors: Tensor) -> Tensor:
        return (errors[0] + errors[1]) * UP

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        return 2 * arithmetic.unit * (sizes[0] + sizes[1]) * UP + 4 * arithmetic.tiny

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: Any) -> Any:
        return (2 * arithmetic.unit * sum(lengths) + 4 * arithmetic.tiny * ones(self.shape, norm)) * UP


@dataclass(frozen=True, eq=False, kw_only=True)
class Concatenate(Ordering):
    """All inputs, joined along `axis`."""

    axis: int
    kind: ClassVar[str] = "concatenate"
    arity: ClassVar[int | None] = None

    def evaluate(self, *values: Tensor) -> Tensor:
        return torch.cat(values, self.axis + 1)

    def result_shape(self, *shapes: Shape) -> Shape:
        first, axis = shapes[0], self.axis
        expect_axis(axis, first)
        rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
        fits = len(rest) == 1 and all(len(shape) == len(first) for shape in shapes)
        expect(fits, f"{shapes} cannot be joined along axis {axis}")
        return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        """The squares of the constants add up in l2, the constants in l1; in l∞ the largest counts."""
        if part is None:
            return walk.joint([(i, None) for i in self.inputs])
        pieces = part.split([walk.shape(i)[self.axis] for i in self.inputs], self.axis)
        return walk.joint(list(zip(self.inputs, pieces, strict=True)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Maximum(Ordering):
    """The larger of x and y, entry by entry; the smaller with `minimum`."""

    minimum: bool
    kind: ClassVar[str] = "maximum"
    arity: ClassVar[int | None] = 2

    def evaluate(self, *values: Tensor) -> Tensor:
        return torch.minimum(*values) if self.minimum else torch.maximum(*values)

    def result_shape(self, *shapes: Shape) -> Shape:
        expect_same(shapes)
        return shapes[0]

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        """Each entry moves by no more than that one of its two inputs which moves farther."""
        return walk.joint([(i, part) for i in self.inputs])

    def moved(self, *errors: Tensor) -> Tensor:
        return torch.maximum(*errors)


@dataclass(frozen=True, eq=False, kw_only=True)
class MinMax(Ordering):
    """(x, y) ↦ (max(x, y), min(x, y)), joined along `axis`: it sorts pairs of entries, and is a permutation at every
    point (Anil, Lucas & Grosse, ICML 2019)."""

    axis: int
    kind: ClassVar[str] = "min_max"
    arity: ClassVar[int | None] = 2

    def evaluate(self, *values: Tensor) -> Tensor:
        return torch.cat((torch.maximum(*values), torch.minimum(*values)), self.axis + 1)

    def result_shape(self, *shapes: Shape) -> Shape:
        shape, axis = shapes[0], self.axis
        expect_same(shapes)
        expect_axis(axis, shape)
        return (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        if part is not None:
            first, second = part.chunk(2, self.axis)
            part = first | second
        return walk.joint([(i, part) for i in self.inputs])

    def moved(self, *errors: Tensor) -> Tensor:
        larger = torch.maximum(*errors)
        return torch.cat((larger, larger), self.axis + 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Split(Operation):
    """x ↦ (first·x, second·x) along a new first axis: both branches of a residual block (Qian & Wegman, eq. 9)."""

    first: Tensor
    second: Tensor
    kind: ClassVar[str] = "split"

    def evaluate(self, *values: Tensor) -> Tensor:
        (x,) = values
        return torch.stack((self.first * x, self.second * x), 1)

    def result_shape(self, *shapes: Shape) -> Shape:
        for constant in (self.first, self.second):
            expect_broadcast(constant, shapes[0])
        return (2, *shapes[0])

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        (i,) = self.inputs
        shape = walk.shape(i)
        mask = torch.ones(self.shape, dtype=torch.bool) if part is None else part
        factors = torch.stack([c.abs().expand(shape) for c in (self.first, self.second)]).where(mask, 0.0)
        need = mask.any(0)
        return walk.product(walk.steepest(walk.lengths(factors), shape, need), walk.constant(i, need))

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        ends = [torch.stack((self.first * end, self.second * end), 1) for end in boxes[0]]
        return self.rounded_outward(arithmetic, (torch.minimum(*ends), torch.maximum(*ends)), boxes, 1)

    def moved(self, *errors: Tensor) -> Tensor:
        return torch.stack((self.first.abs() * errors[0], self.second.abs() * errors[0]), 1) * UP

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        x = sizes[0] * arithmetic.unit * 2 + arithmetic.tiny
        flushed = (2 + sizes[0]) * arithmetic.tiny  # of results and of factors
        return torch.stack((self.first.abs() * x + flushed, self.second.abs() * x + flushed), 1) * UP

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: Any) -> Any:
        steep = float(self.first.abs().max()) + float(self.second.abs().max())
        flushed = (2 + steep + lengths[0]) * arithmetic.tiny * ones(self.shape, norm)
        return (2 * arithmetic.unit * steep * lengths[0] + flushed) * UP


@dataclass(frozen=True, eq=False, kw_only=True)
class Merge(Operation):
    """(x, y) ↦ first·x + second·y: the end of both branches of a residual block (Qian & Wegman, ICLR 2019, eq. 10)."""

    first: Tensor
    second: Tensor
    kind: ClassVar[str] = "merge"
    arity: ClassVar[int | None] = 2

    def evaluate(self, *values: Tensor) -> Tensor:
        return self.first * values[0] + self.second * values[1]

    def result_shape(self, *shapes: Shape) -> Shape:
        expect_same(shapes)
        for constant in (self.first, self.second):
            expect_broadcast(constant, shapes[0])
        return shapes[0]

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        """The sum of both, or in l2 √(first² + second²) times the constant of both inputs together if that is less."""
        constants = (self.first, self.second)
        moved = [
            walk.product(walk.steepest(c, self.shape, part), walk.constant(i, part))
            for c, i in zip(constants, self.inputs, strict=True)
        ]
        apart = walk.total(moved)
        if walk.norm is not Norm.L2:
            return apart
        steep = torch.hypot(*(c.expand(self.shape) for c in constants)) * UP
        together = walk.joint([(i, part) for i in self.inputs])
        return walk.least([apart, walk.product(walk.steepest(steep, self.shape, part), together)])

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        ends = [(c * low, c * high) for c, (low, high) in zip((self.first, self.second), boxes, strict=True)]
        low = torch.minimum(*ends[0]) + torch.minimum(*ends[1])
        high = torch.maximum(*ends[0]) + torch.maximum(*ends[1])
        return self.rounded_outward(arithmetic, (low, high), boxes)

    def moved(self, *errors: Tensor) -> Tensor:
        return (self.first.abs() * errors[0] + self.second.abs() * errors[1]) * UP

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        x, y = (s + arithmetic.tiny for s in sizes)
        reach = self.first.abs() * x + self.second.abs() * y
        flushed = (self.first.abs() + self.second.abs() + x + y + 6) * arithmetic.tiny
        return (4 * arithmetic.gamma(2) * reach + flushed) * UP

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: Any) -> Any:
        steep = [float(c.abs().max()) for c in (self.first, self.second)]
        flushed = (sum(steep) + sum(lengths) + 6) * arithmetic.tiny * ones(self.shape, norm)
        reach = sum(s * n for s, n in zip(steep, lengths, strict=True)) + flushed
        return (4 * arithmetic.gamma(2) * reach + flushed) * UP
