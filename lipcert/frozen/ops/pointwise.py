"""Nonlinear functions that are applied entry by entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import Arithmetic
from lipcert.frozen.operation import UP, Box, Operation, Shape, expect, expect_axis, expect_broadcast
from lipcert.frozen.ops import functions
from lipcert.frozen.ops.affine import ones

if TYPE_CHECKING:
    from lipcert.frozen.lipschitz import Walk


@dataclass(frozen=True, eq=False, kw_only=True)
class Pointwise(Operation):
    """f(x) for each entry; f is one of the functions below."""

    function: str
    parameters: tuple[float, ...]
    kind: ClassVar[str] = "pointwise"

    def evaluate(self, *values: Tensor) -> Tensor:
        return functions.FUNCTIONS[self.function].evaluate(values[0], *self.parameters)

    def result_shape(self, *shapes: Shape) -> Shape:
        functions.check(self.function, self.parameters)
        return shapes[0]

    def slope(self) -> float:
        return functions.FUNCTIONS[self.function].slope(*self.parameters) * UP

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        moved = walk.constant(self.inputs[0], part)
        return moved if functions.FUNCTIONS[self.function].exact else walk.product(self.slope(), moved)

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        box = functions.bounds_between(self.function, *boxes[0], self.parameters)
        exact = functions.FUNCTIONS[self.function].exact and not self.parameters
        return box if exact else self.rounded_outward(arithmetic, box, boxes)  # parameters are float64 numbers

    def moved(self, *errors: Tensor) -> Tensor:
        exact = functions.FUNCTIONS[self.function].exact
        return errors[0] if exact else errors[0] * self.slope()

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        """16 roundings, relative to |f(0)| + slope·|x|; the errors of well-kept libraries are far smaller."""
        if functions.FUNCTIONS[self.function].exact:
            return torch.full_like(size, self._of_parameters(arithmetic))
        reach = self._at_zero() + self.slope() * sizes[0]
        return arithmetic.gamma(16) * reach * UP + self._underflow(arithmetic, sizes[0])

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: Any) -> Any:
        spread = ones(self.shape, norm)
        if functions.FUNCTIONS[self.function].exact:
            return self._of_parameters(arithmetic) * spread
        reach = self._at_zero() * spread + self.slope() * lengths[0]
        return (arithmetic.gamma(16) * reach + self._underflow(arithmetic, lengths[0]) * spread) * UP

    def _of_parameters(self, arithmetic: Arithmetic) -> float:
        """The loss to parameters, which are float64 numbers, in less precision, or if they are flushed to zero."""
        finite = [abs(p) for p in self.parameters if math.isfinite(p) and p]
        return sum(2 * arithmetic.unit * p if arithmetic.unit > 2.0**-53 else 0.0 for p in finite) + sum(
            arithmetic.tiny for p in finite if p < arithmetic.tiny
        )

    def _underflow(self, arithmetic: Arithmetic, x: Any) -> Any:
        """The loss to the underflow of results, arguments and products of parameters, for arguments of at most `x`.
        Infinite where such a product may overflow, by itself or with an argument (softplus multiplies by beta before it
        divides by it), or where a parameter is not a normal number."""
        sizes = [abs(p) for p in self.parameters if p]
        gain = math.prod(max(1.0, p) for p in sizes)
        if any(p < arithmetic.tiny for p in sizes) or not gain * gain < arithmetic.largest:
            gain = math.inf
        reach = (4 + self.slope() + 4 * gain) * (1 + x)
        if not isinstance(x, Tensor):
            return (reach if reach < arithmetic.largest else math.inf) * arithmetic.tiny
        return reach.where(reach < arithmetic.largest, math.inf) * arithmetic.tiny

    def _at_zero(self) -> float:
        return abs(functions.value_at(self.function, 0.0, self.parameters))


@dataclass(frozen=True, eq=False, kw_only=True)
class LeakyReLU(Operation):
    """x where it is positive and slope·x where it is negative, with a slope for each channel or entry (PReLU)."""

    slope: Tensor
    kind: ClassVar[str] = "leaky_relu"

    def evaluate(self, *values: Tensor) -> Tensor:
        (x,) = values
        return torch.where(x > 0, x, self.slope * x)

    def result_shape(self, *shapes: Shape) -> Shape:
        expect_broadcast(self.slope, shapes[0])
        return shapes[0]

    def steepest(self) -> Tensor:
        return self.slope.abs().clamp_min(1.0)

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        return walk.product(walk.steepest(self.steepest(), self.shape, part), walk.constant(self.inputs[0], part))

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        low, high = boxes[0]
        ends = (self.evaluate(low), self.evaluate(high))
        least, most = torch.minimum(*ends), torch.maximum(*ends)
        least = torch.where((low < 0) & (high > 0), least.clamp_max(0), least)  # with a negative slope it turns at 0
        return self.rounded_outward(arithmetic, (least, most), boxes)

    def moved(self, *errors: Tensor) -> Tensor:
        return errors[0] * self.steepest() * UP

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        steep = self.steepest()
        return (2 * arithmetic.unit * sizes[0] * steep + (2 + steep + sizes[0]) * arithmetic.tiny) * UP

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: Any) -> Any:
        steep = float(self.steepest().max())
        flushed = (2 + steep + lengths[0]) * arithmetic.tiny * ones(self.shape, norm)
        return (2 * arithmetic.unit * steep * lengths[0] + flushed) * UP


@dataclass(frozen=True, eq=False, kw_only=True)
class TwoSided(Operation):
    """x ↦ (f(x), f(x) − x), joined along `axis`; f is the ReLU, t·sigmoid(4x/t) or t·tanh(x/t) (Qian & Wegman, ICLR
    2019, §2.3).

    f is increasing with slope ≤ 1, so that |Δf| + |Δx − Δf| = |Δx|: the whole is nonexpansive in l1, l2 and l∞, which
    two separate halves would not be. `t` broadcasts to the shape of x.
    """

    function: str
    t: Tensor | None
    axis: int
    kind: ClassVar[str] = "two_sided"

    def evaluate(self, *values: Tensor) -> Tensor:
        return torch.cat(self.halves(values[0]), self.axis + 1)

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.function == "relu":
            return x.relu(), (-x).relu()
        curve = self.curve(x)
        return curve, curve - x

    def curve(self, x: Tensor) -> Tensor:
        assert self.t is not None
        return self.t * (torch.sigmoid(4 * x / self.t) if self.function == "sigmoid" else torch.tanh(x / self.t))

    def result_shape(self, *shapes: Shape) -> Shape:
        (shape,), axis = shapes, self.axis
        expect(self.function in ("relu", "sigmoid", "tanh"), f"`{self.function}` is not a function of two-sided units")
        expect_axis(axis, shape)
        if self.function == "relu":
            expect(self.t is None, "a two-sided ReLU takes no t")
        else:
            expect(self.t is not None and bool((self.t > 0).all()), "t is not positive")
            expect_broadcast(self.t, shape)  # type: ignore[arg-type]
        return (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        if part is not None:
            first, second = part.chunk(2, self.axis)
            part = first | second
        moved = walk.constant(self.inputs[0], part)
        return moved if self.function == "relu" else walk.product(UP, moved)

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        low, high = boxes[0]
        (a, b), (c, d) = self.halves(low), self.halves(high)  # the first half is increasing, the second decreasing
        least, most = torch.cat((a, d), self.axis + 1), torch.cat((c, b), self.axis + 1)
        return (least, most) if self.function == "relu" else self.rounded_outward(arithmetic, (least, most), boxes)

    def moved(self, *errors: Tensor) -> Tensor:
        return torch.cat((errors[0], errors[0]), self.axis + 1) * UP

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        if self.t is None:
            return torch.zeros_like(size)
        t = self.t.expand(self.shape_of_half())
        once = arithmetic.gamma(32) * (sizes[0] + 2 * t) + (8 + 4 * t) * arithmetic.tiny
        once = once.where(t >= arithmetic.tiny, math.inf)  # if t is flushed to zero, 0/0 is left
        return torch.cat((once, once), self.axis + 1) * UP

    def shape_of_half(self) -> Shape:
        return (*self.shape[: self.axis], self.shape[self.axis] // 2, *self.shape[self.axis + 1 :])

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: Any) -> Any:
        return 0.0 if self.t is None else math.inf
