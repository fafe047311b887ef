"""How far differences of logits move, for `lipcert verify`: in l2 by quadratic forms, in l_inf entry by entry."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.errors import NotConfirmed
from lipcert.export.verify_forms import SUMS, Forms, Share, Weights, largest
from lipcert.frozen import Network
from lipcert.frozen.operation import Operation
from lipcert.frozen.ops.affine import Affine, LinearMap
from lipcert.frozen.ops.moves import Move

UP = 1 + 1e-13
LEAST = 1e-290  # no constant is smaller: a product that underflows is none


@dataclass(frozen=True)
class Functional:
    """⟨weights, logits⟩, pulled back through the affine operations that the network ends with.

    sizes     {value: the magnitudes of its weights on each value that it was pulled back to}, rounded up
    constant  how far it moves at most while the image moves by 1
    forms     {value: the weights of the squared errors that arise in it}, of earlier values; empty in l_inf
    """

    sizes: dict[int, Tensor]
    constant: float
    forms: dict[int, Share]


class Bounds:
    """The Lipschitz constants of a network in its norm, l2 or l_inf.

    entries  by value, in l_inf: how far each entry moves while the image moves by 1, (1, *shape)
    """

    def __init__(self, network: Network):
        if network.norm is Norm.L1:
            raise NotConfirmed("`lipcert verify` has no rules for radii in l1")
        self.network, self.classes = network, network.classes
        self.forms = Forms(network)
        self.entries: list[Tensor] = [torch.ones(1, *network.shape, dtype=torch.float64)]
        self.passed: dict[tuple[int, bytes], dict[int, Share]] = {}
        self.functionals: dict[tuple[int, ...], Functional] = {}
        if network.norm is Norm.LINF:
            for operation in network.operations:
                before = [self.entries[i] for i in operation.inputs]
                found = (moved(operation, *before) * UP).clamp_min(LEAST).nan_to_num(math.inf, math.inf)
                still = moved(operation, *((entries > 0).double() for entries in before)) == 0  # whatever underflows
                self.entries.append(found.masked_fill(still, 0.0))

    def constant(self, value: int) -> float:
        """How far a value moves as one vector."""
        return self.forms.constant(value) if self.network.norm is Norm.L2 else float(self.entries[value].max())

    def gain(self, layer: int, scaling: int | None) -> float:
        """The norm of an operation with one input, or of it and the `scaling` that reads it, as one."""
        operations = self.network.operations
        if self.network.norm is Norm.L2:
            weights = torch.ones(operations[layer - 1].shape, dtype=torch.float64)
            if scaling:
                (weights,) = self.forms.step(scaling, weights)
            return largest(self.forms.step(layer, weights)[0])
        (before,) = operations[layer - 1].inputs
        found = moved(operations[layer - 1], torch.ones_like(self.entries[before]))
        return float((moved(operations[scaling - 1], found) if scaling else found).max()) * UP

    def of(self, *logits: int) -> Functional:
        """The functional of one logit, or of the first less the second."""
        if logits not in self.functionals:
            weights = torch.zeros(self.classes, dtype=torch.float64)
            for logit, sign in zip(logits, (1.0, -1.0), strict=False):
                weights[logit] += sign
            self.functionals[logits] = self._functional(weights)
        return self.functionals[logits]

    def parts(self, first: int, second: int) -> list[Functional]:
        """The difference of two logits as one functional, or as two, whichever moves less."""
        both, apart = self.of(*sorted((first, second))), [self.of(first), self.of(second)]
        return [both] if both.constant <= sum(part.constant for part in apart) else apart

    def pairs(self) -> Tensor:
        """(K, K): how far y_t − y_i moves at most; 0 on the diagonal."""
        found = torch.zeros(self.classes, self.classes, dtype=torch.float64)
        for t in range(self.classes):
            for i in range(t):
                found[t, i] = found[i, t] = sum(part.constant for part in self.parts(t, i)) * UP
        return found

    def _passed(self, start: Weights) -> dict[int, Share]:
        """The weights of all values; of each by itself where values are added, as one error alone does not add up."""
        passed = self.forms.pulled(start)
        if any(operation.kind in SUMS for operation in self.network.operations):
            passed |= {v: self.forms.pulled(start, v)[v] for v in passed if 0 < v < max(start)}
        return {v: Share.of(weights) for v, weights in passed.items()}

    def _functional(self, weights: Tensor) -> Functional:
        value, error = len(self.network.operations), torch.zeros_like(weights)
        sizes, constants = {}, []
        while True:
            sizes[value] = size = (weights.abs() + error) * UP
            if self.network.norm is Norm.LINF:
                constants.append(float((size * self.entries[value][0]).sum()) * (1 + 2e-16 * (size.numel() + 8)))
            operation = self.network.operations[value - 1] if value else None
            linear = None if operation is None else linear_part(operation)
            if operation is None or linear is None:
                break
            shape, terms = self.network.operations[operation.inputs[0] - 1].shape, weights.numel() + 4
            shape = shape if operation.inputs[0] else self.network.shape
            apply, magnitudes = linear
            error = _adjoint(magnitudes, shape, error + 4e-16 * terms * size) + _reached(magnitudes, shape, size)
            weights, value = _adjoint(apply, shape, weights), operation.inputs[0]
        if constants:
            return Functional(sizes, min(constants), {})
        seen = size > 0
        most = float(size.max()) or 1.0
        length = float((size / most).norm()) * most * (1 + 2e-16 * (size.numel() + 8))
        key = (value, seen.numpy().tobytes())
        if key not in self.passed:
            self.passed[key] = self._passed({value: seen.double()})
        passed = self.passed[key]
        forms = {v: replace(found, root=length * found.root * UP) for v, found in passed.items() if v < value}
        least = LEAST if length and passed[0].root else 0.0  # it moves, or nothing that it reads does
        return Functional(sizes, max(length * passed[0].root * UP, least), forms)


def moved(operation: Operation, *errors: Tensor) -> Tensor:
    """How far each entry moves at most, if those of the inputs move by at most `errors` (B, …); from the rules of the
    operations, and tighter where a value moves by no more than a length."""
    (x, *_), kind = errors, operation.kind
    if kind == "nearest_neighbour" or (kind == "distance" and operation.p == 2):  # type: ignore[attr-defined]
        length = torch.linalg.vector_norm(x.flatten(1), dim=1, keepdim=True) + _little(x.flatten(1).amax(1, True))
        return length.expand(-1, *operation.shape) * (1 + 2e-16 * (x[0].numel() + 8))
    if kind == "norm_pool":
        seen = operation._mean((x > 0).double())  # type: ignore[attr-defined]
        return operation._mean(x * x).sqrt() * (1 + 1e-12) + _little(seen)  # type: ignore[attr-defined]
    if kind == "subtract_mean":
        share = 2 / operation._entries()  # type: ignore[attr-defined]
        return ((1 - share) * x + operation._mean(x)) * (1 + 1e-12)  # type: ignore[attr-defined]
    return operation.moved(*errors)


def _little(x: Tensor) -> Tensor:
    """What is added to the root of a sum of squares, as these may underflow; 0 where all of them are 0."""
    return (x > 0).double() * 1e-150


def linear_part(operation: Operation) -> tuple[Any, Any] | None:
    """(the linear part of an affine operation, that of its magnitudes); None for another operation."""
    if isinstance(operation, LinearMap):
        return operation.linear, operation.magnitudes
    if isinstance(operation, Affine):
        scale = operation.scale
        return ((lambda x: x), (lambda x: x)) if scale is None else ((lambda x: x * scale), (lambda x: x * scale.abs()))
    return (operation.evaluate, operation.evaluate) if isinstance(operation, Move) else None


def _adjoint(linear: Any, shape: tuple[int, ...], weights: Tensor) -> Tensor:
    with torch.enable_grad():
        x = torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(linear(x), x, weights[None])[0][0]


def _reached(magnitudes: Any, shape: tuple[int, ...], size: Tensor) -> Tensor:
    """A little for every entry that is read with a weight other than 0: no product is 0 because it underflowed."""
    return (_adjoint(magnitudes, shape, (size > 0).double()) > 0).double() * 1e-270
