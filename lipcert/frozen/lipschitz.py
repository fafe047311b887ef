"""How fast any part of any value of a frozen network moves: proved bounds, walked backwards over the list.

One invariant: `constant(v, part)` bounds ‖Δ value_v[part]‖ / ‖Δ image‖ over all pairs of images. An operation says
which entries of its inputs a part needs, and how much it gains over them. Branches are nothing but parts that need
little.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.operation import UP, Operation, Shape
from lipcert.frozen.ops.joins import Split
from lipcert.frozen.ops.moves import Move
from lipcert.norms import Operator

FEW = 64  # maps side by side are merged one by one up to this number
LEAST = 2.0**-1022  # no constant other than 0 is smaller: a product that underflowed would claim that nothing moves
Measure = Callable[[Operator, Norm], Tensor]


def proved(operator: Operator, norm: Norm) -> Tensor:
    """The operator norms (G,) from above: what a proof measures by."""
    return operator.norms(norm)


class Operations(Protocol):
    """A list of operations on images of `shape`."""

    @property
    def shape(self) -> Shape: ...

    @property
    def operations(self) -> tuple[Operation, ...]: ...


class Walk:
    """`constant(v, part)`, and the arithmetic that the operations' rules compute it by.

    The rules call no arithmetic but this, so that one rule serves proofs (floats, rounded up) and the estimates of
    training (tensors that can be differentiated, `frozen.training`).
    """

    def __init__(self, network: Operations, norm: Norm, measure: Measure = proved):
        self.network, self.norm, self.measure = network, norm, measure
        self.shapes = (network.shape, *(operation.shape for operation in network.operations))
        self.known: dict[tuple[int, bytes | None], Any] = {}
        self.norms: dict[tuple, Any] = {}
        self.root, self.needed = 0, torch.zeros(())

    # ---- the walk

    def constant(self, value: int, part: Tensor | None = None) -> Any:
        """Of the entries `part` (a mask of the value's shape, None: all) of a value."""
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
        """Of the image."""
        return 1.0

    def at_root(self, value: int, part: Tensor | None) -> Any:
        """Of the value that the walk ends at: the image, or for a relative walk an earlier value of the network."""
        if self.root == 0:
            return self.start(part)
        if value < self.root:
            raise Bypassed
        self.needed |= True if part is None else part
        return 1.0

    def relative(self, root: int) -> Walk:
        """The same walk over an earlier value instead of the image; it notes in `needed` which entries it came to."""
        walk = copy.copy(self)
        walk.root, walk.known, walk.needed = root, {}, torch.zeros(self.shapes[root], dtype=torch.bool)
        return walk

    def checked(self, value: int, constant: Any, part: Tensor | None) -> Any:
        operation = self.network.operations[value - 1]
        if not math.isfinite(constant):
            raise ValueError(f"`{operation.name or operation.kind}`: no finite Lipschitz constant in {self.norm}")
        return constant

    def joint(self, pieces: Sequence[tuple[int, Tensor | None]]) -> Any:
        """Of parts of several values together, as one vector."""
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
        """Of two values that see separate halves of one split, and nothing else: what the split moves, times the larger
        of what each moves over it. Empty where there is no such split."""
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
        """The value that a part copies its entries from, and how often each."""
        copied = mask.long()
        while value and isinstance(operation := self.network.operations[value - 1], Move):
            (i,) = operation.inputs
            at, entries = operation.sources(self.shapes[i]).flatten(), math.prod(self.shapes[i])
            sums = torch.zeros(entries + 1, dtype=torch.long)
            sums.index_add_(0, at.where(at >= 0, entries), copied.flatten())
            value, copied = i, sums[:entries].view(self.shapes[i])
        return value, copied

    # ---- what rules ask for

    def operation(self, value: int) -> Operation | None:
        """What computes a value; None for the image."""
        return self.network.operations[value - 1] if value else None

    def shape(self, value: int) -> Shape:
        return self.shapes[value]

    def measured(
        self, value: int, group: int | None, rows: Tensor | None, operator: Callable[[], Operator], fused: int = 0
    ) -> Any:
        """The norm of the linear operator of a value, of its `rows` alone where they are given; measured once.

        `fused` is the number of the scaling behind it that it is measured together with; 0 for none. Products of two
        constants may underflow, so that such a norm is never taken for 0.
        """
        key = (value, group, None if rows is None else rows.numpy().tobytes(), fused)
        if key not in self.norms:
            norm = up(float(self.measure(operator(), self.norm).max()))
            self.norms[key] = max(norm, LEAST) if fused else norm
        return self.norms[key]

    def fixed(self, value: int, operator: Callable[[], Operator]) -> Any:
        """The norm of an operator that has no trained constants."""
        key = (value, "fixed")
        if key not in self.norms:
            self.norms[key] = up(float(proved(operator(), self.norm).max()))
        return self.norms[key]

    def side_by_side(self, value: int, blocks: list[tuple[Any, Tensor | None]]) -> Any:
        """Behind maps side by side, each (its norm, the entries of the input that it sees): the largest norm times what
        they see together, or each by itself and merged, whichever is less."""
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
        """Which columns of (…, columns) have an entry other than 0; None where all do."""
        seen = (weight != 0).flatten(0, -2).any(0)
        return None if bool(seen.all()) else seen

    def restricted(self, part: Tensor | None, kept: Tensor, shape: Shape) -> Tensor | None:
        """The entries of a part that are `kept` too (a mask that broadcasts to `shape`)."""
        if bool(kept.all()):
            return part
        kept = kept.expand(shape)
        return kept if part is None else part & kept

    def steepest(self, slopes: Tensor, shape: Shape, part: Tensor | None) -> Any:
        """The largest magnitude of constants, broadcast to `shape`, over a part."""
        slopes = slopes.abs() if part is None else slopes.abs().expand(shape)[part]
        return up(float(slopes.max())) if slopes.numel() else 0.0

    def lengths(self, factors: Tensor) -> Tensor:
        """The norm along the first axis, of two: how far an entry moves that is handed on with two factors."""
        if self.norm is Norm.LINF:
            return factors.amax(0)
        return (torch.hypot(*factors) if self.norm is Norm.L2 else factors.sum(0)) * UP

    def copied(self, times: int) -> Any:
        """By how much a vector grows whose entries are each copied so many times."""
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
        """Of parts without a common entry together."""
        if len(constants) < 2:
            return constants[0] if constants else 0.0
        if self.norm is Norm.L2:
            return up(math.hypot(*constants))
        return max(constants) if self.norm is Norm.LINF else up(sum(constants))


def up(bound: float) -> float:
    """A bound that a few operations computed, rounded up: 0 stays 0, what is smaller than LEAST becomes LEAST."""
    return max(bound * UP, LEAST) if bound else 0.0


class Bypassed(Exception):
    """A part depends on something else than the value that it is looked at from."""
