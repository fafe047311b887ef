"""A list of operations that grows, for tests of frozen networks: random constants, shapes and pairs of values."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.network import Network
from lipcert.frozen.operation import Operation, Shape
from lipcert.frozen.ops import OPERATIONS

SCALES = (1.0,) * 8 + (1e-310, 1e-160, 1e-40, 1e-30, 1e30, 1e160, 1e300)
IMAGES = ((6,), (4, 3), (2, 3, 3), (1, 4, 4), (4, 2, 2), (12,), (2, 6), (1, 1, 1), (8, 1, 1))


class Builder:
    """A list of operations that grows. `wild` allows constants of any magnitude that float64 has."""

    def __init__(self, seed: int, shape: Shape | None = None, wild: bool = False):
        self.r, self.wild = random.Random(seed), wild
        self.generator = torch.Generator().manual_seed(seed)
        self.shapes: list[Shape] = [shape or self.r.choice(IMAGES)]
        self.operations: list[Operation] = []

    def add(self, kind: str, *inputs: int, **fields: Any) -> int:
        """The number of the new value; ValueError where the operation does not fit."""
        operation = OPERATIONS[kind](inputs=inputs, shape=fields.pop("shape", ()), **fields)
        shape = operation.result_shape(*(self.shapes[i] for i in inputs))
        self.operations.append(replace(operation, shape=shape))
        self.shapes.append(shape)
        return len(self.operations)

    def network(self, value: int | None = None, norm: Norm = Norm.L2, classes: int | None = None) -> Network:
        """With `value` (None: the last one) flattened as logits, or a linear layer to `classes` on it; what does not
        lead there is left out."""
        last = len(self.operations) if value is None else value
        last = self.add("reshape", last, shape=(math.prod(self.shapes[last]),))
        if classes is not None:
            weight = self.numbers(classes, self.shapes[last][0])
            last = self.add("linear", last, weight=weight, bias=self.numbers(classes))
        needed = {last}
        for number in range(last, 0, -1):
            if number in needed:
                needed.update(self.operations[number - 1].inputs)
        order = {0: 0} | {old: new for new, old in enumerate(sorted(needed - {0}), 1)}
        chosen = [self.operations[old - 1] for old in order if old]
        renamed = (replace(o, inputs=tuple(order[i] for i in o.inputs)) for o in chosen)
        return Network(self.shapes[0], tuple(renamed), norm)

    # ---- constants

    def numbers(self, *shape: int, positive: bool = False) -> Tensor:
        """Dense, sparse, equal, of one sign, or 0; at any scale where the builder is wild."""
        x = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        style = self.r.random()
        if style < 0.2:
            x = x * (torch.rand(shape, generator=self.generator) > 0.6)
        elif style < 0.3:
            x = torch.ones_like(x)
        elif style < 0.4:
            x = x.abs()
        elif style < 0.43:
            x = x * 0
        if positive:
            x = x.abs() + 1e-3
        return x * self.scale()

    def scale(self) -> float:
        return self.r.choice(SCALES) if self.wild else self.r.choice((1.0, 1.0, 0.5, 2.0))

    def broadcast(self, shape: Shape, positive: bool = False) -> Tensor:
        """Constants that broadcast to a shape: some axes 1, leading ones left out."""
        sides = [1 if self.r.random() < 0.4 else n for n in shape]
        return self.numbers(*sides[self.r.randint(0, len(sides)) :], positive=positive)

    # ---- values

    def divisor(self, n: int) -> int:
        return self.r.choice([d for d in range(1, n + 1) if n % d == 0])

    def axis(self, value: int) -> int:
        return self.r.randrange(len(self.shapes[value]))

    def as_image(self, value: int, axes: int = 2) -> int:
        """The value as (C, *sizes)."""
        shape = self.shapes[value]
        if len(shape) == axes + 1 and self.r.random() < 0.8:
            return value
        n, sides = math.prod(shape), []
        for _ in range(axes):
            sides.append(self.divisor(n))
            n //= sides[-1]
        return self.add("reshape", value, shape=(n, *sides))

    def as_vector(self, value: int) -> int:
        return self.add("reshape", value, shape=(math.prod(self.shapes[value]),))

    def pair(self, value: int) -> tuple[int, int]:
        """Two values of one shape: the halves of this one, it and an earlier one, it twice, it and its mirror image."""
        choice, shape = self.r.random(), self.shapes[value]
        alike = [v for v, s in enumerate(self.shapes) if s == shape]
        if choice < 0.5 and shape[0] % 2 == 0:
            half = shape[0] // 2
            first = self.add("slice", value, axis=0, start=0, stop=half, step=1)
            second = self.add("slice", value, axis=0, start=half, stop=shape[0], step=1)
            if self.r.random() < 0.5:
                second = self.add("affine", second, scale=self.numbers(1), shift=None)
            return first, second
        if choice < 0.9 and len(alike) > 1:
            other = self.r.choice(alike)
            return (value, other) if self.r.random() < 0.5 else (other, value)
        index = torch.randperm(math.prod(shape), generator=self.generator).view(shape)
        return value, value if choice > 0.95 else self.add("rearrange", value, index=index)
