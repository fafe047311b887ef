"""Interval propagation: the box of everything that a network can answer to a box of images (Gowal et al., ICCV 2019).

A layer of ours brings its rule as a method `interval(low, high, unit)`; torch's own modules have theirs below. An
unknown module is an error that names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.layers.intervals import affine, outward

Box = tuple[Tensor, Tensor]


def propagate(module: nn.Module, low: Tensor, high: Tensor, unit: float = 0.0, name: str = "") -> Box:
    """The box (low, high) of `module`'s outputs, (B, ...), over low ≤ x ≤ high.

    `unit` is the arithmetic's unit roundoff (2⁻⁵³ for float64): the box is rounded outward by what was rounded on the
    way. 0 rounds nothing outward: for training. Differentiable where the layers' rules are.
    """
    own: Any = getattr(module, "interval", None)
    if own is not None:
        order = type(module).__mro__
        forward, interval = (next(i for i, c in enumerate(order) if m in vars(c)) for m in ("forward", "interval"))
        if forward < interval:
            kind = type(module).__name__
            raise ValueError(f"`{name or 'model'}`: {kind} has a `forward` of its own, so it needs its own `interval`")
        return own(low, high, unit)
    rule = RULES.get(type(module))
    if rule is None:
        hint = "give it a method `interval(low, high, unit)`"
        raise ValueError(f"`{name or 'model'}`: no interval rule for {type(module).__name__}; {hint}")
    return rule(module, low, high, unit, name)


def worst_margins(
    features: nn.Module, head: nn.Module, low: Tensor, high: Tensor, labels: Tensor, unit: float = 0.0
) -> Tensor:
    """Lower bounds (B, K) of y_t − y_j over the box, y = head(features(x)) and t the label; 0 at j = t.

    A linear head is joined with the difference of its rows w_t − w_j, which is tighter than the box of its outputs.
    """
    low, high = propagate(features, low, high, unit, "features")
    if not (type(head) is nn.Linear or hasattr(head, "constrained_weight")):
        low, high = propagate(head, low, high, unit, "head")
        own = low.gather(1, labels[:, None])
        margins = own - high
        margins = margins - 2 * unit * margins.abs()
    else:
        margins = _joined_margins(head, low, high, labels, unit)
    return margins.scatter(1, labels[:, None], 0.0)


def _joined_margins(head: Any, low: Tensor, high: Tensor, labels: Tensor, unit: float) -> Tensor:
    weight = head.constrained_weight() if hasattr(head, "constrained_weight") else head.weight
    bias = weight.new_zeros(len(weight)) if head.bias is None else head.bias
    centre, radius = (low + high) / 2, (high - low) / 2
    classes = [(t, (labels == t).nonzero()[:, 0]) for t in labels.unique().tolist()]
    parts = []
    for t, rows in classes:  # no (B, K, features) tensor
        difference = weight[t] - weight
        worst = F.linear(centre[rows], difference, bias[t] - bias) - F.linear(radius[rows], difference.abs())
        if unit:
            n = weight.shape[1]
            size = F.linear(torch.maximum(low[rows].abs(), high[rows].abs()), weight[t].abs() + weight.abs())
            worst = worst - 16 * (n + 6) * unit * (size + bias[t].abs() + bias.abs())
        parts.append(worst)
    order = torch.cat([rows for _, rows in classes])
    return torch.cat(parts)[order.argsort()]


def _sequential(module: Any, low: Tensor, high: Tensor, unit: float, name: str) -> Box:
    for key, child in module.named_children():
        low, high = propagate(child, low, high, unit, f"{name}.{key}" if name else key)
    return low, high


def _monotone(module: Any, low: Tensor, high: Tensor, unit: float, name: str) -> Box:
    """Nondecreasing entry by entry, and exact."""
    return module(low), module(high)


def _tanh(module: Any, low: Tensor, high: Tensor, unit: float, name: str) -> Box:
    return outward(module(low), module(high), 4 * unit)


def _linear(module: Any, low: Tensor, high: Tensor, unit: float, name: str) -> Box:
    weight = module.weight.abs()
    return affine(low, high, module, lambda r: F.linear(r, weight), unit, module.in_features)


def _convolution(module: Any, low: Tensor, high: Tensor, unit: float, name: str) -> Box:
    if module.padding_mode != "zeros":
        raise ValueError(f"`{name}`: only zero-padded convolutions have an interval rule")
    weight, geometry = module.weight.abs(), (module.stride, module.padding, module.dilation, module.groups)
    roundings = math.prod(weight.shape[1:])
    return affine(low, high, module, lambda r: F.conv2d(r, weight, None, *geometry), unit, roundings)


RULES: dict[type[nn.Module], Callable[[Any, Tensor, Tensor, float, str], Box]] = {
    nn.Sequential: _sequential,
    nn.Identity: _monotone,
    nn.ReLU: _monotone,
    nn.Flatten: _monotone,
    nn.MaxPool2d: _monotone,
    nn.Tanh: _tanh,
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
}
