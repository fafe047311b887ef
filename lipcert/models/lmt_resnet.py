"""The wide residual network (WRN-16-4) of Lipschitz-margin training (LMT), as its authors built it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.models.headed import Headed
from lipcert.models.sizes import check_sizes


def convolution(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)


def normalisation(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=2e-5)


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Block(nn.Module):
    """(x, z) ↦ (x', z'), where z is the normalised x: x' = conv(dropout(relu(BN(conv(z))))) + shortcut, z' =
    relu(BN(x')). The shortcut is x, or a 1×1 convolution of z where the width or the stride changes.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, dropout: float, average: bool, conv: Any, join: nn.Module
    ):
        super().__init__()
        self.first = nn.Sequential(
            conv(inputs, outputs, 3, stride, 1), normalisation(outputs), nn.ReLU(), nn.Dropout(dropout)
        )
        self.second = conv(outputs, outputs, 3, 1, 1)
        self.shortcut: nn.Module | None = None
        if inputs != outputs or stride > 1:
            pool = average and stride > 1
            self.shortcut = conv(inputs, outputs, 1, 1 if pool else stride, 0)
            if pool:
                self.shortcut = nn.Sequential(nn.AvgPool2d(stride), self.shortcut)
        self.join = join
        self.normalised = nn.Sequential(normalisation(outputs), nn.ReLU())

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        x = self.join(self.second(self.first(z)), x if self.shortcut is None else self.shortcut(z))
        return x, self.normalised(x)


class Trunk(nn.Module):
    """The stem, the blocks, and the mean over all positions. As in the authors' code, the stem has no ReLU."""

    def __init__(self, stem: nn.Module, blocks: Sequence[Block]):
        super().__init__()
        self.stem, self.blocks = stem, nn.ModuleList(blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.stem(x)
        x = z
        for block in self.blocks:
            x, z = block(x, z)
        return torch.flatten(self.pool(z), 1)


class LMTResNet(Headed):
    """Three groups of (depth − 4)/6 blocks with 16·width, 32·width and 64·width channels; the image is halved before
    the second and the third. Convolutions have no biases and start He-normal. With `average_shortcut`, average pooling
    of norm 1/2 halves the image in a shortcut instead of a stride (the paper's variant for a larger c).
    """

    conv: Any = staticmethod(convolution)  # the network's parts, which subclasses replace
    join: Any = Sum

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        depth: int = 16,
        width: int = 4,
        dropout: float = 0.4,
        average_shortcut: bool = False,
    ):
        blocks = (depth - 4) // 6
        if depth != 6 * blocks + 4 or blocks < 1:
            raise ValueError(f"`model.depth` must be 6n + 4, such as 10 or 16, got {depth}")
        check_sizes(width=width)
        if not 0 <= dropout < 1:
            raise ValueError(f"`model.dropout` must lie in [0, 1), got {dropout}")
        channels, layers = 16, []
        for group, stride in enumerate((1, 2, 2)):
            for _ in range(blocks):
                outputs = 16 * width * 2**group
                layers.append(Block(channels, outputs, stride, dropout, average_shortcut, self.conv, self.join()))
                channels, stride = outputs, 1
        stem = nn.Sequential(self.conv(input_shape[0], 16, 3, 1, 1), normalisation(16))
        head = nn.Linear(channels, num_classes)
        super().__init__(Trunk(stem, layers), head)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.kaiming_normal_(head.weight, nonlinearity="linear")
        nn.init.zeros_(head.bias)
