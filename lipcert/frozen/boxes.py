"""Interval propagation: a box that holds all logits for a box of images (Gowal et al., ICCV 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.frozen.arithmetic import FLOAT64, Arithmetic
from lipcert.frozen.lipschitz import Operations
from lipcert.frozen.operation import UP, Box
from lipcert.frozen.ops.affine import top
from lipcert.frozen.ops.linear import Linear


def all_boxes(network: Operations, low: Tensor, high: Tensor, arithmetic: Arithmetic) -> list[Box]:
    """Boxes (low, high) of the image and of every operation's value, for images low ≤ x ≤ high, (B, *shape) each."""
    boxes = [(low, high)]
    for operation in network.operations:
        boxes.append(operation.box(arithmetic, *(boxes[i] for i in operation.inputs)))
    return boxes


def box_of(network: Operations, low: Tensor, high: Tensor, arithmetic: Arithmetic, value: int) -> Box:
    """The box of one value. Boxes of values that nothing reads any more are freed on the way."""
    if value == 0:
        return low, high
    operations = network.operations[:value]
    last = {i: number for number, operation in enumerate(operations, 1) for i in operation.inputs}
    boxes = {0: (low, high)}
    for number, operation in enumerate(operations, 1):
        boxes[number] = operation.box(arithmetic, *(boxes[i] for i in operation.inputs))
        for i in set(operation.inputs):
            if last[i] == number:
                del boxes[i]
    return boxes[value]


def worst_margins(network: Operations, low: Tensor, high: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Tensor:
    """Lower bounds (B, K) of y_t − y_j for images low ≤ x ≤ high, (B, *shape) each; t is the label (B,); 0 at j = t.

    If the last operation is linear, the bounds are those of the differences of its rows, w_t − w_j, which are tighter
    than the box of its values. With `EXACT` arithmetic nothing is rounded outward and the result can be differentiated,
    for training.
    """
    head, last = network.operations[-1], len(network.operations)
    if isinstance(head, Linear) and head.weight.dim() == 2:
        low, high = box_of(network, low, high, arithmetic, head.inputs[0])
        margins = _joined_margins(head, low, high, labels, arithmetic)
    else:
        low, high = box_of(network, low, high, arithmetic, last)
        margins = low.gather(1, labels[:, None]) - high
        margins = margins - 2 * arithmetic.unit * margins.abs() - 4 * arithmetic.tiny
    return margins.scatter(1, labels[:, None], 0.0)


def _joined_margins(head: Linear, low: Tensor, high: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Tensor:
    weight = head.weight
    bias = weight.new_zeros(len(weight)) if head.bias is None else head.bias
    centre, radius = (low + high) / 2, (high - low) / 2
    if arithmetic.unit:
        radius = radius + 2 * arithmetic.tiny  # numbers that are flushed to zero
    rounds, here = (a.safety * a.gamma(weight.shape[1] + 6) for a in (arithmetic, FLOAT64))
    classes = [(t, (labels == t).nonzero()[:, 0]) for t in labels.unique().tolist()]
    parts = []
    for t, rows in classes:  # no (B, K, features) tensor
        difference = weight[t] - weight
        worst = F.linear(centre[rows], difference, bias[t] - bias) - F.linear(radius[rows], difference.abs())
        if arithmetic.unit:
            sizes = torch.maximum(low[rows].abs(), high[rows].abs()) + arithmetic.tiny
            reach = F.linear(sizes, weight[t].abs() + weight.abs()) + bias[t].abs() + bias.abs()
            below = 8 * (weight.shape[1] + 2) * arithmetic.tiny * (1 + top(sizes))
            worst = worst - (rounds + here) * reach * UP - below
        parts.append(worst)
    order = torch.cat([rows for _, rows in classes])
    return torch.cat(parts)[order.argsort()]
