"""What every operation of a frozen network provides. Each kind is one class in `ops/`, with all of its rules."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import Arithmetic

if TYPE_CHECKING:
    from lipcert.frozen.lipschitz import Walk

Box = tuple[Tensor, Tensor]
Shape = tuple[int, ...]
UP = 1 + 1e-12  # a bound that a few float64 operations computed is multiplied by this


@dataclass(frozen=True, eq=False, kw_only=True)
class Operation:
    """One step of a frozen network: its value is a fixed function of earlier values.

    A subclass adds its constants (fields of type Tensor), its attributes (numbers, strings and tuples of numbers) and
    the rules below. The batch axis comes first in every tensor that `evaluate` and `box` receive; shapes and parts have
    no batch axis, so that an operation which mixes images cannot be expressed.

    inputs  the numbers of the values that it reads: 0 is the image, k the value of the k-th operation
    shape   the shape of its value
    name    the name of the module that it comes from
    claim   the norm that the layer's own construction promises, one number for each group or row

    No proof depends on a name or a claim: they are for reports.
    """

    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    name: str = ""
    claim: tuple[float, ...] = ()

    kind: ClassVar[str]
    arity: ClassVar[int | None] = 1  # None: one or more
    integers: ClassVar[dict[str, torch.dtype]] = {}  # constants that are whole numbers, with their types
    by_length: ClassVar[bool] = False  # whether rounding errors depend on inputs by the l2 norms of their magnitudes

    def evaluate(self, *values: Tensor) -> Tensor:
        """The value for a batch, in the precision of the constants."""
        raise NotImplementedError

    @property
    def products(self) -> int:
        """How many products of an input and a weight, or differences of them, the value of one image takes."""
        return 0

    def result_shape(self, *shapes: Shape) -> Shape:
        """The shape of the value for inputs of these shapes. Raises ValueError where constants, attributes and inputs
        do not fit together: this checks what was read from a file before anything is computed."""
        raise NotImplementedError

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        """The Lipschitz constant, in the walk's norm, of the entries `part` (a mask of `shape`; None: all) of this
        value, which is the `number`-th, from `walk.constant(input, part of it)`. A constant that is too large is sound,
        and so is a part of an input that is too large."""
        raise NotImplementedError

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        """The box (low, high) of all values for inputs within the given boxes, rounded outward."""
        raise NotImplementedError

    def moved(self, *errors: Tensor) -> Tensor:
        """How far each entry of the value moves at most, if the entries of the inputs move by at most `errors`."""
        raise NotImplementedError

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        """How far each entry of the computed value lies at most from its exact value for the same inputs.

        The magnitudes of the inputs are at most `sizes`, that of the exact value is at most `size`, entry by entry.
        The bound counts the relative error of every rounding, and `arithmetic.tiny` for every underflow.
        """
        raise NotImplementedError

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: Any) -> Any:
        """The same distance in `norm`, for inputs of norms up to `lengths`, which are numbers or tensors (B,). Infinite
        where only `rounded` is known.

        Where it is finite, sizes may be split: for inputs of magnitudes a + m, with the norm of m at most ρ, the vector
        of errors is at most `rounded` of a, plus one whose norm is at most this bound of ρ less that of 0.
        """
        return math.inf

    def rounded_near(self, arithmetic: Arithmetic, least: Tensor, size: Tensor, *sizes: Tensor) -> Tensor:
        """`rounded`, where the magnitudes of the exact value are also known to be at least `least`.

        For logits this may be what they have at the centre of a ball alone. An operation that makes use of it then owes
        this: each computed logit on the ball lies between two functions, up to an error, that have no larger Lipschitz
        constant than the logit itself; the bound is of that error plus their distance at the centre.
        """
        return self.rounded(arithmetic, size, *sizes)

    def pull_back(self, shape: Shape, weights: Tensor, errors: Tensor) -> tuple[Tensor, Tensor] | None:
        """Functionals ⟨weights, value⟩, (R, *self.shape), known up to `errors`, as functionals of the input of `shape`,
        without their constant terms. None where the operation is not affine in one input."""
        return None

    def rounded_outward(self, arithmetic: Arithmetic, box: Box, boxes: tuple[Box, ...], times: int = 2) -> Box:
        """The computed box for inputs within `boxes`, widened by `times` its rounding error unless that is 0."""
        if not arithmetic.unit:
            return box
        return outward(*box, times * self.rounded(arithmetic, largest(box), *map(largest, boxes)))

    def takes_claims(self, count: int) -> bool:
        """Whether it may have so many claims; only linear maps may have any."""
        return False

    def constants(self) -> dict[str, Tensor]:
        """The constants by name, without those that are absent."""
        return {name: value for name in tensor_fields(type(self)) if (value := getattr(self, name)) is not None}

    def attributes(self) -> dict[str, Any]:
        """All other fields that a subclass has added, by name."""
        return {name: getattr(self, name) for name in plain_fields(type(self))}

    def to(self, *, dtype: torch.dtype, device: torch.device | str) -> Self:
        """The same operation with its floating-point constants in `dtype`, all of them on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            for name, value in self.constants().items()
        }
        return replace(self, **moved)


class Ordering(Operation):
    """Operations that only copy and compare entries: exact, and monotone in every entry of the inputs."""

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        low, high = (self.evaluate(*ends) for ends in zip(*boxes, strict=True))
        return low, high

    def moved(self, *errors: Tensor) -> Tensor:
        return self.evaluate(*errors)

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        return torch.zeros_like(size)

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: Any) -> Any:
        return 0.0


def tensor_fields(kind: type[Operation]) -> tuple[str, ...]:
    """The names of a kind's constants."""
    return tuple(f.name for f in fields(kind) if str(f.type).startswith("Tensor"))


def plain_fields(kind: type[Operation]) -> tuple[str, ...]:
    """The names of a kind's attributes, of type int, float, str, bool, or a tuple of one of them."""
    shared = ("inputs", "shape", "name", "claim")
    return tuple(f.name for f in fields(kind) if f.name not in shared and f.name not in tensor_fields(kind))


def outward(low: Tensor, high: Tensor, wider: Tensor | float) -> Box:
    """A box widened on both sides. An end that has overflowed is no bound: it becomes infinite on its own side."""
    low = (low - wider).nan_to_num_(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
    return low, (high + wider).nan_to_num_(nan=math.inf, posinf=math.inf, neginf=math.inf)


def largest(box: Box) -> Tensor:
    """The largest magnitude of each entry in a box."""
    return torch.maximum(box[0].abs(), box[1].abs())


def expect(condition: bool, what: str) -> None:
    """Raises ValueError(`what`) unless `condition` holds."""
    if not condition:
        raise ValueError(what)


def expect_axis(axis: int, shape: Shape) -> None:
    """Raises ValueError unless `shape` has the axis, counted from 0."""
    expect(0 <= axis < len(shape), f"{shape} has no axis {axis}")


def expect_broadcast(constant: Tensor, shape: Shape) -> None:
    """Raises ValueError unless a constant broadcasts to `shape` without widening it."""
    sides = zip(reversed(constant.shape), reversed(shape), strict=False)
    fits = constant.dim() <= len(shape) and all(n in (1, m) for n, m in sides)
    expect(fits, f"a constant of {tuple(constant.shape)} does not broadcast to {shape}")
