"""What every operation of a frozen network provides. Each kind has its class in `ops/`, and is complete there."""

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
UP = 1 + 1e-12  # bounds are multiplied by this wherever a few float64 operations computed them


@dataclass(frozen=True, eq=False, kw_only=True)
class Operation:
    """One step of a frozen network: its value is a fixed function of earlier values.

    A subclass adds its constants (fields of type Tensor) and attributes (numbers, words and tuples of numbers), and
    the rules below. A batch comes first in every tensor that `evaluate` and `box` see; shapes and parts have no
    batch axis, so that mixing images cannot be expressed.

    inputs  the numbers of the values that it reads: 0 is the image, k the value of the k-th operation
    shape   of its value
    name    of the module that it comes from
    claim   what that layer's own scheme promises of its norms, one number a group (or row); no proof rests on a name or
            a claim: they are for reports
    """

    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    name: str = ""
    claim: tuple[float, ...] = ()

    kind: ClassVar[str]
    arity: ClassVar[int | None] = 1  # None: one or more
    integers: ClassVar[dict[str, torch.dtype]] = {}  # constants that are whole numbers, with their types

    def evaluate(self, *values: Tensor) -> Tensor:
        """The value on a batch, in the precision of the constants."""
        raise NotImplementedError

    def result_shape(self, *shapes: Shape) -> Shape:
        """The shape that the value has on inputs of these shapes. ValueError where constants, attributes and inputs
        do not fit together: what was read from a file is checked by this before anything is computed."""
        raise NotImplementedError

    def lipschitz(self, walk: Walk, number: int, part: Tensor | None) -> Any:
        """How far the entries `part` (a mask of `shape`; None: all) of this value, the `number`-th, move in the walk's
        norm, from `walk.constant(input, part of it)`. Too large is sound, and so is asking for too much of an input."""
        raise NotImplementedError

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        """The box of all values over boxes (low, high) of the inputs, rounded outward."""
        raise NotImplementedError

    def moved(self, *errors: Tensor) -> Tensor:
        """How far each entry moves at most while the entries of the inputs move by `errors`; up to `UP`."""
        raise NotImplementedError

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        """By how much each entry of the computed value differs at most from the exact value of the same inputs, where
        those are at most `sizes` and the exact value is at most `size`, entry by entry. It counts the relative error
        of every rounding, and `arithmetic.tiny` for every underflow."""
        raise NotImplementedError

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: float) -> float:
        """The same in `norm`, for inputs whose norms are at most `lengths`. Infinite where only `rounded` is known."""
        return math.inf

    def pull_back(self, shape: Shape, weights: Tensor, errors: Tensor) -> tuple[Tensor, Tensor] | None:
        """Functionals x ↦ ⟨weights, value⟩ (R, *self.shape), known up to `errors`, as functionals of the input (of
        `shape`), constant terms left out. None where the operation is not affine in one input."""
        return None

    def constants(self) -> dict[str, Tensor]:
        """The constants by name, those that are absent left out."""
        return {name: value for name in tensor_fields(type(self)) if (value := getattr(self, name)) is not None}

    def attributes(self) -> dict[str, Any]:
        """Everything else that a subclass has added, by name."""
        return {name: getattr(self, name) for name in plain_fields(type(self))}

    def to(self, *, dtype: torch.dtype, device: torch.device | str) -> Self:
        """The same operation with its floating-point constants in `dtype`, all of them on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            for name, value in self.constants().items()
        }
        return replace(self, **moved)


class Ordering(Operation):
    """What only copies and compares entries: exact, and no entry falls while an entry of the inputs rises."""

    def box(self, arithmetic: Arithmetic, *boxes: Box) -> Box:
        low, high = (self.evaluate(*ends) for ends in zip(*boxes, strict=True))
        return low, high

    def moved(self, *errors: Tensor) -> Tensor:
        return self.evaluate(*errors)

    def rounded(self, arithmetic: Arithmetic, size: Tensor, *sizes: Tensor) -> Tensor:
        return torch.zeros_like(size)

    def rounded_in_norm(self, arithmetic: Arithmetic, norm: Norm, *lengths: float) -> float:
        return 0.0


def tensor_fields(kind: type[Operation]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if str(f.type).startswith("Tensor"))


def plain_fields(kind: type[Operation]) -> tuple[str, ...]:
    """Of type int, float, str, bool, or a tuple of them."""
    shared = ("inputs", "shape", "name", "claim")
    return tuple(f.name for f in fields(kind) if f.name not in shared and f.name not in tensor_fields(kind))


def outward(low: Tensor, high: Tensor, wider: Tensor | float) -> Box:
    """A box widened on both sides; an end that has overflowed is no bound, and becomes infinite on its own side."""
    low = (low - wider).nan_to_num_(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
    return low, (high + wider).nan_to_num_(nan=math.inf, posinf=math.inf, neginf=math.inf)


def largest(box: Box) -> Tensor:
    """The largest magnitude of each entry in a box."""
    return torch.maximum(box[0].abs(), box[1].abs())


def expect(condition: bool, what: str) -> None:
    """ValueError with `what` unless `condition` holds."""
    if not condition:
        raise ValueError(what)
