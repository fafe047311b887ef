"""A pre-activation ResNet-20 of nonexpansive blocks, with a sound bound (L2NNN, A.3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.layers import GlobalNormPool2d, NonexpansiveConv2d, Residual, UnitRowsLinear, nonlinearity
from lipcert.models.headed import Headed, check_halvings


class L2NNNResNet(Headed):
    """A 3×3 convolution; stages of `blocks` residual blocks, between which the image is halved; norm-pooling over all
    positions; a linear layer with rows of norm 1.

    It is the poster's network with a valid bound: the split is scaled as well as the merge (eq. 9), and an entry counts
    ⌈K/S⌉ times along an axis. It is trained with the L2NNN loss.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (16, 32, 64),
        blocks: Sequence[int] = (3, 3, 3),
        t: float = 0.5**0.5,
        per_channel: bool = False,
        activation: str = "two_sided_relu",
        divide: bool = True,
        gram: str = "smaller",
    ):
        if len(channels) != len(blocks):
            given = f"{len(channels)} and {len(blocks)}"
            raise ValueError(f"`model.channels` and `model.blocks` must have one entry per stage, got {given}")
        check_halvings(input_shape, len(channels) - 1, "stages")

        def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> NonexpansiveConv2d:
            return NonexpansiveConv2d(
                inputs, outputs, kernel, stride, kernel // 2, bias=False, gram=gram, divide=divide
            )

        def block(inputs: int, outputs: int, stride: int) -> Residual:
            enter, widened = nonlinearity(activation, inputs)
            inner, middle = nonlinearity(activation, outputs)
            body = nn.Sequential(enter, conv(widened, outputs, 3, stride), inner, conv(middle, outputs, 3))
            shortcut = None
            if stride > 1 or inputs != outputs:
                first, widened = nonlinearity(activation, inputs)
                shortcut = nn.Sequential(first, conv(widened, outputs, 1, stride))
            return Residual(body, shortcut, t, *((inputs, outputs) if per_channel else ()))

        width = channels[0]
        layers: list[nn.Module] = [conv(input_shape[0], width, 3)]
        for stage, (outputs, count) in enumerate(zip(channels, blocks, strict=True)):
            for i in range(count):
                layers.append(block(width, outputs, 2 if stage and not i else 1))
                width = outputs
        last, width = nonlinearity(activation, width)
        layers += [last, GlobalNormPool2d()]
        super().__init__(nn.Sequential(*layers), UnitRowsLinear(width, num_classes, gram=gram))
