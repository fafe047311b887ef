"""Bounds of the difference between computed values and those in real arithmetic, on balls around images.

The image is exact; each operation passes the error of its inputs on, by its Lipschitz rule, and adds its own rounding
error. That one depends on the magnitudes of its inputs: of the values at the centre of the ball, entry by entry, and of
the movement on the ball, in norm. Where the norm is l∞, and for all images at once, errors are passed on entry by entry
too, and the smaller bound counts: it is tight for shallow networks and vacuous for deep ones. Any operation, even one
that only compares, may flush subnormal numbers to zero, which costs `tiny` for each entry.

Source: Higham, *Accuracy and Stability of Numerical Algorithms*, §3. The derivation is in docs/soundness.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import FLOAT64, Arithmetic
from lipcert.frozen.boxes import all_boxes
from lipcert.frozen.lipschitz import LEAST, Walk, up
from lipcert.frozen.network import Network
from lipcert.frozen.operation import UP, Box, Operation, largest
from lipcert.frozen.ops.affine import Affine, lengths, ones

SLACK = 1e-6  # the computed value at the centre counts as larger by this share; whether that is enough is checked


def rounding(network: Network, walk: Walk, arithmetic: Arithmetic = FLOAT64) -> Tensor:
    """Bounds (K,) of |computed − exact| for each logit, over all images in [0, 1], in `arithmetic`; infinite where that
    may overflow. `walk` is the network's own walk, of proved constants."""
    return Roundings(network, walk).everywhere(arithmetic).logits[0]


@dataclass
class Errors:
    """By value, for each image of a batch: how far a computed value lies at most from the exact one.

    entries  (B, *shape), or what broadcasts to that
    lengths  (B,), in the norm of the network
    own      (B,), the share of its own operation
    logits   (B, K), of the last value
    """

    entries: list[Tensor] = field(default_factory=list)
    lengths: list[Tensor] = field(default_factory=list)
    own: list[Tensor] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.zeros(0))


class Roundings:
    """The rounding errors of a network. `walk` is its own walk, of proved constants.

    speeds       by value, how far it moves at most while the image moves by 1
    only_scaled  by value, whether nothing but scalings, which are measured as one operator with it, reads it
    """

    def __init__(self, network: Network, walk: Walk):
        self.network, self.walk = network, walk
        self.only_scaled = [False, *(only_scaled(walk, k) for k in range(1, len(network.operations) + 1))]
        self.speeds: list[float] = [1.0]
        for number, operation in enumerate(network.operations, 1):
            if self.only_scaled[number]:  # its own norm is not needed, and is not measured
                self.speeds.append(up(self.steep(operation) * self.speeds[operation.inputs[0]]))
            else:
                self.speeds.append(walk.constant(number))

    def steep(self, operation: Operation) -> float:
        """The norm of a linear operation, from above, where it is not measured."""
        return up(operation.growth(self.walk.norm))  # type: ignore[attr-defined]

    @functools.cached_property
    def in_float64(self) -> Errors:
        """For all images in [0, 1], evaluated in float64."""
        return self._all(FLOAT64, None)

    def everywhere(self, arithmetic: Arithmetic) -> Errors:
        """For all images in [0, 1], a batch of one."""
        return self.in_float64 if arithmetic == FLOAT64 else self._all(arithmetic, self.in_float64)

    def _all(self, arithmetic: Arithmetic, doubt: Errors | None) -> Errors:
        zero = torch.zeros(1, *self.network.shape, dtype=torch.float64)
        half = torch.full((1,), 0.5 * ones(self.network.shape, self.walk.norm), dtype=torch.float64)
        boxes = all_boxes(self.network, zero, zero + 1, FLOAT64)
        values = self.network.values(zero + 0.5)
        return _Pass(self, arithmetic, self.network, half, True).run(values, doubt, boxes)

    def around(self, values: Sequence[Tensor], reach: Tensor, arithmetic: Arithmetic) -> Errors:
        """For images in [0, 1] that lie within `reach` (B,) of images in [0, 1], whose values, as they are computed in
        float64, are `values`, (B, *shape) each. A ball of more than 0 radius holds other images, of smaller reach."""
        network = self.network.on(values[0].device)
        entrywise = self.walk.norm is Norm.LINF
        return _Pass(self, arithmetic, network, reach, entrywise).run(values, self.in_float64, None)


class _Pass:
    """One computation of errors, value after value.

    sizes  by value, magnitudes of the exact value at the centre, (B, *shape), from above
    moves  by value, how far it moves in norm at most on the ball, (B,); 0 where `sizes` covers the whole ball
    whole  by value, its norm on the ball, (B,)
    """

    def __init__(self, of: Roundings, arithmetic: Arithmetic, network: Network, reach: Tensor, entrywise: bool):
        self.of, self.arithmetic, self.network, self.entrywise = of, arithmetic, network, entrywise
        self.norm, self.reach, self.last = of.walk.norm, reach, len(network.operations)
        self.walk = _ErrorWalk(of.walk, reach)
        zero = torch.zeros_like(reach)
        self.errors = Errors([zero.view(-1, *[1] * len(network.shape)).expand(-1, *network.shape)], [zero], [zero])
        self.sizes: list[Tensor] = []
        self.moves: list[Tensor] = []
        self.whole: list[Tensor] = []
        self.overflowed = torch.zeros_like(reach, dtype=torch.bool)

    def run(self, values: Sequence[Tensor], doubt: Errors | None, boxes: Sequence[Box] | None) -> Errors:
        """`doubt` bounds the errors of `values`. Where it is None, these are trusted up to SLACK if their errors on the
        ball turn out to be smaller, and otherwise `boxes` (of the ball) tell the magnitudes."""
        self.sizes, self.moves = [values[0].abs()], [self.reach]
        self.whole = [(lengths(values[0], self.norm) + self.reach) * UP]
        for number in range(1, self.last + 1):
            centre, moved = values[number].abs(), self.of.speeds[number] * self.reach * UP
            length = lengths(centre, self.norm)
            if doubt is None:
                off, far = SLACK * (centre + wide(moved, centre)) + 2.0**-900, SLACK * (length + moved) + 2.0**-900
            else:
                off, far = doubt.entries[number].to(centre), doubt.lengths[number].to(centre)
            passed = self.passed(number)
            own, more = self.step(number, passed, (centre + off) * UP, moved, centre - off)
            if doubt is None and not bool((passed + own + wide(more, own) <= off).all()):
                assert boxes is not None
                still = torch.zeros_like(moved)
                own, more = self.step(number, passed, largest(boxes[number]), still, torch.zeros_like(centre))
            self.close(number, passed, own, more)
            if doubt is None:
                far = far.where(self.errors.lengths[number] <= far, math.inf)
            size = lengths(self.sizes[number], self.norm) + self.moves[number]
            self.whole.append(torch.minimum(length + far + moved, size) * UP)
        self.errors.logits = self.logits()
        return self.errors

    def passed(self, number: int) -> Tensor:
        """How far the exact value of an operation moves, entry by entry, by the errors of its inputs."""
        operation = self.network.operations[number - 1]
        if not self.entrywise and self.splits(number):
            return torch.zeros((), dtype=self.reach.dtype, device=self.reach.device)  # it is not asked for
        shapes = [self.sizes[i].shape for i in operation.inputs]
        errors = [self.errors.entries[i].expand(shape) for i, shape in zip(operation.inputs, shapes, strict=True)]
        return operation.moved(*errors)

    def splits(self, number: int) -> bool:
        """Whether the rounding error of an operation can be split into that at the centre and that of the movement."""
        operation = self.of.network.operations[number - 1]
        return math.isfinite(
            float(operation.rounded_in_norm(self.arithmetic, self.norm, *[0.0] * len(operation.inputs)))
        )

    def in_norm(self, number: int, sizes: list[Tensor]) -> Tensor:
        """The rounding error of an operation in norm, (B,), for inputs of these sizes plus their errors."""
        operation = self.of.network.operations[number - 1]
        sizes = [(sizes[i] + self.errors.lengths[i]) * UP for i in operation.inputs]
        found = operation.rounded_in_norm(self.arithmetic, self.norm, *sizes)  # type: ignore[arg-type]
        return torch.as_tensor(found).to(self.reach).expand_as(self.reach).nan_to_num(math.inf, math.inf)

    def step(self, number: int, passed: Tensor, size: Tensor, moved: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        """Takes down the magnitudes of a value: `size` and `moved` go into the lists, `least` is what the value at the
        centre has at least. Returns the rounding error of its operation in two parts that add up: one entry by entry,
        and one of which the norm is known."""
        self.sizes[number:], self.moves[number:] = [size], [moved]
        operation = self.network.operations[number - 1]
        inputs = operation.inputs
        if self.splits(number):
            more = self.in_norm(number, self.moves)
            own = operation.rounded(self.arithmetic, size, *(self.sizes[i] for i in inputs))
        else:
            more = torch.zeros_like(moved)
            reach = [self.sizes[i] + wide(self.moves[i], self.sizes[i]) + self.errors.entries[i] for i in inputs]
            most, least = size + wide(moved, size) + passed, least - wide(moved, size) - passed
            own = operation.rounded_near(self.arithmetic, least.clamp_min(0) / UP, most, *reach)
        own = (own * UP).expand_as(size) + self.arithmetic.tiny
        return own.nan_to_num(math.inf, math.inf), more

    def close(self, number: int, passed: Tensor, own: Tensor, more: Tensor) -> None:
        """Takes down the error of a value, whose operation adds `own` and `more`."""
        operation = self.network.operations[number - 1]
        tiny = self.arithmetic.tiny * ones(operation.shape, self.norm)
        self.walk.add(own, more, self.in_norm(number, self.whole) + tiny)
        if self.of.only_scaled[number]:
            (i,) = operation.inputs
            error = self.walk.total([self.of.steep(operation) * self.errors.lengths[i], self.walk.own(number, None)])
        else:
            error = self.walk.constant(number)
        entries = wide(error, own)
        if self.entrywise:
            entries = torch.minimum((passed + own + wide(more, own)) * UP, entries)
            error = torch.minimum(error, lengths(entries, self.norm))
        size = self.sizes[number] + wide(self.moves[number], own) + entries
        self.overflowed = self.overflowed | overflows(self.arithmetic, size, own + wide(more, own), number == self.last)
        self.errors.entries.append(entries)
        self.errors.lengths.append(error)
        self.errors.own.append(self.walk.own(number, None))

    def logits(self) -> Tensor:
        """The bounds (B, K) of the errors of the logits."""
        single = [self.walk.constant(self.last, mask) for mask in torch.eye(self.network.classes, dtype=torch.bool)]
        bound = torch.minimum(torch.stack(single, 1), self.errors.entries[-1])
        return bound.masked_fill(self.overflowed[:, None], math.inf).nan_to_num(math.inf, math.inf)


class _ErrorWalk(Walk):
    """Distances of computed values from exact ones, for a batch: (B,) tensors, rounded up."""

    def __init__(self, walk: Walk, like: Tensor):
        super().__init__(walk.network, walk.norm, walk.measure)
        self.norms, self.zero = walk.norms, torch.zeros_like(like)
        self.shares: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, entries: Tensor, more: Tensor, in_norm: Tensor) -> None:
        """The rounding error of the next operation: entry by entry and `more` in norm, or all of it in norm."""
        self.shares.append((entries, more, in_norm))

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
        entries = entries if part is None else entries[:, part.to(entries.device)]
        return torch.minimum((lengths(entries, self.norm) + more) * UP, in_norm)

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


def overflows(arithmetic: Arithmetic, size: Tensor, own: Tensor, last: bool) -> Tensor:
    """For which images (B,) a value of at most `size`, or an intermediate result, may overflow. If the rounding error
    `own` is below u·largest, every intermediate result that is rounded is below the largest number. Logits may be −∞:
    that is the logit of a class without images in a nearest-neighbour classifier."""
    if last:
        size = size.where(size < math.inf, 0.0)
    return ~((size < arithmetic.largest / 4) & (own < arithmetic.unit * arithmetic.largest)).flatten(1).all(1)
