"""Lipschitz constants in l2 for `lipcert verify`, by quadratic forms that are pulled back from logits to the image.

The bound that a network was certified with comes from constants of parts of values, which are looked up backwards
(`frozen.lipschitz`). This is another way, and shares no code with that one: an inequality

    (Δ logit)² ≤ Σ_v Σ_e G_v[e]·(Δ v[e])²

over some values v of the network and their entries e, with weights G_v ≥ 0, is rewritten from the last operation to the
first, until nothing but the image is on the right. The largest of its weights is then the square of the constant. An
entry that nothing depends on has the weight 0: there is no concept of a part, of a branch, or of a residual block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.export.verify_norms import convolution_norm, matrix_norm
from lipcert.frozen import Network
from lipcert.frozen.operation import Operation
from lipcert.frozen.ops.functions import FUNCTIONS

UP = 1 + 1e-13  # a weight that a few float64 operations computed is multiplied by this
FLOOR = 1e-280  # no weight but 0 is smaller: none is 0 only because a product underflowed
LEVELS = 32  # different weights of one value with which a convolution is measured
SUMS = ("add", "merge")
Weights = dict[int, Tensor]  # by value


@dataclass(frozen=True)
class Share:
    """The weights of one value: the root of the largest, whether all are equal, and their roots over that one."""

    root: float
    even: bool
    roots: Tensor

    @classmethod
    def of(cls, weights: Tensor) -> Share:
        most = float(weights.max())
        roots = weights.sqrt() / math.sqrt(most or 1.0) * UP  # a ratio of roots doesn't underflow
        return cls(largest(weights), float(weights.min()) * UP >= most, roots)


class Forms:
    """The forms of one network. Norms and constants that were computed once are kept."""

    def __init__(self, network: Network):
        self.network = network
        self.norms: dict[tuple[int, int, bytes], float] = {}
        readers = [[o.kind for o in network.operations if k in o.inputs] for k in range(len(network.operations) + 1)]
        self.only_scaled = {k for k, kinds in enumerate(readers) if kinds == ["affine"]}
        self.passed: dict[int, dict[int, Share]] = {}

    def pulled(self, weights: Weights, source: int | None = None) -> Weights:
        """The weights of every value that a form passes on its way to the image.

        With a `source`, those of this value alone, if nothing moves but it and what is computed from it.
        """
        due, passed = dict(weights), {0: torch.zeros(self.network.shape, dtype=torch.float64)}
        moving = set(range(len(self.network.operations) + 1)) if source is None else self.computed_from(source)
        while due:
            value = max(due)
            passed[value] = due.pop(value)
            if value in (0, source) or not bool((passed[value] > 0).any()):
                continue
            inputs = self.network.operations[value - 1].inputs
            for i, found in zip(inputs, self.step(value, passed[value], moving), strict=True):
                if i in moving:
                    due[i] = due[i] + found if i in due else found
        return passed

    def computed_from(self, source: int) -> set[int]:
        """A value, and all that depend on it."""
        found = {source}
        for number, operation in enumerate(self.network.operations, 1):
            if found & set(operation.inputs):
                found.add(number)
        return found

    def constant(self, value: int) -> float:
        """The Lipschitz constant of a value as a whole."""
        if value == 0:
            return 1.0
        if value not in self.passed:
            shape = self.network.operations[value - 1].shape
            found = self.pulled({value: _ones(*shape)})
            self.passed[value] = {v: Share.of(weights) for v, weights in found.items()}
        return self.passed[value][0].root

    def step(self, value: int, weights: Tensor, moving: set[int] | None = None) -> list[Tensor]:
        """The weights of the inputs of one operation, of which those not in `moving` stay where they are."""
        operation = self.network.operations[value - 1]
        if moving is not None and operation.kind in SUMS and sum(i in moving for i in operation.inputs) == 1:
            scales = [c.abs() for c in operation.constants().values()] or [_ones()] * 2
            return [_times(_square(scale), weights) for scale in scales]  # only one of them counts
        shapes = [self.network.operations[i - 1].shape if i else self.network.shape for i in operation.inputs]
        found = getattr(self, f"_{operation.kind}", self._moved)(operation, value, weights, shapes)
        wider = [(each * UP).where(each <= 0, (each * UP).clamp_min(FLOOR)) for each in found]
        return [each.nan_to_num(math.inf, math.inf) for each in wider]

    # ---- linear maps: the norm of the map whose rows are multiplied by the roots of their weights

    def _linear(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        matrices, rows = operation.weight, weights.reshape(-1, weights.shape[-1])  # by position
        found = rows.new_zeros(len(rows), matrices.shape[-1])
        for at in range(len(rows)):
            matrix = matrices if matrices.dim() == 2 else matrices[at]
            square = self._square(value, at if matrices.dim() == 3 else 0, rows[at], lambda r, m=matrix: _rows(m, r))
            found[at] = square * _columns(matrix, rows[at] > 0)
        return [found.view(shapes[0])]

    def _along_axis(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        square = self._square(value, 0, _ones(len(operation.matrix)), lambda r: operation.matrix[None])
        square = square * bool(operation.matrix.any())
        return [(square * weights.amax(operation.axis, keepdim=True)).expand(shapes[0])]

    def _convolution(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        groups, adjoint = operation.groups, operation.kind != "convolution"
        geometry = (operation.stride, operation.padding, operation.dilation)
        size = operation.shape[1:] if adjoint else operation.size  # of a transposed one, that of its adjoint
        rows = weights.flatten(1).amax(1).view(groups, -1)  # by channel
        if value not in self.only_scaled:  # a norm is measured once, and not for every row of weights
            rows = _level(rows, 1)
        found = weights.new_zeros(groups, shapes[0][0] // groups)
        for group, kernel in enumerate(operation.weight.chunk(groups)):

            def scaled(roots: Tensor, kernel: Tensor = kernel) -> Tensor:
                return kernel * roots.view(*([1] if adjoint else []), -1, *[1] * (kernel.dim() - (2 if adjoint else 1)))

            square = self._square(value, group, rows[group], scaled, (size, geometry))
            by_input = kernel.flatten(2).amax(2) != 0
            by_input |= kernel.flatten(2).amin(2) != 0
            found[group] = square * _columns((by_input.mT if adjoint else by_input).double(), rows[group] > 0)
        return [found.view(-1, *[1] * len(operation.size)).expand(shapes[0])]

    _transposed_convolution = _convolution

    def _square(self, value: int, group: int, rows: Tensor, scaled: Any, image: tuple | None = None) -> Tensor:
        """The square of the norm of a map with its rows multiplied by the roots of `rows`."""
        most = rows.max()
        if not 0 < float(most) < math.inf:
            return most
        share = (rows / most * 2.0**42).ceil() / 2.0**42  # so that rounding errors do not make norms of their own
        share = share.where(rows <= 0, share.clamp_min(2.0**-42))  # a ratio that underflowed is none of 0
        key = (value, group, share.numpy().tobytes())
        if key not in self.norms:
            map_ = scaled(share.sqrt())
            self.norms[key] = convolution_norm(map_, *image) if image else matrix_norm(map_)
        norm = max(self.norms[key], 1e-135)  # entries may have underflowed
        return (most * norm * norm * UP).clamp_min(FLOOR)

    # ---- operations that copy, scale and choose entries

    def _moved(self, operation: Operation, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        """Reshaping, permuting, slicing, rearranging: each entry gets the weights of its copies."""
        return [_adjoint(operation.evaluate, shapes[0], weights)]

    def _affine(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        if operation.scale is None:
            return [weights]
        (i,) = operation.inputs
        before = self.network.operations[i - 1].kind if i else ""
        if "convolution" in before and before != "distance_convolution":  # they are measured as one
            weights = _level(weights, 0)
        return [_times(_square(operation.scale), weights)]

    def _pointwise(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        function = FUNCTIONS[operation.function]
        slope = 1.0 if function.exact else function.slope(*operation.parameters)
        return [_times(_square(torch.tensor(slope, dtype=torch.float64)), weights)]

    def _leaky_relu(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        return [_times(_square(operation.slope.abs().clamp_min(1.0)), weights)]

    def _two_sided(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        return [torch.maximum(*weights.chunk(2, operation.axis))]  # both halves together move as far as x, in l1

    def _sort(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        return [weights.amax(operation.axis, keepdim=True).expand(shapes[0])]

    def _subtract_mean(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        return [weights.amax(operation.axes, keepdim=True).expand(shapes[0])]  # a projection

    def _max_pool(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        """A largest entry moves by no more than one entry of its window."""
        for axis, seen in enumerate(operation.windows(shapes[0][1:]), 1):
            weights = torch.tensordot(weights, seen.double(), ([axis], [0])).movedim(-1, axis)
        return [weights]

    _adaptive_max_pool = _max_pool

    def _norm_pool(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        return [self._max_pool(operation, value, weights, shapes)[0] / operation.divisor]

    # ---- distances: none moves farther than what it reads does in l2, or in l1

    def _distance(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        wider = math.prod(shapes[0]) if getattr(operation, "p", 2.0) == 1 else 1.0
        return [(wider * weights.sum()).expand(shapes[0])]

    _nearest_neighbour = _distance

    def _distance_convolution(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        ones, geometry = torch.ones_like(operation.weight), (operation.stride, operation.padding, 1, operation.groups)
        return [_adjoint(lambda x: F.conv2d(x, ones, None, *geometry), shapes[0], weights)]

    def _recurrent(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        """One step makes input and state move at most ‖W‖·√(cos² + sin²) times as far, or leaves them."""
        square = self._square(value, 0, _ones(len(operation.weight)), lambda r: operation.weight[None])
        step = float(_times(square, _square(operation.cos) + _square(operation.sin)))
        gain = math.prod([max(1.0, step * UP)] * (operation.shape[0] - 1))  # a power would raise where it overflows
        return [(weights.max() * gain * UP).expand(shapes[0])]

    # ---- operations on several values

    def _concatenate(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        return list(weights.split([shape[operation.axis] for shape in shapes], operation.axis))

    def _maximum(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        return [weights, weights]

    def _min_max(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        return [torch.maximum(*weights.chunk(2, operation.axis))] * 2

    def _split(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        return [_times(_square(operation.first), weights[0]) + _times(_square(operation.second), weights[1])]

    def _merge(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        return self._summed(operation, weights, operation.first.abs(), operation.second.abs())

    def _add(self, operation: Any, value: int, weights: Tensor, shapes: list) -> list[Tensor]:
        one = _ones()
        return self._summed(operation, weights, one, one)

    def _summed(self, operation: Any, weights: Tensor, first: Tensor, second: Tensor) -> list[Tensor]:
        """(a·Δx + b·Δy)² ≤ (a² + a·b·r)·Δx² + (b² + a·b/r)·Δy² for any r > 0; the best one, if both depend on the same,
        is the ratio of their constants."""
        x, y = (self.constant(i) for i in operation.inputs)
        ratio = y / x if 1e-100 < x < 1e100 and 1e-100 < y < 1e100 else 1.0
        both = _times(first, second)
        return [
            _times((_square(first) + _times(both, torch.full_like(both, ratio))) * UP, weights),
            _times((_square(second) + _times(both, torch.full_like(both, 1 / ratio))) * UP, weights),
        ]


def largest(weights: Tensor) -> float:
    """The root of the largest weight, rounded up."""
    return math.sqrt(float(weights.max())) * UP


def _level(weights: Tensor, from_axis: int) -> Tensor:
    """The largest weight for all entries that have one, unless there are only a few weights, as of the groups of a
    convolution: the norm of a map is measured once for each set of weights."""
    if len((weights * (2.0**40 / weights.max())).ceil().unique()) <= LEVELS:
        return weights
    most = weights.flatten(from_axis).amax(-1).view(*weights.shape[:from_axis], *[1] * (weights.dim() - from_axis))
    return torch.where(weights > 0, most, 0.0)


def _rows(matrix: Tensor, roots: Tensor) -> Tensor:
    return (matrix * roots[:, None])[None]


def _columns(matrix: Tensor, rows: Tensor) -> Tensor:
    """1 for the columns that have an entry in one of the rows, 0 for the others."""
    return (matrix[rows] != 0).any(0).double()


def _adjoint(linear: Any, shape: tuple[int, ...], weights: Tensor) -> Tensor:
    with torch.enable_grad():
        x = torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(linear(x), x, weights[None])[0][0] * (1 + 1e-15 * (weights.numel() + 4))


def _square(x: Tensor) -> Tensor:
    return _times(x.abs(), x.abs())


def _times(a: Tensor, b: Tensor) -> Tensor:
    """a·b from above, for numbers of at least 0; above 0 where both are."""
    return torch.where((a > 0) & (b > 0), (a * b * UP).clamp_min(FLOOR), 0.0)


def _ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.float64)
