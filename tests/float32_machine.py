"""A frozen network in float32 as any machine may run it: sums in any order, with or without fused multiply-add, with or
without subnormal numbers; and the same network in rational numbers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipcert.frozen.network import Network
from lipcert.frozen.operation import Operation

TINY = np.float32(2.0**-126)
Values = np.ndarray  # (B, n) of float32


@dataclass(frozen=True)
class Machine:
    """order: of a sum's terms: "forward", "backward", "growing", "pairs", or "random"; fused, flush: see above."""

    order: str = "forward"
    fused: bool = False
    flush: bool = False

    def __call__(self, network: Network, images: Tensor) -> Tensor:
        """Logits (B, K) in float32 of a network of vectors."""
        values = [self.flushed(images.float().flatten(1).numpy())]
        for operation in network.to(dtype=torch.float32).operations:
            with np.errstate(all="ignore"):
                value = self.value(operation, *(values[i] for i in operation.inputs))
            values.append(self.flushed(value))
        return torch.from_numpy(values[-1].copy())

    def value(self, operation: Any, *inputs: Values) -> Values:
        x = inputs[0]
        if operation.kind == "linear":
            weight = self.flushed(operation.weight.numpy())
            bias = np.zeros(len(weight), np.float32) if operation.bias is None else self.flushed(operation.bias.numpy())
            rows = [self.sum(w * x, b, w, x) for w, b in zip(weight, bias, strict=True)]
            return np.stack(rows, 1)
        if operation.kind == "affine":
            if operation.scale is not None:
                scale = self.flushed(operation.scale.expand(operation.shape).flatten().numpy())
                if operation.shift is not None and self.fused:
                    return fma(scale, x, operation.shift.expand(operation.shape).flatten().numpy())
                x = self.flushed(x * scale)
            return x if operation.shift is None else x + operation.shift.expand(operation.shape).flatten().numpy()
        if operation.kind == "distance":
            differences = [self.flushed(np.abs(x - w)) for w in self.flushed(operation.weight.numpy())]
            if operation.p == np.inf:
                return np.stack([d.max(1) for d in differences], 1)
            power = [d * d if operation.p == 2 else d for d in differences]
            sums = [self.sum(self.flushed(d), np.float32(0)) for d in power]
            return np.stack([np.sqrt(s) if operation.p == 2 else s for s in sums], 1)
        if operation.kind == "reshape":
            return x
        return operation.evaluate(*(torch.from_numpy(v.copy()) for v in inputs)).numpy()

    def sum(self, terms: Values, start: Any, w: Any = None, x: Any = None) -> Values:
        terms, n = self.flushed(terms), terms.shape[1]
        if self.order == "pairs":
            parts = [terms[:, k] for k in range(n)]
            while len(parts) > 1:
                parts = [self.flushed(sum(parts[k : k + 2])) for k in range(0, len(parts), 2)]  # type: ignore[arg-type]
            return parts[0] + start
        at = np.arange(n)
        if self.order == "backward":
            at = at[::-1]
        elif self.order == "growing":
            at = np.abs(terms).sum(0).argsort()
        elif self.order == "random":
            at = np.random.default_rng(n).permutation(n)
        total = np.full(len(terms), start, np.float32)
        for k in at:
            total = self.flushed(fma(w[k], x[:, k], total) if self.fused and w is not None else total + terms[:, k])
        return total

    def flushed(self, x: Values) -> Values:
        return np.where(np.abs(x) < TINY, np.float32(0), x) if self.flush else x


def fma(a: Any, b: Any, c: Any) -> Values:
    """a·b + c with one rounding, as the product is exact in float64 and the sum nearly so in long double."""
    return (a.astype(np.float64) * b.astype(np.float64) + np.asarray(c, np.longdouble)).astype(np.float32)


MACHINES = [Machine(order) for order in ("forward", "backward", "growing", "pairs", "random")]
MACHINES += [Machine("forward", fused=True), Machine("backward", flush=True), Machine("forward", True, True)]


def exact(network: Network, image: Tensor) -> list[Fraction]:
    """The logits of one image, a network of vectors, in rational numbers: constants as they are in float64."""
    values = [[Fraction(v) for v in image.flatten().tolist()]]
    for operation in network.operations:
        values.append(_exact(operation, *(values[i] for i in operation.inputs)))
    return values[-1]


def _exact(operation: Operation, *inputs: list[Fraction]) -> list[Fraction]:
    o: Any = operation
    x = inputs[0]
    if o.kind == "linear":
        bias = [0.0] * len(o.weight) if o.bias is None else o.bias.tolist()
        return [
            sum((Fraction(w) * v for w, v in zip(row, x, strict=True)), Fraction(b))
            for row, b in zip(o.weight.tolist(), bias, strict=True)
        ]
    if o.kind == "affine":
        scale, shift = (None if c is None else c.expand(o.shape).flatten().tolist() for c in (o.scale, o.shift))
        scale, shift = scale or [1.0] * len(x), shift or [0.0] * len(x)
        return [Fraction(s) * v + Fraction(b) for s, v, b in zip(scale, x, shift, strict=True)]
    if o.kind == "pointwise":
        return [{"relu": max(v, Fraction(0)), "abs": abs(v)}[o.function] for v in x]
    if o.kind == "distance" and o.p == np.inf:
        return [max(abs(v - Fraction(w)) for v, w in zip(x, row, strict=True)) for row in o.weight.tolist()]
    assert o.kind == "reshape", o.kind
    return x
