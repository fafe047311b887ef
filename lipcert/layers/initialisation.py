"""The initial weights of a deep nonexpansive network, chosen so that its depth preserves distances."""

from __future__ import annotations

import torch
from torch import nn

from lipcert.layers.branches import BranchLinear
from lipcert.layers.nonexpansive import NonexpansiveLinear
from lipcert.layers.two_sided import TwoSidedReLU


def pass_on(model: nn.Module, noise: float = 1e-2) -> None:
    """Initialises every (d, 2d) linear map after a two-sided ReLU as [I, 0] + N(0, noise²/2d).

    After the first such map, a non-negative vector passes through unchanged. An orthogonal start would multiply
    distances by 1/√2 in each layer, which leaves 1.4e-3 of them after 19 layers.
    """
    behind = False
    for module in model.modules():
        if isinstance(module, NonexpansiveLinear | BranchLinear):
            *_, out, inputs = module.weight.shape
            if behind and inputs == 2 * out:
                with torch.no_grad():
                    module.weight.normal_(std=noise / inputs**0.5)
                    module.weight[..., :out] += torch.eye(out)
        if not isinstance(module, nn.Dropout):
            behind = isinstance(module, TwoSidedReLU) and module.sides == 2
