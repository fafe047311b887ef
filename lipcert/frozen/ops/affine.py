"""The rules that all linear operations share, and the operation that scales and shifts each entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lipcert import norms
from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import FLOAT64, Arithmetic
from lipcert.frozen.operation import UP, Box, Operation, Shape, expect_broadcast, largest, outward

if TYPE_CHECKING:
    from lipcert.frozen.lipschitz import Walk


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearMap(Operation):
    """x ↦ Wx + b. A subclass says how W and |W| are applied, and the rules of boxes and rounding follow from that."""

    def linear(self, x: Tensor) -> Tensor:
        """Wx."""
        raise NotImplementedError

    def magnitudes(self, x: Tensor) -> Tensor:
        """|W|x."""
        raise NotImplementedError

    @property
    def products(self) -> int:
        return math.prod(self.shape) * self.fan_in

    def offset(self) -> Tensor | None:
        """b, in a shape that broadcasts to that of the value; None for 0."""
        return None

    @property
    def fan_in(self) -> int:
        """The largest number of products that are summed in one entry of the value."""
        raise NotImplementedError

    def growth(self, norm: Norm) -> float:
        """An upper bound of the norm of |W|, which is computed once."""
        known: dict[Norm, float] = self.__dict__.setdefault("_growths", {})
        if norm not in known:
            known[norm] = float(norms.growth(self.whole(), norm).max())
        return known[norm]

    def whole(self) -> norms.Operator:
        """W as one operator."""
        raise NotImplementedError

    def input_shape(self) -> Shape:
        """The shape of the input."""
        raise NotImplementedError

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        """Centre ± |W|·radius (Gowal et al., ICCV 2019, §3)."""
        ((low, high),) = boxes
        centre, radius = (low + high) / 2, (high - low) / 2
        if arithmetic.unit:
            radius = radius + 2 * arithmetic.tiny  # numbers that are flushed to zero
        middle, reach = self.evaluate(centre), self.magnitudes(radius)
        if arithmetic.unit:
            x = largest((low, high)) + arithmetic.tiny
            size = self.magnitudes(x) + self._offset_size()
            rounds = arithmetic.safety * arithmetic.gamma(self.fan_in + 4)
            here = FLOAT64.safety * FLOAT64.gamma(self.fan_in + 4)  # this very sum is computed in float64
            reach = reach + (rounds + here) * size + self._underflow(arithmetic) * (1 + top(x))
            return outward(middle, middle, reach)
        return middle - reach, middle + reach

    def moved(self, *errors: Tensor) -> Tensor:
        return self.magnitudes(errors[0]) * UP

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        """γ_{n+2}·(|W||x| + |b|), times the safety of the arithmetic, and what is lost to numbers below the smallest
        normal one. This holds for any order of summation, with or without fused multiply-add."""
        (x,) = sizes
        reach = self.magnitudes(x + arithmetic.tiny) + self._offset_size()
        flushed = self.magnitudes(torch.full_like(x, arithmetic.tiny))  # inputs that are flushed to zero
        below = self._underflow(arithmetic) * (1 + top(x))
        return (self._relative(arithmetic) * reach + flushed) * UP + below

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: Any) -> Any:
        """The norm of |W| times that of the input (Higham, §3.5)."""
        (size,) = lengths
        growth, offset = self.growth(norm), self.offset()
        flushed = growth * ones(self.input_shape(), norm) * arithmetic.tiny
        reach = growth * size + flushed + (0.0 if offset is None else spread(offset, self.shape, norm))
        below = ones(self.shape, norm) * self._underflow(arithmetic) * (1 + size)
        return (self._relative(arithmetic) * reach + flushed + below) * UP

    def _relative(self, arithmetic: Arithmetic) -> float:
        """That of n products and an offset, n + 1 roundings deep, and of the float64 sum that bounds it."""
        return arithmetic.safety * arithmetic.gamma(self.fan_in + 2)

    def pull_back(self, shape: Shape, weights: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
        """Wᵀ, as the derivative of `linear`; the weight of an entry that W does not read stays exactly 0."""
        pulled = transposed(self.linear, shape, weights)
        size = transposed(self.magnitudes, shape, weights.abs() + errors)
        reached = transposed(self.magnitudes, shape, (weights.abs() + errors > 0).to(weights)) > 0
        terms = math.prod(self.shape) + 2
        relative = min(16 * (terms * 2.0**-53) / (1 - terms * 2.0**-53), 1.0)
        below = transposed(self.magnitudes, shape, errors) * UP
        return pulled, below + relative * size + reached.to(weights) * 2.0**-1000

    def _underflow(self, arithmetic: Arithmetic) -> float:
        """The loss to products, sums and weights that are flushed to zero, for an input of at most 1."""
        return 4 * (self.fan_in + 1) * arithmetic.tiny

    def _offset_size(self) -> Tensor | float:
        offset = self.offset()
        return 0.0 if offset is None else offset.abs()


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(Operation):
    """x ↦ scale·x + shift, entry by entry, with constants that broadcast to the shape of x.

    Batch normalisation in evaluation mode is such an operation, and so are sums and products with constants.
    """

    scale: Tensor | None
    shift: Tensor | None
    kind: ClassVar[str] = "affine"

    def evaluate(self, *values: Tensor) -> Tensor:
        (x,) = values
        if self.scale is None:
            return x if self.shift is None else x + self.shift
        return x * self.scale if self.shift is None else torch.addcmul(self.shift, x, self.scale)

    def result_shape(self, *shapes: Shape) -> Shape:
        for constant in self.constants().values():
            expect_broadcast(constant, shapes[0])
        return shapes[0]

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        (i,) = self.inputs
        if self.scale is None:
            return walk.constant(i, part)
        part = walk.restricted(part, self.scale != 0, self.shape)
        if part is not None and not bool(part.any()):
            return 0.0
        before, rows = walk.operation(i), self.rows_of(walk)
        if rows is not None:  # both are one linear map, whose norm may be far below the product of their norms
            return before.scaled_lipschitz(walk, i, part, rows, number)  # type: ignore[union-attr]
        return walk.product(walk.steepest(self.scale, self.shape, part), walk.constant(i, part))

    def rows_of(self, walk: Walk) -> Tensor | None:
        """The scale as one number for each row of the linear operation before it; None where it is not of that form."""
        before = walk.operation(self.inputs[0])
        if self.scale is None or not hasattr(before, "scaled_lipschitz"):
            return None
        return per_row(self.scale, self.shape, before)  # type: ignore[arg-type]

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        low, high = (self.evaluate(end) for end in boxes[0])
        if self.scale is not None:
            low, high = torch.minimum(low, high), torch.maximum(low, high)
        if not arithmetic.unit:
            return low, high
        size = largest((low, high))
        if self.scale is None:  # one rounding, relative to the result
            return outward(low, high, 2 * arithmetic.unit * size + 4 * arithmetic.tiny)
        return outward(low, high, self.rounded(arithmetic, size, largest(boxes[0])))

    def moved(self, *errors: Tensor) -> Tensor:
        return errors[0] if self.scale is None else errors[0] * self.scale.abs() * UP

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        (x,) = sizes
        if self.scale is None:  # one rounding, relative to the result
            return arithmetic.safety * arithmetic.unit * (size + 2 * arithmetic.tiny) + 4 * arithmetic.tiny
        steep = self.scale.abs()
        reach = (x + arithmetic.tiny) * steep + (0.0 if self.shift is None else self.shift.abs())
        relative = arithmetic.safety * arithmetic.gamma(2)
        return (relative * reach + arithmetic.tiny * (steep + x)) * UP + 4 * arithmetic.tiny

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: Any) -> Any:
        steep = 1.0 if self.scale is None else float(self.scale.abs().max())
        flushed = ones(self.shape, norm) * arithmetic.tiny
        reach = (lengths[0] + flushed) * steep + (0.0 if self.shift is None else spread(self.shift, self.shape, norm))
        relative = arithmetic.safety * arithmetic.gamma(2)
        return (relative * reach + flushed * (steep + 4 + lengths[0])) * UP

    def pull_back(self, shape: Shape, weights: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
        if self.scale is None:
            return weights, errors
        pulled, steep = weights * self.scale, self.scale.abs()
        reached = (weights.abs() + errors > 0) & (steep > 0)
        return pulled, errors * steep * UP + 2.0**-51 * pulled.abs() + reached.to(weights) * 2.0**-1000


def per_row(scale: Tensor, shape: Shape, before: Operation) -> Tensor | None:
    """`scale` as one number for each row of the linear operation `before`; None where it is not of that form."""
    axis = before.row_axis() if hasattr(before, "row_axis") else 0
    wide = (1,) * (len(shape) - scale.dim()) + tuple(scale.shape)
    if any(n != 1 for k, n in enumerate(wide) if k != axis % len(shape)):
        return None
    return scale.reshape(-1).expand(shape[axis])


def transposed(linear: Any, shape: Shape, weights: Tensor) -> Tensor:
    """The adjoint of a linear function of a batch, applied to weights (R, …): (R, *shape)."""
    with torch.enable_grad():
        x = torch.zeros((len(weights), *shape), dtype=weights.dtype, requires_grad=True)
        return torch.autograd.grad(linear(x), x, weights)[0]


def spread(entries: Tensor, shape: Shape, norm: Norm) -> float:
    """The norm, rounded up, of a constant broadcast to `shape`."""
    return length(entries.expand(shape), norm)


def length(x: Tensor, norm: Norm) -> float:
    """The norm of all entries of x, rounded up. Entries are scaled first, as the square of 2⁻⁵⁴⁰ is 0; below 2⁻¹⁰²²
    rounding errors are not relative, so that no length but 0 is smaller than that."""
    x = x.detach().flatten().abs()
    most = float(x.max()) if len(x) else 0.0
    if norm is Norm.LINF or most == 0 or not math.isfinite(most):
        return most
    scaled = x / most
    length = most * float(scaled.norm() if norm is Norm.L2 else scaled.sum()) * (1 + 4 * (len(x) + 4) * 2.0**-53)
    return max(length, 2.0**-1022)


def lengths(x: Tensor, norm: Norm) -> Tensor:
    """The same of each tensor in a batch, (B,); infinite where an entry is not a number."""
    x = x.reshape(len(x), -1)
    order = {Norm.L1: 1.0, Norm.L2: 2.0, Norm.LINF: math.inf}[norm]
    found, up = torch.linalg.vector_norm(x, order, dim=1), 1 + 4 * (x.shape[1] + 4) * 2.0**-53
    if bool(((found > 2.0**-400) & (found < 2.0**400)).all()):  # no square that counts has underflowed
        return found if norm is Norm.LINF else found * up
    x = x.abs().nan_to_num(math.inf, math.inf)
    most = x.amax(1)
    if norm is Norm.LINF:
        return most
    scaled = x / torch.where(most > 0, most, 1.0)[:, None]
    sums = scaled.square().sum(1).sqrt() if norm is Norm.L2 else scaled.sum(1)
    found = most * sums * up
    return torch.where(most > 0, found.clamp_min(2.0**-1022), 0.0).nan_to_num(math.inf, math.inf)


def top(x: Tensor) -> Tensor:
    """The largest entry of each tensor in a batch, (B, 1, …)."""
    return x.flatten(1).amax(1).view(-1, *[1] * (x.dim() - 1))


def ones(shape: Shape, norm: Norm) -> float:
    """The norm of a tensor of ones."""
    count = math.prod(shape)
    return {Norm.L2: math.sqrt(count) * UP, Norm.LINF: 1.0, Norm.L1: float(count)}[norm]
