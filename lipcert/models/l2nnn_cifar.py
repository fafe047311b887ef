"""The CIFAR-10 network of L2NNN: a separate network for each class, all run as one grouped network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.layers import (
    BranchLinear,
    FlattenBranches,
    JoinBranches,
    NonexpansiveConv2d,
    Replicate,
    nonlinearity,
    pass_on,
)
from lipcert.layers import pooling as pooling_layer
from lipcert.models.headed import Headed, check_halvings


class L2NNNCifar(Headed):
    """For each class 3 convolutions (norm-pooling after the second and the third), `depth` linear layers and one logit.

    The defaults give 22 weight layers; in the paper its inputs are 28×28 crops. Each logit is 1-Lipschitz by itself
    (certified radius: gap/2).
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (32, 32, 64),
        kernel_size: int = 5,
        depth: int = 18,
        width: int = 128,
        activation: str = "two_sided_relu",
        pooling: str = "norm",
        divide: bool = True,
        gram: str = "smaller",
    ):
        check_halvings(input_shape, len(channels) - 1)
        c, height, breadth = input_shape
        k = num_classes
        layers: list[nn.Module] = [Replicate(k)]
        for i, out in enumerate(channels):
            layers.append(
                NonexpansiveConv2d(
                    k * c, k * out, kernel_size, padding=kernel_size // 2, groups=k, gram=gram, divide=divide
                )
            )
            step, c = nonlinearity(activation, out, groups=k)
            layers.append(step)
            if i > 0:
                layers.append(pooling_layer(pooling, 2))
                height, breadth = height // 2, breadth // 2
        layers.append(FlattenBranches(k))
        inputs = c * height * breadth
        for _ in range(depth):
            layers.append(BranchLinear(k, inputs, width, gram=gram))
            step, inputs = nonlinearity(activation, width, dim=2)
            layers.append(step)
        super().__init__(nn.Sequential(*layers), nn.Sequential(BranchLinear(k, inputs, 1, gram=gram), JoinBranches()))
        pass_on(self)
