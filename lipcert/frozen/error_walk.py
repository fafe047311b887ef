"""Rounding errors by value, and the walk that adds them up for a batch of images at a time."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import Arithmetic
from lipcert.frozen.lipschitz import LEAST, Walk
from lipcert.frozen.operation import UP
from lipcert.frozen.ops.affine import Affine, lengths


@dataclass
class Errors:
    """By value, for each image of a batch: how far a computed value lies at most from the exact one.

    entries  (B, *shape), or what broadcasts to that
    lengths  (B,), in the norm of the network
    own      (B,), the share of its own operation; infinite where it may overflow
    logits   (B, K), of the last value
    head     where the last operation is affine in one value: (K, K), how far y_t − y_i moves at most while that value
             moves by 1; (B,), the error of that value; (B, K), what the last operation adds to the error of each logit
    """

    entries: list[Tensor] = field(default_factory=list)
    lengths: list[Tensor] = field(default_factory=list)
    own: list[Tensor] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.zeros(0))
    head: tuple[Tensor, Tensor, Tensor] | None = None

    def of_margins(self, labels: Tensor) -> Tensor:
        """Bounds (B, K) of the errors of y_t − y_i for the labels t, (B,)."""
        both = of_margins(self.logits, labels)
        if self.head is None:
            return both
        moves, error, own = self.head
        apart = (moves.to(error)[labels] * error[:, None] + of_margins(own, labels)) * UP
        return torch.minimum(both, apart.nan_to_num(math.inf, math.inf)).where(both < math.inf, math.inf)


def of_margins(errors: Tensor, labels: Tensor) -> Tensor:
    """Bounds (B, K) of the errors of y_t − y_i for the labels t, (B,), from those of logits, (K,) or (B, K)."""
    errors = errors.expand(len(labels), -1)
    return (errors.gather(1, labels[:, None]) + errors) * UP


class ErrorWalk(Walk):
    """Distances of computed values from exact ones, for a batch: (B,) tensors, rounded up."""

    def __init__(self, walk: Walk, like: Tensor):
        super().__init__(walk.network, walk.norm, walk.measure)
        self.norms, self.zero = walk.norms, torch.zeros_like(like)
        self.shares: list[tuple[Tensor | None, Tensor, Tensor]] = []
        self.whole: list[Tensor] = []

    def add(self, entries: Tensor | None, more: Tensor, in_norm: Tensor) -> None:
        """The rounding error of the next operation: entry by entry and `more` in norm, and all of it in norm."""
        self.shares.append((entries, more, in_norm))
        whole = in_norm
        if entries is not None:
            whole = torch.minimum((lengths(entries, self.norm) + more) * UP, in_norm)
        self.whole.append(whole)

    def start(self, part: Tensor | None) -> Tensor:
        return self.zero

    def checked(self, value: int, constant: Any, part: Tensor | None) -> Any:
        operation, own = self.network.operations[value - 1], self.own(value, part)
        if isinstance(operation, Affine) and operation.rows_of(self) is not None:
            # it is measured as one operator with the layer before it, and scales the rounding error of that layer
            steep = self.steepest(operation.scale, operation.shape, part)  # type: ignore[arg-type]
            own = own + steep * self.own(operation.inputs[0], part) * UP
        return self.total([constant, own])

    def own(self, value: int, part: Tensor | None) -> Tensor:
        """The rounding error that the operation of a value adds to the entries `part`."""
        entries, more, in_norm = self.shares[value - 1]
        if part is None or entries is None:
            return self.whole[value - 1]
        chosen = entries.reshape(len(entries), -1)[:, part.flatten().to(entries.device)]
        return torch.minimum((lengths(chosen, self.norm) + more) * UP, in_norm)

    def behind_a_split(self, parts: dict[int, Tensor]) -> list[Tensor]:
        return []  # rounding errors after the split are not proportional to the movement of the split

    # ---- arithmetic, rounded up

    def product(self, *factors: Any) -> Any:
        if not any(isinstance(factor, Tensor) for factor in factors):
            return super().product(*factors)
        result = self.zero + 1.0
        for factor in factors:
            result = self.up(result * factor)
        return result

    def total(self, constants: Sequence[Any]) -> Tensor:
        return self.up(sum(constants, self.zero))

    def most(self, constants: Sequence[Any]) -> Any:
        return self.chosen(constants, torch.maximum, max)

    def least(self, constants: Sequence[Any]) -> Any:
        return self.chosen(constants, torch.minimum, min)

    def merged(self, constants: Sequence[Any]) -> Any:
        if len(constants) < 2:
            return constants[0] if constants else 0.0
        if self.norm is Norm.LINF:
            return self.most(constants)
        if self.norm is Norm.L1:
            return self.total(constants)
        return self.up(functools.reduce(torch.hypot, [self.zero + constant for constant in constants]))

    def chosen(self, constants: Sequence[Any], of_tensors: Any, of_numbers: Any) -> Any:
        if not any(isinstance(constant, Tensor) for constant in constants):
            return of_numbers(constants)
        return functools.reduce(of_tensors, [self.zero + constant for constant in constants])

    def up(self, bound: Tensor) -> Tensor:
        """A bound that a few float64 operations computed, rounded up, and never below LEAST: no product is 0 only
        because it underflowed. Infinite where it is not a number."""
        return (bound * UP).clamp_min(LEAST).nan_to_num(math.inf, math.inf)


def only_scaled(walk: Walk, number: int) -> bool:
    """Whether nothing but scalings, which are measured as one operator with it, reads a value."""
    readers = [o for o in walk.network.operations if number in o.inputs]
    return bool(readers) and all(isinstance(o, Affine) and o.rows_of(walk) is not None for o in readers)


def wide(numbers: Tensor, like: Tensor) -> Tensor:
    """One number for each image of a batch, (B,), in a shape that broadcasts to that of `like`, (B, …)."""
    return numbers.view(-1, *[1] * (like.dim() - 1))


def stretched(size: Tensor, more: Tensor) -> Tensor:
    """Magnitudes (B, …) whose l2 norm is that of `size`, (B, …), plus `more`, (B,), rounded up."""
    norm = wide(torch.linalg.vector_norm(size.flatten(1), dim=1), size)
    short = norm < 1e-100  # it counts as 1e-100, in each entry
    ahead = 1 + wide(more, size) / norm.masked_fill(short, 1e-100)
    return torch.where(short, 1e-100, size) * ahead * UP


def overflows(arithmetic: Arithmetic, size: Tensor, own: Tensor, last: bool) -> Tensor:
    """For which images (B,) a value of at most `size`, or an intermediate result, may overflow. If the rounding error
    `own` is below u·largest, every intermediate result that is rounded is below the largest number. Logits may be −∞:
    that is the logit of a class without images in a nearest-neighbour classifier."""
    if last:
        size = size.where(size < math.inf, 0.0)
    return ~((size < arithmetic.largest / 4) & (own < arithmetic.unit * arithmetic.largest)).flatten(1).all(1)
