"""Interval propagation for `lipcert verify`: margins of all images in a box, from below, in any arithmetic.

Every box holds what is exact and what a machine computes for the images in it: it is widened by the operation's own
rounding error (`rounded`) in that arithmetic, and in float64, in which it is computed here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.export.verify_bounds import moved
from lipcert.frozen import Network
from lipcert.frozen.arithmetic import FLOAT64, Arithmetic
from lipcert.frozen.operation import Operation, Ordering
from lipcert.frozen.ops.affine import Affine
from lipcert.frozen.ops.functions import FUNCTIONS
from lipcert.frozen.ops.linear import Linear

ENTRIES = 1 << 18  # of differences that are held at a time: more do not fit a processor's cache
Box = tuple[Tensor, Tensor]


def least_margins(network: Network, low: Tensor, high: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Tensor:
    """(B, K): y_t − y_i is at least this for all images low ≤ x ≤ high, (B, *shape) each; infinite at the label t."""
    boxes = [(low, high)]
    *body, head = network.operations
    joint = isinstance(head, Linear) and head.weight.dim() == 2
    for operation in body if joint else network.operations:
        boxes.append(box(operation, arithmetic, [boxes[i] for i in operation.inputs]))
    if joint:
        margins = _differences(head, *boxes[head.inputs[0]], labels, arithmetic)
    else:
        low, high = boxes[-1]
        margins = low.gather(1, labels[:, None]) - high
        margins = margins - 4 * FLOAT64.unit * margins.abs() - FLOAT64.tiny
    margins = margins.where(margins == margins, -math.inf)  # an infinite box says nothing
    return margins.scatter(1, labels[:, None], math.inf)


def box(operation: Any, arithmetic: Arithmetic, boxes: list[Box]) -> Box:
    """The box of an operation's value."""
    lows, highs = zip(*boxes, strict=True)
    largest = [torch.maximum(low.abs(), high.abs()) for low, high in boxes]
    if isinstance(operation, Ordering) or _increases(operation):
        low, high = operation.evaluate(*lows), operation.evaluate(*highs)
    elif isinstance(operation, Affine):
        ends = operation.evaluate(*lows), operation.evaluate(*highs)
        low, high = torch.minimum(*ends), torch.maximum(*ends)
    elif (found := _turning(operation, *boxes[0])) is not None:
        low, high = found
    elif getattr(operation, "p", None) == math.inf:
        nearest, low_, high_ = _nearest(operation, *boxes[0]), operation.evaluate(*lows), operation.evaluate(*highs)
        low, high = nearest, torch.maximum(low_, high_)
    else:  # centre and reach; `moved` is |W| for linear operations
        centres = [(low + high) / 2 for low, high in boxes]
        reach = moved(operation, *((high - low) / 2 * (1 + 4 * FLOAT64.unit) for low, high in boxes))
        middle = operation.evaluate(*centres)
        low, high = middle - reach, middle + reach
    size = torch.maximum(low.abs(), high.abs())
    wider = sum(operation.rounded(a, size, *largest) for a in (arithmetic, FLOAT64)) * 1.01 + 2 * arithmetic.tiny
    wider = wider + 4 * FLOAT64.unit * size
    low, high = low - wider, high + wider
    return low.nan_to_num(-math.inf, math.inf, -math.inf), high.nan_to_num(math.inf, math.inf, -math.inf)


def _increases(operation: Operation) -> bool:
    if operation.kind != "pointwise":
        return False
    function, parameters = FUNCTIONS[operation.function], operation.parameters  # type: ignore[attr-defined]
    return not function.periodic and not function.turns(*parameters)


def _turning(operation: Any, low: Tensor, high: Tensor) -> Box | None:
    """The box of an operation whose entries rise or fall between a few turning points; None for another one."""
    kind, ends = operation.kind, (low, high)
    if kind == "two_sided":  # the first half rises, the second falls
        (a, b), (c, d) = (operation.evaluate(end).chunk(2, operation.axis + 1) for end in ends)
        return torch.cat((a, d), operation.axis + 1), torch.cat((c, b), operation.axis + 1)
    if kind == "norm_pool":
        nearest, farthest = torch.maximum(low, -high).clamp_min(0), torch.maximum(low.abs(), high.abs())
        return operation.evaluate(nearest), operation.evaluate(farthest)
    if kind == "leaky_relu":
        turns: tuple[float, ...] = (0.0,)
    elif kind == "pointwise" and not FUNCTIONS[operation.function].periodic:
        turns = FUNCTIONS[operation.function].turns(*operation.parameters)
    else:
        return None
    values = [operation.evaluate(x) for x in (*ends, *(torch.full_like(low, t).clamp(low, high) for t in turns))]
    return torch.stack(values).amin(0), torch.stack(values).amax(0)


def _nearest(operation: Any, low: Tensor, high: Tensor) -> Tensor:
    """The least l_inf distance of a box to each point: how far the farthest coordinate lies outside."""
    if operation.kind == "distance":
        points = operation.weight
        parts = []
        for few in points.split(max(1, ENTRIES // (len(low) * points.shape[1]))):
            parts.append(torch.maximum(low[:, None] - few, few - high[:, None]).amax(2).clamp_min(0))
        return torch.cat(parts, 1)
    found: list[Tensor] = []
    geometry: dict[str, Any] = {
        "kernel_size": operation.weight.shape[2],
        "stride": operation.stride,
        "padding": operation.padding,
    }
    windows = [F.unfold(end, **geometry).unflatten(1, (operation.groups, -1)) for end in (low, high)]
    for filters, below, above in zip(
        operation.weight.chunk(operation.groups), *(w.unbind(1) for w in windows), strict=True
    ):
        for point in filters.flatten(1):
            point = point[:, None]
            found.append(torch.maximum(below - point, point - above).amax(1).clamp_min(0))
    return torch.stack(found, 1).view(len(low), *operation.shape)


def _differences(head: Any, low: Tensor, high: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Tensor:
    """The least (w_t − w_i)·z + b_t − b_i in a box of z, less the rounding errors of both logits."""
    centre, reach = (low + high) / 2, (high - low) / 2 * (1 + 4 * FLOAT64.unit) + 2 * arithmetic.tiny
    size = torch.maximum(low.abs(), high.abs()) + arithmetic.tiny
    value = F.linear(size, head.weight.abs()) + (0.0 if head.bias is None else head.bias.abs())
    lost = sum(head.rounded(a, value, size) for a in (arithmetic, FLOAT64)) * 1.01 + 2 * arithmetic.tiny
    margins = torch.empty_like(lost)
    for t in labels.unique().tolist():
        rows, difference = labels == t, head.weight[t] - head.weight
        offset = None if head.bias is None else head.bias[t] - head.bias
        margins[rows] = F.linear(centre[rows], difference, offset) - F.linear(reach[rows], difference.abs())
    return margins - lost.gather(1, labels[:, None]) - lost
