"""Proved Lipschitz constants of any part of any value of a frozen network, by a walk backwards over the operations.

One invariant holds: `constant(v, part)` bounds ‖Δ value_v[part]‖ / ‖Δ image‖ over all pairs of images. Each operation
says which entries of its inputs a part depends on, and by which factor the part may move farther than they do. There is
no concept of a branch: a branch is a part that depends on few entries.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.operation import UP, Operation, Shape
from lipcert.frozen.ops.joins import Split
from lipcert.frozen.ops.moves import Move
from lipcert.norms import Operator

FEW = 64  # up to so many linear maps side by side are combined one by one
LEAST = 2.0**-1022  # no constant but 0 is smaller: if a product underflowed to 0, it would claim that nothing moves
FRAMES = 20  # of Python's stack: more than the walk takes for one operation
Measure = Callable[[Operator, Norm], Tensor]


def proved(operator: Operator, norm: Norm) -> Tensor:
    """Upper bounds (G,) of the norms of an operator's groups: the measure that proofs use."""
    return operator.norms(norm)


class Operations(Protocol):
    """A list of operations on images of `shape`, as a frozen network has one."""

    @property
    def shape(self) -> Shape: ...

    @property
    def operations(self) -> tuple[Operation, ...]: ...


class Walk:
    """`constant(v, part)`, and the arithmetic that the rules of the operations compute it with.

    The rules use no other arithmetic. One rule therefore serves proofs, in floats that are rounded up, and estimates
    for training, in tensors that can be differentiated (`frozen.training`).

    network  the operations
    norm     of image and values
    measure  computes the norms of linear operators
    """

    def __init__(self, network: Operations, norm: Norm, measure: Measure = proved):
        self.network, self.norm, self.measure = network, norm, measure
        self.shapes = (network.shape, *(operation.shape for operation in network.operations))
        self.known: dict[tuple[int, bytes | None], Any] = {}
        self.norms: dict[tuple, Any] = {}
        self.operators: dict[tuple, Callable[[], Operator]] = {}  # whose norms are known
        self.root, self.needed = 0, torch.zeros(())
        sys.setrecursionlimit(max(sys.getrecursionlimit(), 1000 + FRAMES * len(network.operations)))

    # ---- the walk

    def constant(self, value: int, part: Tensor | None = None) -> Any:
        """The Lipschitz constant of the entries `part` (a mask of the value's shape; None: all) of a value.

        Raises ValueError, which names the operation, where there is no finite constant.
        """
        if part is not None:
            if not bool(part.any()):
                return 0.0
            part = None if bool(part.all()) else part
        if value <= self.root:
            return self.at_root(value, part)
        key = (value, None if part is None else part.numpy().tobytes())
        if key not in self.known:
            self.known[key] = self.checked(value, self.network.operations[value - 1].lipschitz(self, value, part), part)
        return self.known[key]

    def start(self, part: Tensor | None) -> Any:
        """The constant of a part of the image itself."""
        return 1.0

    def at_root(self, value: int, part: Tensor | None) -> Any:
        """The constant where the walk ends: at the image or, if the walk is relative, at an earlier value."""
        if self.root == 0:
            return self.start(part)
        if value < self.root:
            raise Bypassed
        self.needed |= True if part is None else part
        return 1.0

    def relative(self, root: int) -> Walk:
        """The same walk, which ends at the value `root` instead of the image and notes in `needed` what it reaches."""
        walk = copy.copy(self)
        walk.root, walk.known, walk.needed = root, {}, torch.zeros(self.shapes[root], dtype=torch.bool)
        return walk

    def checked(self, value: int, constant: Any, part: Tensor | None) -> Any:
        """The constant of a value, if it is finite; raises ValueError otherwise."""
        operation = self.network.operations[value - 1]
        if not math.isfinite(constant):
            raise ValueError(f"`{operation.name or operation.kind}`: no finite Lipschitz constant in {self.norm}")
        return constant

    def joint(self, pieces: Sequence[tuple[int, Tensor | None]]) -> Any:
        """The constant of parts of several values, taken together as one vector."""
        found: dict[int, Tensor] = {}
        for value, part in pieces:
            mask = torch.ones(self.shapes[value], dtype=torch.bool) if part is None else part
            source, copied = self.origin(value, mask)
            if bool(copied.any()):
                found[source] = found.get(source, 0) + copied
        parts = [
            self.product(self.copied(int(copied.max())), self.constant(value, copied > 0))
            for value, copied in found.items()
        ]
        least = [self.merged(parts)]
        if len(parts) == 2 and self.norm is Norm.L2 and all(int(copied.max()) <= 1 for copied in found.values()):
            least += self.behind_a_split({value: copied > 0 for value, copied in found.items()})
        return self.least(least)

    def behind_a_split(self, parts: dict[int, Tensor]) -> list[Any]:
        """The constant of two values that depend on separate halves of one split and on nothing else: the constant of
        the split, times the larger constant of the two relative to it. Empty where there is no such split."""
        splits = [k for k, o in enumerate(self.network.operations[: min(parts)], 1) if isinstance(o, Split)]
        for split in reversed(splits):
            relative = [self.relative(split) for _ in parts]
            try:
                gains = [walk.constant(v, part) for walk, (v, part) in zip(relative, parts.items(), strict=True)]
            except Bypassed:
                continue
            first, second = (walk.needed for walk in relative)
            if bool((first & second).any()):
                return []
            return [self.product(self.most(gains), self.constant(split, first | second))]
        return []

    def origin(self, value: int, mask: Tensor) -> tuple[int, Tensor]:
        """The earliest value that a part is copied from, and how often each of its entries appears in the part."""
        copied = mask.long()
        while value and isinstance(operation := self.network.operations[value - 1], Move):
            (i,) = operation.inputs
            at, entries = operation.sources(self.shapes[i]).flatten(), math.prod(self.shapes[i])
            sums = torch.zeros(entries + 1, dtype=torch.long)
            sums.index_add_(0, at.where(at >= 0, entries), copied.flatten())
            value, copied = i, sums[:entries].view(self.shapes[i])
        return value, copied

    # ---- what the rules ask for

    def operation(self, value: int) -> Operation | None:
        """The operation that computes a value; None for the image."""
        return self.network.operations[value - 1] if value else None

    def shape(self, value: int) -> Shape:
        return self.shapes[value]

    def measured(
        self, value: int, group: int | None, rows: Tensor | None, operator: Callable[[], Operator], fused: int = 0
    ) -> Any:
        """The norm of the linear operator that computes a value, or of its `rows` alone; it is measured only once.

        `fused` is the number of the scaling after it, if both are measured as one operator, and 0 otherwise. A product
        of two constants may underflow, so that the norm of two operations is never taken to be 0.
        """
        return self.once((value, group, None if rows is None else rows.numpy().tobytes(), fused), operator)

    def once(self, key: tuple, operator: Callable[[], Operator]) -> Any:
        """The norm that is known by `key`; it is computed where it is not known yet."""
        if key not in self.norms:
            self.norms[key] = self.computed(key, operator)
            self.operators[key] = operator
        return self.norms[key]

    def computed(self, key: tuple, operator: Callable[[], Operator]) -> Any:
        """The norm of an operator, by the walk's own measure."""
        norm = up(float(self.measure(operator(), self.norm).max()))
        return max(norm, LEAST) if key[-1] else norm

    def fixed(self, value: int, operator: Callable[[], Operator]) -> Any:
        """The norm of an operator without trained constants; a proved one, in every kind of walk."""
        key = (value, "fixed")
        if key not in self.norms:
            self.norms[key] = up(float(proved(operator(), self.norm).max()))
        return self.norms[key]

    def side_by_side(self, value: int, blocks: list[tuple[Any, Tensor | None]]) -> Any:
        """The constant of linear maps side by side, each given as its norm and the entries of the input that it reads
        (None: all): the largest norm times the constant of all these entries, or the merged constants of the maps,
        whichever is smaller."""
        (i,) = self.network.operations[value - 1].inputs
        if any(seen is None for _, seen in blocks):
            union = None
        else:
            union = blocks[0][1]
            for _, seen in blocks[1:]:
                union = union | seen  # type: ignore[operator]
        together = self.product(self.most([norm for norm, _ in blocks]), self.constant(i, union))
        if not 1 < len(blocks) <= FEW:
            return together
        return self.least([together, self.merged([self.product(n, self.constant(i, seen)) for n, seen in blocks])])

    def support(self, weight: Tensor) -> Tensor | None:
        """The columns of a weight (…, columns) that have a nonzero entry; None where all have."""
        seen = (weight != 0).flatten(0, -2).any(0)
        return None if bool(seen.all()) else seen

    def restricted(self, part: Tensor | None, kept: Tensor, shape: Shape) -> Tensor | None:
        """The entries of a part that are in `kept` too (a mask that broadcasts to `shape`)."""
        if bool(kept.all()):
            return part
        kept = kept.expand(shape)
        return kept if part is None else part & kept

    def steepest(self, slopes: Tensor, shape: Shape, part: Tensor | None) -> Any:
        """The largest magnitude of constants, broadcast to `shape`, over a part."""
        slopes = slopes.abs() if part is None else slopes.abs().expand(shape)[part]
        return up(float(slopes.max())) if slopes.numel() else 0.0

    def lengths(self, factors: Tensor) -> Tensor:
        """The norm along the first axis, of size 2: the gain of an entry that is passed on with two factors."""
        if self.norm is Norm.LINF:
            return factors.amax(0)
        return (torch.hypot(*factors) if self.norm is Norm.L2 else factors.sum(0)) * UP

    def copied(self, times: int) -> Any:
        """The factor by which a vector grows, if each of its entries is copied so many times."""
        if times <= 1 or self.norm is Norm.LINF:
            return float(times > 0)
        return math.sqrt(times) * UP if self.norm is Norm.L2 else float(times)

    # ---- arithmetic, rounded up

    def product(self, *factors: Any) -> Any:
        result = 1.0
        for factor in factors:
            result = max(result * factor * UP, LEAST) if result and factor else 0.0
        return result

    def total(self, constants: Sequence[Any]) -> Any:
        return up(sum(constants))

    def most(self, constants: Sequence[Any]) -> Any:
        return max(constants)

    def least(self, constants: Sequence[Any]) -> Any:
        return min(constants)

    def merged(self, constants: Sequence[Any]) -> Any:
        """The constant of several parts together, from their own constants; no two of them share an entry."""
        if len(constants) < 2:
            return constants[0] if constants else 0.0
        if self.norm is Norm.L2:
            return up(math.hypot(*constants))
        return max(constants) if self.norm is Norm.LINF else up(sum(constants))


def up(bound: float) -> float:
    """A bound that a few float64 operations computed, rounded up. 0 stays 0; what is below LEAST becomes LEAST."""
    return max(bound * UP, LEAST) if bound else 0.0


class Bypassed(Exception):
    """A part depends on something other than the value that a relative walk ends at."""
