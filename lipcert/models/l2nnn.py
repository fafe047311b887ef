"""L2-nonexpansive network: convolutions with norm-pooling if wanted, then linear layers (Qian & Wegman, ICLR 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from lipcert.layers import NonexpansiveConv2d, NonexpansiveLinear, UnitRowsLinear, nonlinearity, pass_on
from lipcert.layers import pooling as pooling_layer
from lipcert.models.headed import Headed


class L2NNN(Headed):
    """Per entry of `channels`: conv K×K (stride 1, same), nonlinearity, 2×2 pooling. Then `depth` times a linear map to
    `width` (null: 128, or as many as the image has pixels) and a nonlinearity. Then a head: `multi` has rows of norm 1
    (each logit 1-Lipschitz by itself; gap/2), single is one nonexpansive map of the vector (gap/√2).

    Sizes itself from (C, H, W); ValueError where the pooling leaves nothing.
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
        features, height, breadth = input_shape
        width = width or min(128, math.prod(input_shape))
        layers: list[nn.Module] = []
        for out in channels:
            padding = kernel_size // 2
            layers.append(NonexpansiveConv2d(features, out, kernel_size, padding=padding, gram=gram, divide=divide))
            step, features = nonlinearity(activation, out)
            layers += [step, pooling_layer(pooling, 2)]
            height, breadth = height // 2, breadth // 2
        if min(height, breadth) < 1:
            raise ValueError(
                f"`model.channels` halves the image {len(channels)} times, which {tuple(input_shape)} does "
                "not survive; give fewer channels"
            )
        layers.append(nn.Flatten())
        features *= height * breadth
        for _ in range(depth):
            layers.append(NonexpansiveLinear(features, width, gram=gram))
            step, features = nonlinearity(activation, width)
            layers.append(step)
        last = UnitRowsLinear if multi else NonexpansiveLinear
        super().__init__(nn.Sequential(*layers), last(features, num_classes, gram=gram))
        pass_on(self)
