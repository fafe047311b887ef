"""A classifier of planes, to whose boundary the distance is known exactly, and images around it."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from lipcert.contracts import Norm

DUAL = {Norm.L1: math.inf, Norm.L2: 2, Norm.LINF: 1}


class Linear(nn.Module):
    """`classes` planes around the middle of the box."""

    def __init__(self, classes: int = 3, scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        weight = torch.randn(classes, 16, dtype=torch.float64)
        self.linear = nn.Linear(16, classes)
        self.linear.weight.data = (scale * weight).float()
        self.linear.bias.data = (-scale * weight.sum(1) / 2).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


def problem(model: Linear, n: int = 12, seed: int = 1) -> tuple[Linear, Tensor, Tensor, Tensor]:
    """The float64 model, n uint8 images, the same in [0, 1] float64, and the model's own answers as labels.

    Only images whose distance is far above the step of an attack, and below their distance to the box: no constraint
    blocks the shortest way.
    """
    exact = deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(77, 179, (40 * n, 1, 4, 4), dtype=torch.uint8, generator=generator)
    least = exact_distance(exact, images.double() / 255, exact(images.double() / 255).argmax(1), Norm.L2)
    images = images[(least > 0.1) & (least < 0.3)][:n]
    assert len(images) == n
    x = images.double() / 255
    return exact, images, x, exact(x).argmax(1)


def exact_distance(model: Linear, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """min over i of margin_i / ||w_y - w_i||, in the dual norm."""
    weight, logits = model.linear.weight.detach(), model(x).detach()
    gap = logits.gather(1, y[:, None]) - logits
    dual = (weight[y][:, None] - weight[None]).norm(p=DUAL[norm], dim=2)
    return torch.where(gap > 0, gap / dual, torch.inf).amin(1)
