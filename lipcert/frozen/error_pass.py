"""One computation of rounding errors, value after value, on balls around images (see `rounding`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import Arithmetic
from lipcert.frozen.error_walk import Errors, ErrorWalk, overflows, stretched, wide
from lipcert.frozen.operation import UP, largest
from lipcert.frozen.ops.affine import lengths, ones

if TYPE_CHECKING:
    from lipcert.frozen.rounding import Roundings

SLACK = 1e-6  # the computed value at the centre counts as larger by this share; whether that is enough is checked
LITTLE = 2.0**-1000  # by which it may be wrong where it is 0


class Pass:
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
        self.single = torch.eye(of.network.classes, dtype=torch.bool)  # masks of one logit each
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
        if self.of.head is not None:
            (before,) = self.operations[-1].inputs
            own = torch.stack([self.walk.own(self.last, m) for m in self.single], 1)
            self.found.head = self.of.head, self.found.lengths[before], own
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
            reach = [self.computed_size(i, operation.by_length) for i in inputs]
            around = wide(self.move(number), value) + passed
            own = operation.rounded_near(
                self.arithmetic, self.least(number, around, passed), self.size(number) + around, *reach
            )
        own = (own * UP).expand_as(value) + self.arithmetic.tiny
        return own.nan_to_num(math.inf, math.inf), more

    def computed_size(self, number: int, by_length: bool) -> Tensor:
        """The magnitudes of a computed value on the ball: each entry, or, `by_length`, some of the same l2 norm."""
        size, move = self.size(number), self.move(number)
        if by_length and self.norm is Norm.L2:
            return stretched(size, (move + self.found.lengths[number]) * UP)
        return size + wide(move, self.values[number]) + self.found.entries[number]

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
        bound = torch.stack([self.walk.constant(self.last, m) for m in self.single], 1)
        bound = torch.minimum(bound, self.found.entries[-1])
        return bound.masked_fill(self.overflowed[:, None], math.inf).nan_to_num(math.inf, math.inf)
