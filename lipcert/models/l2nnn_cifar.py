"""The CIFAR-10 network of the paper: one separate network a class, nothing shared, run as one grouped network."""

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
from lipcert.models.headed import Headed


class L2NNNCifar(Headed):
    """Per class: 3 convolutions (norm-pooling behind the second and third), `depth` linear layers, one logit.

    22 weight layers with the defaults; the paper feeds it 28×28 crops. Each logit is 1-Lipschitz by itself (gap/2).
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
        if min(height, breadth) < 1:
            raise ValueError(
                f"`model.channels` halves the image {len(channels) - 1} times, which {tuple(input_shape)} "
                "does not survive; give fewer channels"
            )
        layers.append(FlattenBranches(k))
        inputs = c * height * breadth
        for _ in range(depth):
            layers.append(BranchLinear(k, inputs, width, gram=gram))
            step, inputs = nonlinearity(activation, width, dim=2)
            layers.append(step)
        super().__init__(nn.Sequential(*layers), nn.Sequential(BranchLinear(k, inputs, 1, gram=gram), JoinBranches()))
        pass_on(self)
