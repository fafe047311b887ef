"""The ResNeXt with 34 layers of TULIP (Finlay, Oberman & Abbasi, 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lipcert.models.headed import Headed
from lipcert.models.tulip import check_width, convolution, linear, squashed


class BranchMean(nn.Module):
    """(B, branches·C, H, W) to (B, C, H, W): the mean over the branches."""

    def __init__(self, branches: int):
        super().__init__()
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.branches, -1)).mean(1)


class Block(nn.Module):
    """x ↦ relu(mean of the branches + x); each branch is two 3×3 convolutions with a ReLU between them."""

    def __init__(self, channels: int, branches: int):
        super().__init__()
        wide = branches * channels
        self.branches = nn.Sequential(
            *convolution(channels, wide, 3), *convolution(wide, wide, 3, groups=branches, relu=False)
        )
        if branches > 1:
            self.branches.append(BranchMean(branches))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.branches(x) + x)


class TulipResNeXt(Headed):
    """A 3×3 convolution; three stages of (depth − 4)/6 blocks with `width`, 2·`width` and 4·`width` channels, between
    which are a 1×1 convolution and 2×2 average pooling; the mean over all positions; a linear layer. The published
    networks have branches of width 32: 2 for CIFAR-10, 4 for CIFAR-100.

    `head_normalisation` adds batch normalisation to the linear layer, and `tanh` appends t·tanh(z/t).
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        depth: int = 34,
        width: int = 32,
        branches: int = 2,
        tanh: bool = False,
        head_normalisation: bool = False,
    ):
        check_width(width)
        blocks = (depth - 4) // 6
        if depth != 6 * blocks + 4 or blocks < 1:
            raise ValueError(f"`model.depth` must be 6n + 4, such as 10 or 34, got {depth}")
        if branches < 1:
            raise ValueError(f"`model.branches` must be at least 1, got {branches}")
        if min(input_shape[1:]) < 4:
            raise ValueError(f"`model` halves the image twice, which must be at least 4×4, got {tuple(input_shape)}")
        layers = convolution(input_shape[0], width, 3)
        for stage, channels in enumerate((width, 2 * width, 4 * width)):
            if stage:
                layers += [*convolution(channels // 2, channels, 1), nn.AvgPool2d(2)]
            layers += [Block(channels, branches) for _ in range(blocks)]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        head = squashed(linear(4 * width, num_classes, head_normalisation), num_classes, tanh)
        super().__init__(nn.Sequential(*layers), head)
