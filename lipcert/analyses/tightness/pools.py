"""Pooling and averaging layers: their l2 gains by several bounds, beside what is reached (LMT's Figure 3, pooling)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.contracts import Norm
from lipcert.errors import CertificateBroken
from lipcert.frozen.lipschitz import Operations, Walk
from lipcert.frozen.operation import UP, Operation, Shape
from lipcert.frozen.ops.linear import AlongAxis
from lipcert.frozen.ops.pooling import AdaptiveMaxPool, MaxPool, NormPool

SIDE = 2  # of the windows in the figure's panel
ROUNDING = 1e-9  # relative


class Plan(NamedTuple):
    """Operations on images of `shape` that are no network of a run."""

    shape: Shape
    operations: tuple[Operation, ...]


class _Windows(NamedTuple):
    """What bounds are computed from, of pooling whose every output is `gain`-Lipschitz on its window.

    n          the largest number of windows that share an entry
    taps       entries of the largest window, and at least n
    gain       of one output on its window, in l2
    frobenius  the l2 norm of all gains of one channel together
    """

    n: int
    taps: int
    gain: float
    frobenius: float


def pools_in(network: Operations) -> list[tuple[int, int]]:
    """The pooling and averaging layers of a network, as the numbers of their first and last operations.

    An average is a matrix along each of its axes: such operations of one module are one layer.
    """
    found: list[tuple[int, int]] = []
    for number, operation in enumerate(network.operations, 1):
        if isinstance(operation, MaxPool | AdaptiveMaxPool | NormPool):
            found.append((number, number))
        elif isinstance(operation, AlongAxis):
            first, last = found[-1] if found else (0, 0)
            whole = network.operations[first - 1 : last] if found else ()
            if found and operation.inputs == (last,) and last == number - 1 and _continues(whole, operation):
                found[-1] = (first, number)
            else:
                found.append((number, number))
    return found


def pool_bounds(network: Operations, first: int, last: int) -> dict[str, float]:
    """The l2 gain of the layer of operations `first` to `last`, over pairs of inputs, by each bound.

    proved      by the rules that proofs use
    corollary1  √n·gain (Tsuzuku et al., NeurIPS 2018, Theorem 3): n windows share an entry
    parseval    √taps·gain: the same with as many windows as a window has entries, whatever the stride
    peck        the Frobenius norm of the gains of one channel
    reached     from below: the largest of the gains between pairs of inputs that are tried, no bound

    Raises CertificateBroken where more is reached than is proved.
    """
    operations = network.operations[first - 1 : last]
    source = operations[0].inputs[0]
    shape = network.operations[source - 1].shape if source else network.shape
    parts = [
        _windows(operation, shape if i == 0 else operations[i - 1].shape) for i, operation in enumerate(operations)
    ]
    proved = Walk(network, Norm.L2).relative(source).constant(last)
    reached = _reached(operations, shape)
    if not reached <= proved * (1 + ROUNDING):
        name = operations[0].name or operations[0].kind
        raise CertificateBroken(f"`{name}` moves {reached!r} times as far as its input, above the {proved!r} proved")
    return {
        "proved": proved,
        "corollary1": math.prod(math.sqrt(part.n) * part.gain * UP for part in parts),
        "parseval": math.prod(math.sqrt(part.taps) * part.gain * UP for part in parts),
        "peck": math.prod(part.frobenius * UP for part in parts),
        "reached": reached,
    }


def panel(shape: Shape) -> list[dict[str, Any]]:
    """The rows of the figure's panel: maxima and averages of windows of 2×2, without overlap, over images of `shape`.

    shape  (C, H, W) of the images; no rows for another rank, or a side of less than 2 pixels

    Each row has a name (`layer`) and the keys of `pool_bounds`. No trained number is in them. Which images the paper's
    panel is of is not stated in our copy; its networks have no such pooling themselves.
    """
    if len(shape) != 3 or min(shape[1:]) < SIDE:
        return []
    channels, *sides = shape
    half = tuple(n // SIDE for n in sides)
    twice, once, none = (SIDE, SIDE), (1, 1), (0, 0)
    largest = MaxPool(
        inputs=(0,),
        shape=(channels, *half),
        kernel=twice,
        stride=twice,
        padding=none,
        dilation=once,
        ceil_mode=False,
    )
    down, across = (F.avg_pool1d(torch.eye(n, dtype=torch.float64)[:, None], SIDE)[:, 0].T.contiguous() for n in sides)
    average = (
        AlongAxis(inputs=(0,), shape=(channels, half[0], sides[1]), matrix=down, axis=1),
        AlongAxis(inputs=(1,), shape=(channels, *half), matrix=across, axis=2),
    )
    return [
        {"layer": f"{name} of {SIDE}×{SIDE}", **pool_bounds(Plan(shape, operations), 1, len(operations))}
        for name, operations in (("maximum", (largest,)), ("average", average))
    ]


def _continues(whole: Sequence[Operation], operation: AlongAxis) -> bool:
    """Whether an average goes on along another axis."""
    return all(
        isinstance(one, AlongAxis) and one.name == operation.name and one.axis != operation.axis for one in whole
    )


def _windows(operation: Operation, shape: Shape) -> _Windows:
    """Of one operation on a value of `shape`."""
    if isinstance(operation, AlongAxis):
        matrix = operation.matrix.double()
        n, taps = (int((matrix != 0).sum(axis).max()) for axis in (0, 1))
        return _Windows(n, max(taps, n), float(matrix.norm(dim=1).max()), float(matrix.norm()))
    assert isinstance(operation, MaxPool | AdaptiveMaxPool | NormPool)
    seen = operation.windows(shape[1:])
    n = math.prod(int(mask.sum(0).max()) for mask in seen)
    taps = math.prod(int(mask.sum(1).max()) for mask in seen)
    if not isinstance(operation, AdaptiveMaxPool):
        taps = math.prod(operation.kernel)  # as padding counts too
    gain = 1 / math.sqrt(operation.divisor) if isinstance(operation, NormPool) else 1.0
    return _Windows(n, max(taps, n), gain, gain * math.sqrt(math.prod(operation.shape[1:])))


def _reached(operations: Sequence[Operation], shape: Shape) -> float:
    """The larger of two gains, of an entry that most windows share and of all entries, each from 1 to 2."""
    at = [0] * len(shape)
    for operation in operations:
        if isinstance(operation, AlongAxis):
            at[operation.axis] = int((operation.matrix != 0).sum(0).argmax())
        elif isinstance(operation, MaxPool | AdaptiveMaxPool | NormPool):
            at[1:] = [int(mask.sum(0).argmax()) for mask in operation.windows(shape[1:])]
    one = torch.zeros(shape, dtype=torch.float64)
    one[tuple(at)] = 1.0
    steps = torch.stack([one, torch.ones(shape, dtype=torch.float64)])
    near, far = _through(operations, steps), _through(operations, 2 * steps)
    return float(((far - near).flatten(1).norm(dim=1) / steps.flatten(1).norm(dim=1)).max())


def _through(operations: Sequence[Operation], x: Tensor) -> Tensor:
    for operation in operations:
        x = operation.evaluate(x)
    return x
