"""L2-nonexpansive network: optional convolutions with norm-pooling, then linear layers (Qian & Wegman, ICLR 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from lipcert.layers import NonexpansiveConv2d, NonexpansiveLinear, UnitRowsLinear, nonlinearity, pass_on
from lipcert.layers import pooling as pooling_layer
from lipcert.models.headed import Headed, check_halvings


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
        pooling: str = "norm",
        multi: bool = True,
        divide: bool = True,
        gram: str = "smaller",
    ):
        check_halvings(input_shape, len(channels))
        features, height, breadth = input_shape
        width = width or min(128, math.prod(input_shape))
        layers: list[nn.Module] = []
        for out in channels:
            padding = kernel_size // 2
            layers.append(NonexpansiveConv2d(features, out, kernel_size, padding=padding, gram=gram, divide=divide))
            step, features = nonlinearity(activation, out)
            layers += [step, pooling_layer(pooling, 2)]
            height, breadth = height // 2, breadth // 2
        layers.append(nn.Flatten())
        features *= height * breadth
        for _ in range(depth):
            layers.append(NonexpansiveLinear(features, width, gram=gram))
            step, features = nonlinearity(activation, width)
            layers.append(step)
        last = UnitRowsLinear if multi else NonexpansiveLinear
        super().__init__(nn.Sequential(*layers), last(features, num_classes, gram=gram))
        pass_on(self)
