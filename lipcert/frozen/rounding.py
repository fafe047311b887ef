"""Bounds of the difference between computed logits and those in real arithmetic, over all images in [0, 1].

Each value has two bounds, and the smaller one counts. Entry by entry, errors grow by |W|, which is tight for shallow
networks and vacuous for deep ones; in norm they grow by ‖W‖, as all other movements do. Any operation, even one that
only compares, may flush subnormal numbers to zero, which costs `tiny` for each entry.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.frozen.arithmetic import FLOAT64, Arithmetic
from lipcert.frozen.boxes import all_boxes
from lipcert.frozen.lipschitz import Walk, up
from lipcert.frozen.network import Network
from lipcert.frozen.operation import UP, largest
from lipcert.frozen.ops.affine import Affine, length, ones

SLACK = 1e-6  # the computed value at the centre counts as larger by this share; whether that is enough is checked


class _ErrorWalk(Walk):
    """Distances of computed values from exact ones. The image is exact; each operation adds its own rounding error."""

    def __init__(self, walk: Walk):
        super().__init__(walk.network, walk.norm, walk.measure)
        self.norms = walk.norms
        self.entries: list[Tensor] = [torch.zeros(walk.shapes[0], dtype=torch.float64)]
        self.in_norm: list[float] = [0.0]

    def start(self, part: Tensor | None) -> float:
        return 0.0

    def checked(self, value: int, constant: float, part: Tensor | None) -> float:
        operation, own = self.network.operations[value - 1], self.own(value, part)
        if isinstance(operation, Affine) and operation.rows_of(self) is not None:
            # it is measured as one operator with the layer before it, and scales the rounding error of that layer
            steep = self.steepest(operation.scale, operation.shape, part)  # type: ignore[arg-type]
            own += steep * self.own(operation.inputs[0], part) * UP
        return up(constant + own)

    def own(self, value: int, part: Tensor | None) -> float:
        """The rounding error that the operation of a value adds to the entries `part`."""
        entries = self.entries[value] if part is None else self.entries[value][part]
        return min(length(entries, self.norm), self.in_norm[value])

    def behind_a_split(self, parts: dict[int, Tensor]) -> list[float]:
        return []  # rounding errors after the split are not proportional to the movement of the split


def rounding(network: Network, walk: Walk, arithmetic: Arithmetic = FLOAT64) -> Tensor:
    """Bounds (K,) of |computed − exact| for each logit, in `arithmetic`; infinite where that may overflow.

    `walk` is the network's own walk, of proved constants. Source: Higham, *Accuracy and Stability*, §3.
    """
    zero = torch.zeros(1, *network.shape, dtype=torch.float64)
    boxes, centre = all_boxes(network, zero, zero + 1, FLOAT64), network.values(zero + 0.5)
    half = 0.5 * ones(network.shape, walk.norm)
    errors, sizes, lengths, in_norm = [zero], [zero + 1], [2 * half], [0.0]
    walk_of_errors = _ErrorWalk(walk)
    for number, operation in enumerate(network.operations, 1):
        inputs = operation.inputs
        hidden = only_scaled(walk, number)  # then its own norm is not needed, and is not measured
        steep = operation.growth(walk.norm) * UP if hidden else 0.0  # type: ignore[attr-defined]
        far = (steep * walk.constant(inputs[0]) * UP if hidden else walk.constant(number)) * half
        near = (centre[number].abs() + far) * (1 + SLACK) + 2.0**-900
        widest = largest(boxes[number])
        moved = operation.moved(*(errors[i] for i in inputs))
        reach = [sizes[i] + errors[i] for i in inputs]
        size = torch.minimum(near, widest)
        own = operation.rounded(arithmetic, size + moved, *reach).expand_as(size) + arithmetic.tiny
        if not bool(((moved + own) <= SLACK * near).all()):  # the error at the centre is not small enough
            near, size = torch.full_like(near, math.inf), widest
            own = operation.rounded(arithmetic, size + moved, *reach).expand_as(size) + arithmetic.tiny
        if overflows(arithmetic, size + moved, own, number == len(network.operations)):
            return torch.full((network.classes,), math.inf, dtype=torch.float64)
        of_norm = operation.rounded_in_norm(arithmetic, walk.norm, *(lengths[i] + in_norm[i] for i in inputs))
        of_norm += arithmetic.tiny * ones(operation.shape, walk.norm)
        walk_of_errors.entries.append(own[0])
        walk_of_errors.in_norm.append(of_norm if of_norm == of_norm else math.inf)
        if hidden:
            error = up(steep * in_norm[inputs[0]] + walk_of_errors.own(number, None))
        else:
            error = walk_of_errors.constant(number)
        entrywise = ((moved + own) * UP).clamp_max(error)
        total = min(error, length(entrywise[0], walk.norm))
        middle = (length(centre[number][0], walk.norm) + far) * (1 + SLACK) + 2.0**-900
        errors.append(entrywise)
        sizes.append(size)
        lengths.append(min(middle if total <= SLACK * middle else math.inf, length(size[0], walk.norm)))
        in_norm.append(total)
    logits = torch.eye(network.classes, dtype=torch.bool)
    single = [walk_of_errors.constant(len(network.operations), mask) for mask in logits]
    bound = torch.minimum(errors[-1][0], torch.tensor(single, dtype=torch.float64))
    return bound.nan_to_num(math.inf, posinf=math.inf)


def only_scaled(walk: Walk, number: int) -> bool:
    """Whether nothing but scalings, which are measured as one operator with it, reads a value."""
    readers = [o for o in walk.network.operations if number in o.inputs]
    return bool(readers) and all(isinstance(o, Affine) and o.rows_of(walk) is not None for o in readers)


def overflows(arithmetic: Arithmetic, size: Tensor, own: Tensor, last: bool) -> bool:
    """Whether a value of at most `size`, or an intermediate result, may overflow. If the rounding error `own` is below
    u·largest, every intermediate result that is rounded is below the largest number. Logits may be −∞: that is the
    logit of a class without images in a nearest-neighbour classifier."""
    if last:
        size = size.where(size < math.inf, 0.0)
    return not bool(((size < arithmetic.largest / 4) & (own < arithmetic.unit * arithmetic.largest)).all())
