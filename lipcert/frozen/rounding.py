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
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import FLOAT64, Arithmetic
from lipcert.frozen.boxes import all_boxes
from lipcert.frozen.error_pass import Pass
from lipcert.frozen.error_walk import Errors, only_scaled
from lipcert.frozen.lipschitz import Walk, up
from lipcert.frozen.network import Network
from lipcert.frozen.operation import UP, Box, Operation
from lipcert.frozen.ops.affine import length, ones
from lipcert.frozen.pairs import DUAL

ENTRIES = 1 << 22  # of all values of a batch together that are held at a time


def rounding(network: Network, walk: Walk, arithmetic: Arithmetic = FLOAT64) -> Tensor:
    """Bounds (K,) of |computed − exact| for each logit, over all images in [0, 1], in `arithmetic`; infinite where that
    may overflow. `walk` is the network's own walk, of proved constants."""
    return Roundings(network, walk).everywhere(arithmetic).logits[0]


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
        self.for_all: dict[Arithmetic, Errors] = {}

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

    @property
    def in_float64(self) -> Errors:
        """For all images in [0, 1], evaluated in float64."""
        return self.everywhere(FLOAT64)

    def everywhere(self, arithmetic: Arithmetic) -> Errors:
        """For all images in [0, 1], a batch of one."""
        if arithmetic not in self.for_all:
            self.for_all[arithmetic] = self._all(arithmetic, None if arithmetic == FLOAT64 else self.in_float64)
        return self.for_all[arithmetic]

    def _all(self, arithmetic: Arithmetic, doubt: Errors | None) -> Errors:
        zero = torch.zeros(1, *self.network.shape, dtype=torch.float64)
        half = torch.full((1,), 0.5 * ones(self.network.shape, self.walk.norm), dtype=torch.float64)
        return Pass(self, arithmetic, self.network.values(zero + 0.5), half, doubt, True, True).errors()

    @functools.cached_property
    def boxes(self) -> list[Box]:
        """The boxes of all values, for all images in [0, 1]."""
        zero = torch.zeros(1, *self.network.shape, dtype=torch.float64)
        return all_boxes(self.network, zero, zero + 1, FLOAT64)

    def around(self, values: Sequence[Tensor], reach: Tensor, arithmetic: Arithmetic) -> Errors:
        """For images in [0, 1] that lie within `reach` (B,) of images in [0, 1], whose values, as they are computed in
        float64, are `values`, (B, *shape) each.

        The bounds e_ti of margins are such that a computed margin y_t − y_i on the ball is at least the exact one at
        the centre − (L_t + L_i)·reach − e_ti, with the constants L of both logits.
        """
        return Pass(self, arithmetic, values, reach, self.in_float64, self.walk.norm is Norm.LINF).errors()

    def by_batch(self, x: Tensor, reach: Tensor, arithmetic: Arithmetic) -> Iterator[tuple[Tensor, Errors]]:
        """For images x (B, *shape) in [0, 1], batch by batch: the logits (b, K), computed in float64, and the errors in
        `arithmetic` within `reach` (B,), of logits the smaller of those and of the ones of all images."""
        reach = reach.clamp(max=ones(self.network.shape, self.walk.norm))  # no two images are farther from each other
        entries = sum(math.prod(operation.shape) for operation in self.network.operations)
        step = max(1, ENTRIES // entries)
        network, most = self.network.on(x.device), self.everywhere(arithmetic).logits.to(x)
        for part, near in zip(x.split(step), reach.split(step), strict=True):
            values = network.values(part)
            errors = self.around(values, near, arithmetic)
            yield values[-1], replace(errors, logits=errors.logits.minimum(most))

    @functools.cached_property
    def head(self) -> Tensor | None:
        """How far y_t − y_i moves at most while what the last operation reads moves by 1, (K, K); None where it is not
        affine in one value, or that is large."""
        last = self.network.operations[-1]
        shape = self.walk.shape(last.inputs[0])
        identity = torch.eye(self.network.classes, dtype=torch.float64)
        if len(last.inputs) != 1 or len(identity) * math.prod(shape) > ENTRIES:
            return None
        rows = []
        for one in identity:
            pulled = last.pull_back(shape, one - identity, torch.zeros_like(identity))
            if pulled is None:
                return None
            rows.append([length(row, DUAL[self.walk.norm]) for row in (pulled[0].abs() + pulled[1]).flatten(1) * UP])
        return torch.tensor(rows, dtype=torch.float64)
