"""Parts of the three networks of TULIP (Finlay, Oberman & Abbasi, 2018): convolutions and last layers.

All weights start uniform within ±1/√(fan-in), torch's default.
"""

from __future__ import annotations

import math

from torch import nn

from lipcert.layers import ScaledTanh


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    relu: bool = True,
    trained_scale: bool = False,
) -> list[nn.Module]:
    """A convolution without bias, batch normalisation, and a ReLU if `relu`: (B, inputs, H, W) to (B, outputs, H', W').

    The scale of the normalisation stays 1, as in the authors' later code, unless `trained_scale`.
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    normalisation = nn.BatchNorm2d(outputs)
    normalisation.weight.requires_grad_(trained_scale)
    nn.init.uniform_(normalisation.bias, *_start(conv.weight[0].numel()))
    return [conv, normalisation, *([nn.ReLU()] if relu else [])]


def linear(inputs: int, outputs: int, normalised: bool, relu: bool = False) -> nn.Module:
    """The last layer, (B, inputs) to (B, outputs); if `normalised`, with batch normalisation as in `convolution`, and
    if `relu`, with no logit below 0."""
    after: list[nn.Module] = [nn.ReLU()] if relu else []
    if not normalised:
        layer = nn.Linear(inputs, outputs)
        return nn.Sequential(layer, *after) if relu else layer
    normalisation = nn.BatchNorm1d(outputs)
    normalisation.weight.requires_grad_(False)
    nn.init.uniform_(normalisation.bias, *_start(inputs))
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), normalisation, *after)


def squashed(head: nn.Module, classes: int, tanh: bool) -> nn.Module:
    """`head`; with `tanh`, its logits are then standardised and limited to ±t by t·tanh(z/t) (appendix A.1)."""
    return nn.Sequential(head, nn.BatchNorm1d(classes, affine=False), ScaledTanh()) if tanh else head


def _start(fan_in: int) -> tuple[float, float]:
    return -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)
