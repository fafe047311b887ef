"""The ResNeXt with 34 layers of TULIP (Finlay, Oberman & Abbasi, 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from lipcert.models.headed import Headed
from lipcert.models.sizes import check_sizes
from lipcert.models.tulip import convolution, linear, squashed


class BranchMean(nn.Module):
    """(B, branches·C, H, W) to (B, C, H, W): the mean over the branches."""

    def __init__(self, branches: int):
        super().__init__()
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.branches, -1)).mean(1)


class Block(nn.Module):
    """x ↦ relu(mean of the branches + x); each branch is two 3×3 convolutions with a ReLU between them."""

    def __init__(self, channels: int, branches: int, trained_scale: bool = False):
        super().__init__()
        wide = branches * channels
        self.branches = nn.Sequential(
            *convolution(channels, wide, 3, trained_scale=trained_scale),
            *convolution(wide, wide, 3, groups=branches, relu=False, trained_scale=trained_scale),
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

    pooling             "before_blocks": behind the 1×1 convolution, as in the authors' later code; "after_first_block":
                        behind the first block of the second and of the third stage, as in their first code
    trained_scale       the scales of the blocks' batch normalisations are trained, as in the authors' first code
    head_normalisation  adds batch normalisation to the linear layer
    head_relu           adds a ReLU to the linear layer, as the authors' later code has it
    tanh                appends t·tanh(z/t)

    Raises ValueError for a width, a depth or branches that there are not, and for images below 4×4.
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
        head_relu: bool = False,
        pooling: Literal["before_blocks", "after_first_block"] = "before_blocks",
        trained_scale: bool = False,
    ):
        check_sizes(width=width, branches=branches)
        if pooling not in ("before_blocks", "after_first_block"):
            raise ValueError(f"`model.pooling` must be before_blocks or after_first_block, got {pooling!r}")
        blocks = (depth - 4) // 6
        if depth != 6 * blocks + 4 or blocks < 1:
            raise ValueError(f"`model.depth` must be 6n + 4, such as 10 or 34, got {depth}")
        if min(input_shape[1:]) < 4:
            raise ValueError(f"`model` halves the image twice, which must be at least 4×4, got {tuple(input_shape)}")
        layers = convolution(input_shape[0], width, 3)
        for stage, channels in enumerate((width, 2 * width, 4 * width)):
            layers += convolution(channels // 2, channels, 1) if stage else []
            own: list[nn.Module] = [Block(channels, branches, trained_scale) for _ in range(blocks)]
            if stage:
                own.insert(1 if pooling == "after_first_block" else 0, nn.AvgPool2d(2))
            layers += own
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        head = squashed(linear(4 * width, num_classes, head_normalisation, head_relu), num_classes, tanh)
        super().__init__(nn.Sequential(*layers), head)
