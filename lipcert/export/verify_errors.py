"""Rounding errors for `lipcert verify`: how far computed differences of logits lie at most from the exact ones.

Let x̃_v be the computed values and δ_v the rounding error of one operation on its computed inputs. Between the exact
logits and the computed ones stand the logits that exact operations make of the computed values up to v; from one v to
the next they move by what an error δ_v that arises in v alone moves them. Errors therefore add up, each by the weights
that a functional of logits has at v (`verify_bounds.Functional`). δ_v is bounded by the operation's own rules `rounded`
and `rounded_in_norm`, for inputs as large as they are at the image, and on a ball around it as their constants allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.export.verify_bounds import Bounds, Functional, moved
from lipcert.export.verify_forms import Share
from lipcert.frozen.arithmetic import Arithmetic
from lipcert.frozen.operation import Operation
from lipcert.frozen.ops.affine import length, ones
from lipcert.frozen.ops.linear import LinearMap

UP = 1 + 1e-12


@dataclass
class Own:
    """The rounding errors of one operation for a batch: a vector of at most `entries` (B, *shape), entry by entry, plus
    one of a norm of at most `more` (B,); in norm at most `whole` (B,)."""

    entries: Tensor
    more: Tensor
    whole: Tensor


class Errors:
    """The errors of one batch of images, in one arithmetic, for all images of the arithmetic within `reach` of them.

    values  at the images, as float64 computes them, (B, *shape) each
    reach   (B,); 0 for the images themselves
    off     by how much `values` may be wrong: the errors of float64. None if it is they whose errors are asked for

    all     by value: how far it lies from the exact one; in l2 its norm (B,), in l_inf each entry
    """

    def __init__(
        self,
        bounds: Bounds,
        arithmetic: Arithmetic,
        values: list[Tensor],
        reach: Tensor,
        off: Errors | None = None,
    ):
        self.bounds, self.arithmetic, self.values, self.reach, self.off = bounds, arithmetic, values, reach, off
        self.linf = bounds.network.norm is Norm.LINF
        self.all = [torch.zeros_like(values[0] if self.linf else reach)]
        self.own: list[Own] = [Own(torch.zeros_like(values[0]), torch.zeros_like(reach), torch.zeros_like(reach))]
        self.overflows = torch.zeros_like(reach, dtype=torch.bool)
        for number, operation in enumerate(bounds.network.operations, 1):
            (self._entrywise if self.linf else self._in_norm)(number, operation)

    def of(self, functional: Functional) -> Tensor:
        """The error (B,) of a functional of the logits."""
        total = torch.zeros_like(self.reach)
        if self.linf:
            last = max(functional.sizes)
            total = (self.all[last] * functional.sizes[last]).sum(1)
        else:
            for value, size in functional.sizes.items():
                own = self.own[value]
                norm = length(size, Norm.L2)
                entries = (own.entries * size).flatten(1).sum(1) * (1 + 2e-16 * (size.numel() + 8))
                total = total + torch.minimum(entries + norm * own.more, norm * own.whole)
            for value, share in functional.forms.items():
                total = total + self._weighted(value, share)
        return (total * UP).masked_fill(self.overflows, math.inf).nan_to_num(math.inf, math.inf)

    # ---- in l2

    def _in_norm(self, number: int, operation: Operation) -> None:
        away = [self._away(i) for i in operation.inputs]  # of the inputs, in norm, from what float64 computed
        sizes = [(_length(self.values[i]) + far) * UP for i, far in zip(operation.inputs, away, strict=True)]
        whole = self._ruled(operation, sizes) + self.arithmetic.tiny * ones(operation.shape, Norm.L2)
        passed = self.passed = self._passed(number)
        if math.isfinite(constant := float(self._ruled(operation, [torch.zeros(1)] * len(away))[0])):
            more = (self._ruled(operation, away) * (1 + 1e-14) - constant).clamp_min(0)
            inputs = [self.values[i].abs() for i in operation.inputs]
            size = self.values[number].abs() + self._off(number, operation, self.values[number].abs(), inputs)
            entries = operation.rounded(self.arithmetic, size * UP, *inputs)
        else:
            more = torch.zeros_like(self.reach)
            longer = _longer if operation.by_length else _wider
            inputs = [longer(self.values[i].abs(), far) for i, far in zip(operation.inputs, away, strict=True)]
            around = self.bounds.constant(number) * self.reach * UP + passed
            entries = self._rounded(number, operation, around, passed, inputs)
        entries = (entries * UP).expand_as(self.values[number]) + self.arithmetic.tiny
        self._add(number, Own(entries, more, torch.minimum(_length(entries) + more, whole)))
        self.all.append((passed + self.own[number].whole) * UP)

    def _away(self, value: int) -> Tensor:
        """How far the computed value may lie, at any image within reach, from the one that float64 computed."""
        if self.off is None or value == 0:
            return self.bounds.constant(value) * self.reach * UP
        return (self.off.all[value] + self.bounds.constant(value) * self.reach + self.all[value]) * UP

    def _passed(self, number: int) -> Tensor:
        """How far the errors of earlier values move a value, in norm."""
        self.bounds.constant(number)
        total = torch.zeros_like(self.reach)
        for value, share in self.bounds.forms.passed[number].items():
            if 0 < value < number:
                total = total + self._weighted(value, share)
        return total * UP

    def _weighted(self, value: int, share: Share) -> Tensor:
        """√(Σ weights·error²) of one operation's own error, (B,)."""
        own, whole = self.own[value], share.root * self.own[value].whole
        if share.even:
            return whole
        return torch.minimum((_length(own.entries * share.roots) + own.more) * share.root, whole)

    def _ruled(self, operation: Operation, lengths: list[Tensor]) -> Tensor:
        found = torch.as_tensor(operation.rounded_in_norm(self.arithmetic, Norm.L2, *lengths), dtype=torch.float64)
        return (found * UP).expand_as(lengths[0]).nan_to_num(math.inf, math.inf)

    # ---- in l_inf

    def _entrywise(self, number: int, operation: Operation) -> None:
        inputs = []
        for i in operation.inputs:
            off = 0.0 if self.off is None else self.off.all[i] + self.all[i]
            inputs.append((self.values[i].abs() + self._movement(i) + off) * UP)
        passed = moved(operation, *(self.all[i] for i in operation.inputs)) * UP
        entries = self._rounded(number, operation, self._movement(number) + passed, passed, inputs)
        entries = (entries * UP).expand_as(self.values[number]) + self.arithmetic.tiny
        whole, self.passed = entries.flatten(1).amax(1), passed.flatten(1).amax(1)
        self._add(number, Own(entries, torch.zeros_like(whole), whole))
        self.all.append((passed + entries) * UP)

    def _movement(self, value: int) -> Tensor:
        return self.bounds.entries[value] * _wide(self.reach, self.values[value])

    # ---- in both

    def _rounded(
        self, number: int, operation: Operation, around: Tensor, passed: Tensor, inputs: list[Tensor]
    ) -> Tensor:
        """The rounding error entry by entry, for inputs of these magnitudes."""
        value = self.values[number]
        around, passed = (_wide(x, value) if x.dim() == 1 else x for x in (around, passed))
        size = value.abs() + around
        off = self._off(number, operation, size, inputs)
        least = value.abs() - off - (passed if number == len(self.bounds.network.operations) else around)
        size, least = (size + off) * UP, (least.clamp_min(0) / UP).nan_to_num(0.0)
        return operation.rounded_near(self.arithmetic, least, size, *inputs)

    def _off(self, number: int, operation: Operation, size: Tensor, inputs: list[Tensor]) -> Tensor:
        """By how much the value that float64 computed may be off, entry by entry."""
        if self.off is not None:
            off = self.off.all[number]
            return off if self.linf else _wide(off, size)
        if isinstance(operation, LinearMap):  # whose rule does not ask for the size of the value
            return torch.zeros_like(size)
        return 2 * operation.rounded(self.arithmetic, size * 1.01, *inputs)

    def _add(self, number: int, own: Own) -> None:
        self.own.append(own)
        top = self.values[number].abs().flatten(1)
        top = top.where(top < math.inf, 0.0).amax(1)  # −∞ is the logit of a class without images
        top = top + own.whole + self.bounds.constant(number) * self.reach + self.passed
        largest = self.arithmetic.largest
        self.overflows |= ~((top < largest / 8) & (own.whole < self.arithmetic.unit * largest))


def _length(x: Tensor) -> Tensor:
    """The l2 norm of each tensor of a batch, (B,), rounded up."""
    x = x.flatten(1)
    return torch.linalg.vector_norm(x, dim=1) * (1 + 2e-16 * (x.shape[1] + 8)) + 1e-150


def _wide(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.view(-1, *[1] * (like.dim() - 1))


def _wider(size: Tensor, far: Tensor) -> Tensor:
    """The largest magnitudes of vectors that lie within `far`, (B,), of one of the magnitudes `size`, (B, …)."""
    return size + _wide(far, size)


def _longer(size: Tensor, far: Tensor) -> Tensor:
    """Magnitudes whose l2 norm is the largest of all such vectors."""
    some = size + 1e-100
    return some * _wide(1 + far / torch.linalg.vector_norm(some.flatten(1), dim=1) * UP, size) * UP
