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
    pass_on,
)
from lipcert.models.headed import Headed
from lipcert.models.l2nnn_steps import Steps, convolved
from lipcert.models.sizes import check_sizes


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
        activation_t: str = "channel",
        subtract_mean: bool = False,
        pooling: str = "norm",
        pool_size: int = 2,
        pool_stride: int | None = None,
        divide: bool = True,
        gram: str = "smaller",
    ):
        check_sizes(channels=channels, kernel_size=kernel_size, width=width)
        check_sizes(0, depth=depth)
        steps = Steps(
            activation=activation,
            activation_t=activation_t,
            subtract_mean=subtract_mean,
            pooling=pooling,
            pool_size=pool_size,
            pool_stride=pool_stride,
        )
        steps.check(input_shape, len(channels) - 1)
        c, height, breadth = input_shape
        k = num_classes
        layers: list[nn.Module] = [Replicate(k)]
        for i, out in enumerate(channels):
            layers.append(
                NonexpansiveConv2d(
                    k * c,
                    k * out,
                    kernel_size,
                    padding=kernel_size // 2,
                    groups=k,
                    bias=steps.bias,
                    gram=gram,
                    divide=divide,
                )
            )
            height, breadth = convolved(kernel_size, height, breadth)
            step, c = steps.behind(k * out, height, breadth, groups=k)
            layers += step
            if i > 0:
                layers.append(steps.pool())
                height, breadth = steps.pooled(height, breadth)
        layers.append(FlattenBranches(k))
        inputs = c * height * breadth
        for _ in range(depth):
            layers.append(BranchLinear(k, inputs, width, steps.bias, gram))
            step, inputs = steps.behind(k, width)
            layers += step
        super().__init__(nn.Sequential(*layers), nn.Sequential(BranchLinear(k, inputs, 1, gram=gram), JoinBranches()))
        pass_on(self)
