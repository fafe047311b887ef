"""Matrix products: one matrix, one for each branch, or one along an axis, as for averages and interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.frozen.operation import Shape, expect
from lipcert.frozen.ops.affine import LinearMap
from lipcert.norms import Matrices

if TYPE_CHECKING:
    from lipcert.frozen.lipschitz import Walk


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(LinearMap):
    """y = Wx + b along the last axis, with one matrix (m, n) for all positions, or G matrices (G, m, n) for (G, n)."""

    weight: Tensor
    bias: Tensor | None
    kind: ClassVar[str] = "linear"

    def linear(self, x: Tensor) -> Tensor:
        return product(x, self.weight, None)

    def magnitudes(self, x: Tensor) -> Tensor:
        return product(x, self.weight.abs(), None)

    def evaluate(self, *values: Tensor) -> Tensor:
        return product(values[0], self.weight, self.bias)

    def offset(self) -> Tensor | None:
        return self.bias

    def takes_claims(self, count: int) -> bool:
        """For all rows, or for each matrix or block of rows."""
        return self.weight.shape[0] == count if self.weight.dim() > 2 and count > 1 else not len(self.weight) % count

    @property
    def fan_in(self) -> int:
        return self.weight.shape[-1]

    @property
    def matrices(self) -> Matrices:
        return Matrices(self.weight.view(-1, *self.weight.shape[-2:]))

    def row_axis(self) -> int:
        return -1

    def whole(self) -> Matrices:
        return self.matrices

    def input_shape(self) -> Shape:
        return (*self.shape[:-1], self.weight.shape[-1])

    def result_shape(self, *shapes: Shape) -> Shape:
        (shape,), weight = shapes, tuple(self.weight.shape)
        fits = len(weight) == 2 and len(shape) >= 1 and shape[-1] == weight[1]
        fits |= len(weight) == 3 and shape == (weight[0], weight[2])
        expect(fits and 0 not in weight, f"a weight of {weight} does not fit {shape}")
        expect(self.bias is None or self.bias.shape == self.weight.shape[:-1], "the bias does not fit the weight")
        return (*shape[:-1], weight[-2])

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        return self.scaled_lipschitz(walk, number, part)

    def scaled_lipschitz(
        self, walk: Walk, number: int, part: Tensor | None, rows: Tensor | None = None, by: int = 0
    ) -> Any:
        """The constant of diag(rows)·W, measured as one operator; the `by`-th operation is the scaling by `rows`."""
        if self.weight.dim() == 2 and part is None:
            blocks = [(self._norm(walk, number, None, None, rows, by), self._needed(walk, None, None))]
            return walk.side_by_side(number, blocks)
        blocks, positions = [], len(self.weight) if self.weight.dim() == 3 else None
        mask = torch.ones(self.shape, dtype=torch.bool) if part is None else part
        mask = mask.reshape(-1, self.shape[-1])
        for at in mask.any(1).nonzero()[:, 0].tolist():
            chosen = None if bool(mask[at].all()) else mask[at]
            group = at if positions else None
            blocks.append((self._norm(walk, number, group, chosen, rows, by), self._needed(walk, at, chosen)))
        return walk.side_by_side(number, blocks)

    def _norm(
        self, walk: Walk, number: int, group: int | None, chosen: Tensor | None, rows: Tensor | None, by: int
    ) -> Any:
        def operator() -> Matrices:
            weight = self.weight if group is None else self.weight[group]
            weight = weight if rows is None else weight * rows[:, None]
            return Matrices((weight if chosen is None else weight[chosen])[None])

        return walk.measured(number, group, chosen, operator, by)

    def _needed(self, walk: Walk, at: int | None, chosen: Tensor | None) -> Tensor | None:
        """The entries of the input that the rows `chosen` read, at the position `at` (None: at all positions)."""
        weight = self.weight if self.weight.dim() == 2 else self.weight[at]
        seen = walk.support(weight if chosen is None else weight[chosen])
        shape = self.input_shape()
        if at is None:
            return None if seen is None else seen.expand(shape)
        need = torch.zeros(shape, dtype=torch.bool)
        need.view(-1, shape[-1])[at] = True if seen is None else seen
        return need


@dataclass(frozen=True, eq=False, kw_only=True)
class AlongAxis(LinearMap):
    """y = Mx along one axis, at every position of the others: means, average pooling, linear interpolation."""

    matrix: Tensor
    axis: int
    kind: ClassVar[str] = "along_axis"

    def linear(self, x: Tensor) -> Tensor:
        return along(x, self.matrix, self.axis + 1)

    def magnitudes(self, x: Tensor) -> Tensor:
        return along(x, self.matrix.abs(), self.axis + 1)

    def evaluate(self, *values: Tensor) -> Tensor:
        return along(values[0], self.matrix, self.axis + 1)

    @property
    def fan_in(self) -> int:
        return self.matrix.shape[1]

    def whole(self) -> Matrices:
        return Matrices(self.matrix[None])

    def input_shape(self) -> Shape:
        return (*self.shape[: self.axis], self.matrix.shape[1], *self.shape[self.axis + 1 :])

    def result_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        expect(self.matrix.dim() == 2 and 0 not in self.matrix.shape, "the matrix does not have two axes")
        fits = 0 <= self.axis < len(shape) and shape[self.axis] == self.matrix.shape[1]
        expect(fits, f"a matrix of {tuple(self.matrix.shape)} does not fit axis {self.axis} of {shape}")
        return (*shape[: self.axis], self.matrix.shape[0], *shape[self.axis + 1 :])

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        """The norm of the whole matrix; it is sound to count rows that the part does not need."""
        norm = walk.fixed(number, self.whole)
        need = None
        if part is not None:
            lines = part.any(self.axis, keepdim=True)
            need = lines.expand(self.input_shape())
        return walk.product(norm, walk.constant(self.inputs[0], need))


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, …, n) by one matrix (m, n) at each position, or (B, G, n) by G matrices (G, m, n)."""
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    x = x.transpose(0, 1)
    y = x @ weight.mT if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)
    return y.transpose(0, 1)


def along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """A matrix times each line of x along an axis, counted with the batch axis."""
    if axis == x.dim() - 1:
        return F.linear(x, matrix)
    if axis == x.dim() - 2:
        return matrix @ x
    return F.linear(x.movedim(axis, -1), matrix).movedim(-1, axis)
