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

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import FLOAT64, Arithmetic
from lipcert.frozen.boxes import all_boxes
from lipcert.frozen.error_walk import ErrorWalk, only_scaled
from lipcert.frozen.lipschitz import Walk, up
from lipcert.frozen.network import Network
from lipcert.frozen.operation import UP, Box, Operation, largest
from lipcert.frozen.ops.affine import lengths, ones

SLACK = 1e-6  # the computed value at the centre counts as larger by this share; whether that is enough is checked
LITTLE = 2.0**-1000  # by which it may be wrong where it is 0


def rounding(network: Network, walk: Walk, arithmetic: Arithmetic = FLOAT64) -> Tensor:
    """Bounds (K,) of |computed − exact| for each logit, over all images in [0, 1], in `arithmetic`; infinite where that
    may overflow. `walk` is the network's own walk, of proved constants."""
    return Roundings(network, walk).everywhere(arithmetic).logits[0]


@dataclass
class Errors:
    """By value, for each image of a batch: how far a computed value lies at most from the exact one.

    entries  (B, *shape), or what broadcasts to that
    lengths  (B,), in the norm of the network
    own      (B,), the share of its own operation; infinite where it may overflow
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
        self.constants: dict[tuple[Arithmetic, int], float] = {}

    def steep(self, operation: Operation) -> float:
        """The norm of a linear operation, from above, where it is not measured."""
        return up(operation.growth(self.walk.norm))  # type: ignore[attr-defined]

    @functools.cached_property
    def in_parts(self) -> set[int]:
        """The values of which the walk has looked at parts."""
        return {value for value, part in self.walk.known if part is not None}

    def splits(self, number: int, arithmetic: Arithmetic) -> bool:
        """Whether the rounding error of an operation can be split into that at the centre and that of the movement."""
        return math.isfinite(self.constant(number, arithmetic))

    def constant(self, number: int, arithmetic: Arithmetic) -> float:
        """The rounding error of an operation in norm, for inputs of 0."""
        key, operation = (arithmetic, number), self.network.operations[number - 1]
        if key not in self.constants:
            zeros = [0.0] * len(operation.inputs)
            self.constants[key] = float(operation.rounded_in_norm(arithmetic, self.walk.norm, *zeros))
        return self.constants[key]

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
        return _Pass(self, arithmetic, self.network.values(zero + 0.5), half, doubt, True, True).errors()

    @functools.cached_property
    def boxes(self) -> list[Box]:
        """The boxes of all values, for all images in [0, 1]."""
        zero = torch.zeros(1, *self.network.shape, dtype=torch.float64)
        return all_boxes(self.network, zero, zero + 1, FLOAT64)

    def around(self, values: Sequence[Tensor], reach: Tensor, arithmetic: Arithmetic) -> Errors:
        """For images in [0, 1] that lie within `reach` (B,) of images in [0, 1], whose values, as they are computed in
        float64, are `values`, (B, *shape) each.

        The bounds of the logits, e, are such that a computed margin y_t − y_i on the ball is at least the exact one at
        the centre − (L_t + L_i)·reach − e_t − e_i, with the constants L of both logits.
        """
        return _Pass(self, arithmetic, values, reach, self.in_float64, self.walk.norm is Norm.LINF).errors()


class _Pass:
    """One computation of errors, value after value.

    values     at the centres of balls of radius `reach` (B,), (B, *shape) each, as they are computed in float64
    doubt      the errors of `values`; None to trust them up to SLACK where their errors on the ball, in the same
               arithmetic, turn out to be smaller, and to take the magnitudes from boxes of all images otherwise
    entrywise  whether errors are passed on entry by entry too; otherwise rounding errors are only known in norm, but
               for those values of which parts are needed
    everywhere  whether the ball is that of all images, and bounds are of computed values, not only of margins
    """

    def __init__(
        self,
        of: Roundings,
        arithmetic: Arithmetic,
        values: Sequence[Tensor],
        reach: Tensor,
        doubt: Errors | None,
        entrywise: bool,
        everywhere: bool = False,
    ):
        self.of, self.arithmetic, self.values, self.reach = of, arithmetic, values, reach
        self.doubt, self.entrywise, self.everywhere = doubt, entrywise, everywhere
        self.norm, self.last = of.walk.norm, len(of.network.operations)
        self.operations = of.network.on(reach.device).operations
        self.walk = ErrorWalk(of.walk, reach)
        zero = torch.zeros_like(reach)
        self.found = Errors([wide(zero, values[0])], [zero], [zero])
        self.boxed: set[int] = set()
        self.known: dict[int, Tensor] = {}
        self.whole = [(lengths(values[0], self.norm) + reach) * UP]  # by value, its norm on the ball, (B,)
        self.overflowed = torch.zeros_like(reach, dtype=torch.bool)

    def errors(self) -> Errors:
        for number in range(1, self.last + 1):
            passed = self.passed(number)
            own, more = self.rounded(number, passed)
            if self.doubt is None and not self.trusted(number, passed, own, more):
                self.boxed.add(number)
                self.known.pop(number, None)
                own, more = self.rounded(number, passed)
            self.close(number, passed, own, more)
        self.found.logits = self.logits()
        return self.found

    # ---- magnitudes: of the exact value at the centre, entry by entry, and of its movement on the ball, in norm

    def size(self, number: int) -> Tensor:
        if number not in self.known:
            if number in self.boxed:
                self.known[number] = largest(self.of.boxes[number])
            else:
                self.known[number] = (self.values[number].abs() + self.off(number)) * UP
        return self.known[number]

    def move(self, number: int) -> Tensor:
        return self.of.speeds[number] * self.reach * (UP if number not in self.boxed else 0.0)

    def off(self, number: int) -> Tensor:
        """How far the value that was computed at the centre lies from the exact one, entry by entry."""
        if number == 0:
            return torch.zeros_like(self.values[0])
        if self.doubt is not None:
            return self.doubt.entries[number].to(self.reach.device)
        centre = self.values[number].abs()
        return SLACK * (centre + wide(self.of.speeds[number] * self.reach, centre)) + LITTLE

    def trusted(self, number: int, passed: Tensor, own: Tensor | None, more: Tensor) -> bool:
        """Whether the errors on the ball, and so that of the value at the centre, are as small as was assumed."""
        return own is not None and bool((passed + own + wide(more, own) <= self.off(number)).all())

    def norm_on_the_ball(self, number: int) -> Tensor:
        """The norm (B,) of the exact value on the ball."""
        centre, moved = lengths(self.values[number], self.norm), self.of.speeds[number] * self.reach
        if self.doubt is not None:
            return (centre + self.doubt.lengths[number].to(self.reach.device) + moved) * UP * UP
        far = SLACK * (centre + moved) + LITTLE
        by_norm = (centre + far + moved).where(self.found.lengths[number] <= far, math.inf)
        return torch.minimum(by_norm, lengths(self.size(number), self.norm) + self.move(number)) * UP * UP

    # ---- errors

    def passed(self, number: int) -> Tensor:
        """How far the exact value of an operation moves, entry by entry, by the errors of its inputs."""
        if not self.entrywise and self.of.splits(number, self.arithmetic):
            return self.reach.new_zeros(())  # it is not asked for
        inputs = self.operations[number - 1].inputs
        return self.operations[number - 1].moved(*(self.found.entries[i].expand_as(self.values[i]) for i in inputs))

    def rounded(self, number: int, passed: Tensor) -> tuple[Tensor | None, Tensor]:
        """The rounding error of an operation in two parts that add up: one entry by entry, None where it is not asked
        for, and one of which the norm is known, (B,)."""
        operation, value = self.operations[number - 1], self.values[number]
        inputs = operation.inputs
        more = torch.zeros_like(self.reach)
        if self.of.splits(number, self.arithmetic):
            if not self.entrywise and number != self.last and number not in self.of.in_parts:
                return None, more
            more = self.in_norm(number, [self.move(i) for i in inputs])
            more = more * (1 + 1e-14) - self.of.constant(number, self.arithmetic)
            own = operation.rounded(self.arithmetic, self.size(number), *(self.size(i) for i in inputs))
        else:
            reach = [self.size(i) + wide(self.move(i), self.values[i]) + self.found.entries[i] for i in inputs]
            around = wide(self.move(number), value) + passed
            own = operation.rounded_near(
                self.arithmetic, self.least(number, around, passed), self.size(number) + around, *reach
            )
        own = (own * UP).expand_as(value) + self.arithmetic.tiny
        return own.nan_to_num(math.inf, math.inf), more

    def least(self, number: int, around: Tensor, passed: Tensor) -> Tensor:
        """What the magnitudes of the exact value of an operation are at least: at the centre for logits on the ball of
        an image, where margins alone count (see `Operation.rounded_near`), otherwise on the whole ball."""
        value = self.values[number]
        if number in self.boxed:
            return torch.zeros_like(value)
        away = passed if number == self.last and not self.everywhere else around
        least = (value.abs() - self.off(number) - away).clamp_min(0) / UP
        return torch.where(least == least, least, 0.0)  # ∞ − ∞ says nothing

    def in_norm(self, number: int, sizes: list[Tensor]) -> Tensor:
        """The rounding error of an operation in norm, (B,), for inputs of these sizes plus their errors."""
        operation = self.of.network.operations[number - 1]
        sizes = [(n + self.found.lengths[i]) * UP for n, i in zip(sizes, operation.inputs, strict=True)]
        found = operation.rounded_in_norm(self.arithmetic, self.norm, *sizes)
        return torch.as_tensor(found).to(self.reach).expand_as(self.reach).nan_to_num(math.inf, math.inf)

    def close(self, number: int, passed: Tensor, own: Tensor | None, more: Tensor) -> None:
        """Takes down the error of a value, whose operation adds `own` and `more`."""
        operation = self.operations[number - 1]
        in_norm = self.in_norm(number, [self.whole[i] for i in operation.inputs])
        in_norm = (in_norm + self.arithmetic.tiny * ones(operation.shape, self.norm)) * UP
        self.walk.add(own, more, in_norm)
        mine = self.walk.own(number, None)
        if self.of.only_scaled[number]:
            (i,) = operation.inputs
            error = self.walk.total([self.of.steep(operation) * self.found.lengths[i], mine])
        else:
            error = self.walk.constant(number)
        entries = wide(error, self.values[number])
        if self.entrywise and own is not None:
            entries = torch.minimum((passed + own + wide(more, own)) * UP, entries)
            error = torch.minimum(error, lengths(entries, self.norm))
        self.found.entries.append(entries)
        self.found.lengths.append(error)
        self.whole.append(self.norm_on_the_ball(number))
        top = (self.whole[number] + error)[:, None]
        if number == self.last:
            top = self.size(number) + wide(self.move(number), self.values[number]) + entries
        beyond = overflows(self.arithmetic, top, mine[:, None], number == self.last)
        self.overflowed = self.overflowed | beyond
        self.found.own.append(mine.masked_fill(beyond, math.inf))

    def logits(self) -> Tensor:
        """The bounds (B, K) of the errors of the logits."""
        single = [self.walk.constant(self.last, m) for m in torch.eye(self.of.network.classes, dtype=torch.bool)]
        bound = torch.minimum(torch.stack(single, 1), self.found.entries[-1])
        return bound.masked_fill(self.overflowed[:, None], math.inf).nan_to_num(math.inf, math.inf)


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
