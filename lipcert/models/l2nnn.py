"""L2-nonexpansive network: optional convolutions with norm-pooling, then linear layers (Qian & Wegman, ICLR 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from lipcert.layers import NonexpansiveConv2d, NonexpansiveLinear, UnitRowsLinear, pass_on
from lipcert.models.headed import Headed
from lipcert.models.l2nnn_steps import Steps, convolved
from lipcert.models.sizes import check_sizes


class L2NNN(Headed):
    """For each entry of `channels` a K×K convolution (stride 1, same size), a nonlinearity and 2×2 pooling; then
    `depth` times a linear map to `width` (null: 128, or the number of pixels if that is smaller) and a nonlinearity;
    then a head.

    With `multi` the head's rows have norm 1, so that each logit is 1-Lipschitz by itself (certified radius: gap/2);
    otherwise it is one nonexpansive map (gap/√2). Raises ValueError where the pooling leaves nothing of the image.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (),
        kernel_size: int = 5,
        depth: int = 16,
        width: int | None = None,
        activation: str = "two_sided_relu",
        activation_t: str = "channel",
        subtract_mean: bool = False,
        pooling: str = "norm",
        pool_size: int = 2,
        pool_stride: int | None = None,
        multi: bool = True,
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
        steps.check(input_shape, len(channels))
        features, height, breadth = input_shape
        width = width or min(128, math.prod(input_shape))
        layers: list[nn.Module] = []
        for out in channels:
            padding = kernel_size // 2
            layers.append(
                NonexpansiveConv2d(
                    features, out, kernel_size, padding=padding, bias=steps.bias, gram=gram, divide=divide
                )
            )
            height, breadth = convolved(kernel_size, height, breadth)
            step, features = steps.behind(out, height, breadth)
            layers += [*step, steps.pool()]
            height, breadth = steps.pooled(height, breadth)
        layers.append(nn.Flatten())
        features *= height * breadth
        for _ in range(depth):
            layers.append(NonexpansiveLinear(features, width, steps.bias, gram))
            step, features = steps.behind(width)
            layers += step
        last = UnitRowsLinear if multi else NonexpansiveLinear
        super().__init__(nn.Sequential(*layers), last(features, num_classes, gram=gram))
        pass_on(self)
